"""Attachments: those that can be read are in the package as they are; of the others it says which, and why."""

import hashlib
import io
import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from service.backends import attachments
from service.backends.attachments import AttachmentStore, open_attachment_stores
from service.backends.database import Pool
from service.documents.datasets import Dataset
from service.documents.file_counts import FaultKind
from service.documents.package import attachments as found_attachments
from service.documents.package.contents import package_chunks
from service.errors import ExportTooLargeError, OutageError
from service.file_stores import FileStore
from service.settings import Settings, from_env
from tests.documents.package.reading import read_manifest, read_page, unpack
from tests.documents.package.test_contents import PROFILE
from tests.sql.sources import load
from tests.support.documents import open_package, read_chunks
from tests.support.factories import Connection, create_user
from tests.support.scripted_s3 import (
    Answer,
    ScriptedStore,
    breaking_off,
    hanging,
    hanging_body,
    open_scripted_store,
    refusing,
    whole,
)
from tests.test_settings import REQUIRED

PHOTOS = """-- title: Photos
-- file: key from uploads as name
SELECT n, key, name FROM public.photos WHERE user_id = $1 ORDER BY n"""
PREFIX = "photos/"
CONTENT = b"\xff\xd8 a picture of a cat " * 100
IMPATIENCE = 0.5


@pytest.fixture
async def s3() -> AsyncIterator[ScriptedStore]:
    async with open_scripted_store() as opened:
        yield opened


@pytest.fixture
def store_settings(s3: ScriptedStore) -> Settings:
    given = {
        "CARRYOUT_FILE_STORES": f"uploads=s3://uploads/{PREFIX}",
        "CARRYOUT_FILE_STORE_UPLOADS_ENDPOINT_URL": s3.url,
        "CARRYOUT_FILE_STORE_UPLOADS_ACCESS_KEY_ID": "key",
        "CARRYOUT_FILE_STORE_UPLOADS_SECRET_ACCESS_KEY": "secret",
    }
    return from_env(REQUIRED | given)


@pytest.fixture
async def stores(store_settings: Settings) -> AsyncIterator[dict[str, AttachmentStore]]:
    async with open_attachment_stores(store_settings) as opened:
        yield opened


@pytest.fixture
async def photos(database: Connection, tmp_path: Path) -> tuple[Dataset, ...]:
    await database.execute("CREATE TABLE public.photos (n int PRIMARY KEY, user_id uuid NOT NULL, key text, name text)")
    return await load(database, tmp_path, {"profile.sql": PROFILE, "photos.sql": PHOTOS})


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "LOOK_TIMEOUT_SECONDS", IMPATIENCE)
    monkeypatch.setattr(attachments, "READ_TIMEOUT_SECONDS", IMPATIENCE)


class Made:
    """A package, its files, and what it says of its attachments."""

    def __init__(self, content: bytes, counts: tuple[int, int], faults: list[FaultKind]) -> None:
        self.content = content
        self.files = unpack(content)
        self.manifest: dict[str, Any] = read_manifest(self.files)
        self.included, self.missing = counts
        self.faults = faults

    @property
    def attachments(self) -> dict[str, bytes]:
        return {path: content for path, content in self.files.items() if path.startswith("files/")}


class Maker:
    def __init__(
        self, database: Connection, pool: Pool, photos: tuple[Dataset, ...], stores: dict[str, AttachmentStore]
    ) -> None:
        self._database, self._pool, self._photos, self._stores = database, pool, photos, stores

    async def __call__(self, *files: tuple[str | None, str | None], max_bytes: int = 10**9) -> Made:
        """A new user with a row for each key and name."""
        return await self.of(await create_user(self._database), *files, max_bytes=max_bytes)

    async def of(self, user_id: UUID, *files: tuple[str | None, str | None], max_bytes: int = 10**9) -> Made:
        await self._database.execute("TRUNCATE public.photos")
        await self._database.executemany(
            "INSERT INTO public.photos VALUES ($1, $2, $3, $4)",
            [(n, user_id, key, name) for n, (key, name) in enumerate(files, start=1)],
        )
        async with open_package(self._pool, self._photos, user_id) as document:
            content = await read_chunks(package_chunks(document, self._stores, max_bytes=max_bytes))
            counts = document.files.included, document.files.missing
            assert document.files.bytes_done <= (document.files.bytes_total or 0)
            return Made(content, counts, list(document.files.faults))


@pytest.fixture
def make(database: Connection, pool: Pool, photos: tuple[Dataset, ...], stores: dict[str, AttachmentStore]) -> Maker:
    return Maker(database, pool, photos, stores)


def photo(name: str) -> tuple[str, str]:
    return PREFIX + name, name


async def test_files_are_in_it_as_they_are(make: Maker, s3: ScriptedStore) -> None:
    s3.objects = {
        f"{PREFIX}cat.jpg": CONTENT,
        f"{PREFIX}empty": b"",
        f"{PREFIX}large.bin": bytes(range(256)) * 40_000,
        f"{PREFIX}text.txt": b"the same again. " * 10_000,
    }
    made = await make(*(photo(key.removeprefix(PREFIX)) for key in s3.objects), (None, None), ("", "empty key"))
    assert made.attachments == {
        f"files/photos/{n}-{key.removeprefix(PREFIX)}": content
        for n, (key, content) in enumerate(s3.objects.items(), 1)
    }
    assert (made.included, made.missing, made.faults) == (4, 0, [])
    entries = {one["path"]: one for one in made.manifest["resources"]}
    for path, content in made.attachments.items():
        assert entries[path]["hash"] == "sha256:" + hashlib.sha256(content).hexdigest()
        assert entries[path]["bytes"] == len(content)
        assert entries[path]["section"] == "photos"
    assert "missing" not in made.manifest
    assert "4 files are in the folder" in read_page(made.files["index.html"]).text


@pytest.mark.slow
async def test_pages_lead_to_files_and_back(make: Maker, s3: ScriptedStore) -> None:
    s3.objects = {f"{PREFIX}{n}.png": b"\x89PNG" for n in range(502)}
    made = await make(*(photo(f"{n}.png") for n in range(502)))
    for path, content in made.files.items():
        if path.endswith(".html"):
            for link in read_page(content).links:
                target, _, anchor = link.partition("#")
                assert target in made.files
                assert not anchor or f'id="{anchor}"'.encode() in made.files[target]
    assert "photos-files-2.html#row-502" in read_page(made.files["photos-2.html"]).links
    assert b'<img src="files/photos/502-501.png"' in made.files["photos-files-2.html"]
    assert "files/photos/502-501.png" in read_page(made.files["photos-files-2.html"]).links


async def test_a_type_that_is_compressed_already_is_stored(make: Maker, s3: ScriptedStore) -> None:
    picture = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(256))
    s3.objects = {f"{PREFIX}picture.jpg": picture, f"{PREFIX}text.txt": b"again " * 1_000}
    made = await make(photo("picture.jpg"), photo("text.txt"))
    with zipfile.ZipFile(io.BytesIO(made.content)) as archive:
        kinds = {info.filename: info.compress_type for info in archive.infolist()}
    assert kinds["files/photos/1-picture.jpg"] == zipfile.ZIP_STORED
    assert kinds["files/photos/2-text.txt"] == zipfile.ZIP_DEFLATED


async def changed_meanwhile(request: Any, content: bytes) -> Any:
    return await whole(request, content if request.method == "HEAD" else content + b"more")


async def changed_unmatched(request: Any, content: bytes) -> Any:
    """By a server that doesn't know If-Match."""
    if request.method == "HEAD":
        return await whole(request, content)
    unconditional = request.clone(headers={name: text for name, text in request.headers.items() if name != "If-Match"})
    return await whole(unconditional, content[:-1])


async def grown(request: Any, content: bytes) -> Any:
    """Under the same ETag, as a server may make it of the time alone."""
    return await whole(request, content if request.method == "HEAD" else content * 2, etag='"one"')


async def cut_short(request: Any, content: bytes) -> Any:
    if request.method == "HEAD":
        return await whole(request, content)
    if "Range" in request.headers:
        return await refusing(416, "InvalidRange")(request, content)
    return await whole(request, content, cut_at=len(content) // 2)


FAULTS: dict[str, tuple[Answer, str]] = {
    "missing": (refusing(404, "NoSuchKey"), "missing"),
    "vanished": (refusing(404, "NoSuchKey", method="GET"), "missing"),
    "changed": (changed_meanwhile, "changed"),
    "changed, by a server without If-Match": (changed_unmatched, "changed"),
    "grown": (grown, "changed"),
    "shrunk": (cut_short, "changed"),
    "denied": (refusing(403, "AccessDenied"), "denied"),
    "archived": (refusing(403, "InvalidObjectState", method="GET"), "denied"),
    "without a bucket": (refusing(404, "NoSuchBucket"), "denied"),
    "broken off for good": (breaking_off(100), "unreadable"),
    "failing": (refusing(500, "InternalError"), "unreadable"),
}


@pytest.mark.parametrize("size", [3_000, 12 * 2**20], ids=["small", "large"])
@pytest.mark.parametrize(("answer", "fault"), FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.slow
async def test_one_that_can_not_be_read_is_told_and_left_out(
    make: Maker, s3: ScriptedStore, answer: Answer, fault: str, size: int
) -> None:
    """Also a large one, whose entry has begun by then."""
    s3.objects = {f"{PREFIX}before.jpg": CONTENT, f"{PREFIX}bad.jpg": b"x" * size, f"{PREFIX}after.jpg": CONTENT}
    s3.answers[f"{PREFIX}bad.jpg"] = answer
    made = await make(photo("before.jpg"), photo("bad.jpg"), photo("after.jpg"))
    assert made.attachments == {"files/photos/1-before.jpg": CONTENT, "files/photos/3-after.jpg": CONTENT}
    assert (made.included, made.missing) == (2, 1)
    [kind] = made.faults
    assert (kind.section, kind.store, kind.fault) == ("photos", "uploads", fault)
    assert made.manifest["missing"] == [{"section": "photos", "row": 2, "title": "bad.jpg", "reason": fault}]
    assert "1 file is not included" in read_page(made.files["index.html"]).text
    assert "Not included: bad.jpg" in read_page(made.files["photos-files.html"]).text


@pytest.mark.parametrize("size", [3_000, 12 * 2**20], ids=["small", "large"])
@pytest.mark.parametrize("answer", [hanging, hanging_body])
@pytest.mark.usefixtures("impatience")
@pytest.mark.slow
async def test_one_that_is_silent_is_left_out(make: Maker, s3: ScriptedStore, answer: Answer, size: int) -> None:
    s3.objects = {f"{PREFIX}bad.jpg": b"x" * size}
    s3.answers[f"{PREFIX}bad.jpg"] = answer
    made = await make(photo("bad.jpg"))
    assert not made.attachments
    assert [kind.fault for kind in made.faults] == ["unreadable"]


@pytest.mark.parametrize("size", [3_000, 12 * 2**20], ids=["small", "large"])
async def test_one_that_breaks_off_goes_on(make: Maker, s3: ScriptedStore, size: int) -> None:
    content = bytes(n % 251 for n in range(size))
    s3.objects = {f"{PREFIX}a.bin": content}
    s3.answers[f"{PREFIX}a.bin"] = breaking_off(1)
    made = await make(photo("a.bin"))
    assert made.attachments == {"files/photos/1-a.bin": content}


@pytest.mark.parametrize("status", [503, 429, 500])
@pytest.mark.slow
async def test_a_store_that_is_down_is_an_outage(make: Maker, s3: ScriptedStore, status: int) -> None:
    s3.objects = {f"{PREFIX}a.jpg": CONTENT}
    s3.down = status
    with pytest.raises(OutageError, match=r"^The store uploads is unavailable$"):
        await make(photo("a.jpg"))


@pytest.mark.slow
async def test_a_store_that_goes_down_meanwhile_is_an_outage(make: Maker, s3: ScriptedStore) -> None:
    async def last(request: Any, content: bytes) -> Any:
        if request.method == "GET":
            s3.down = 503
            return await whole(request, content, cut_at=1_000)
        return await whole(request, content)

    s3.objects = {f"{PREFIX}a.jpg": CONTENT}
    s3.answers[f"{PREFIX}a.jpg"] = last
    with pytest.raises(OutageError):
        await make(photo("a.jpg"))


@pytest.mark.parametrize(
    "key",
    [
        "a.jpg",
        "/photos/a.jpg",
        "photos/../a.jpg",
        "photos/./a.jpg",
        "photos//a.jpg",
        "photos/",
        "photos",
        "photos/..",
        "Photos/a.jpg",
        "photos\\a.jpg",
        "photos/..\\a.jpg",
        "photos/a\r\nb.jpg",
        "photos/a\x7f.jpg",
        "photos/a\x85.jpg",
        "photos/" + "a" * 1_100,
        "s3://uploads/photos/a.jpg",
    ],
)
async def test_a_key_outside_the_store_is_never_asked_for(make: Maker, s3: ScriptedStore, key: str) -> None:
    s3.objects = {key: b"of another user"}
    made = await make((key, "a.jpg"))
    assert not made.attachments
    assert s3.asked == []
    assert [kind.fault for kind in made.faults] == ["outside"]
    assert [one["reason"] for one in made.manifest["missing"]] == ["outside"]


async def test_keys_that_only_look_odd_are_read(make: Maker, s3: ScriptedStore) -> None:
    keys = ["a b+c%20d.jpg", "\u202egpj.exe", "名前.jpg", "a" * 300, "CON.txt", "..hidden", "a..b", "q?x=1#y&z.jpg"]
    s3.objects = {PREFIX + key: key.encode() for key in keys}
    made = await make(*((PREFIX + key, None) for key in keys))
    assert sorted(made.attachments.values()) == sorted(key.encode() for key in keys)


async def test_each_user_has_a_prefix(
    database: Connection, pool: Pool, photos: tuple[Dataset, ...], store_settings: Settings, s3: ScriptedStore
) -> None:
    own, other = await create_user(database), await create_user(database)
    s3.objects = {f"u/{own}/a.jpg": b"own", f"u/{other}/a.jpg": b"another's", f"u/{own}0/a.jpg": b"a longer id's"}
    [store] = store_settings.file_stores
    per_user = msgspec.structs.replace(store, prefix="u/{user_id}/")
    settings = msgspec.structs.replace(store_settings, file_stores=(per_user,))
    async with open_attachment_stores(settings) as stores:
        make = Maker(database, pool, photos, stores)
        made = await make.of(own, *((key, None) for key in s3.objects), (f"u/{own}/../{other}/a.jpg", None))
    assert made.attachments == {"files/photos/1-a.jpg": b"own"}
    assert {key for _, key in s3.asked} == {f"u/{own}/a.jpg"}
    assert made.missing == 3


@pytest.mark.parametrize("user_id", ["a/b", "..", ".", "a/../b"])
def test_an_id_that_is_a_path_has_no_files(user_id: str) -> None:
    store = FileStore(name="uploads", bucket="uploads", prefix="u/{user_id}/")
    assert store.may_hold("u/a/b.jpg", "a")
    assert not store.may_hold(f"u/{user_id}/b.jpg", user_id)


async def test_too_many_bytes_are_refused_before_the_first(make: Maker, s3: ScriptedStore) -> None:
    s3.objects = {f"{PREFIX}a.jpg": CONTENT, f"{PREFIX}b.jpg": CONTENT}
    size = 2 * len(CONTENT)
    assert (await make(photo("a.jpg"), photo("b.jpg"), max_bytes=size)).included == 2
    s3.asked.clear()
    with pytest.raises(ExportTooLargeError, match=f"more than {size - 1:,} bytes"):
        await make(photo("a.jpg"), photo("b.jpg"), max_bytes=size - 1)
    assert {method for method, _ in s3.asked} == {"HEAD"}


async def test_what_was_not_looked_at_counts_when_it_is_read(
    make: Maker, s3: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found_attachments, "LOOK_SECONDS", 0)
    s3.objects = {f"{PREFIX}a.jpg": CONTENT, f"{PREFIX}b.jpg": CONTENT}
    names = ["a.jpg", "b.jpg", "c.jpg"]
    made = await make(*map(photo, names), max_bytes=2 * len(CONTENT))
    assert (made.included, made.missing) == (2, 1)
    with pytest.raises(ExportTooLargeError):
        await make(*map(photo, names), max_bytes=2 * len(CONTENT) - 1)


async def test_the_snapshot_ends_before_files_are_read(make: Maker, s3: ScriptedStore, database: Connection) -> None:
    held = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in %'"
    seen = {}

    async def look(request: Any, content: bytes) -> Any:
        seen[request.method] = await database.fetchval(held)
        return await whole(request, content)

    s3.objects = {f"{PREFIX}a.jpg": CONTENT}
    s3.answers[f"{PREFIX}a.jpg"] = look
    await make(photo("a.jpg"))
    assert seen == {"HEAD": 1, "GET": 0}


async def test_several_files_of_a_row(
    database: Connection, pool: Pool, stores: dict[str, AttachmentStore], s3: ScriptedStore, tmp_path: Path
) -> None:
    accounts = f"""-- file: avatar from uploads
        -- file: "The banner" from uploads as avatar
        SELECT id, email, '{PREFIX}face.png' AS avatar, '{PREFIX}2-face.png' AS "The banner"
        FROM public.users WHERE id = $1"""
    datasets = await load(database, tmp_path, {"profile.sql": accounts})
    s3.objects = {f"{PREFIX}face.png": b"face", f"{PREFIX}2-face.png": b"banner"}
    async with open_package(pool, datasets, await create_user(database)) as document:
        files = unpack(await read_chunks(package_chunks(document, stores)))
    assert {path: content for path, content in files.items() if path.startswith("files/")} == {
        "files/profile/1-face.png": b"face",
        "files/profile/1.2-face.png": b"banner",
    }
    assert files["profile-files.html"].count(b'id="row-1"') == 1


async def test_equal_files_make_equal_bytes(make: Maker, s3: ScriptedStore, database: Connection) -> None:
    s3.objects = {f"{PREFIX}{n}.jpg": CONTENT for n in range(40)}
    user_id = await create_user(database)
    files = [photo(f"{n}.jpg") for n in range(40)]
    first, second = await make.of(user_id, *files), await make.of(user_id, *files)
    contents = [
        {path: content for path, content in made.files.items() if path != "datapackage.json"}
        for made in (first, second)
    ]
    assert list(contents[0]) == list(contents[1])
    assert {path for path in contents[0] if contents[0][path] != contents[1][path]} <= {"index.html"}  # the moment
    assert json.dumps(first.manifest["resources"][:1])
