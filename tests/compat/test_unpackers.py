"""Packages unpack with other people's programs, and each file is then what the manifest says. Also over 4 GiB."""

import asyncio
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TypeAlias

import pytest
from aiohttp import web

from service.backends.attachments import AttachmentStore, open_attachment_stores
from service.backends.database import Pool
from service.documents.datasets import Dataset
from service.documents.package.contents import package_chunks
from service.settings import from_env
from tests.documents.package.test_contents import PROFILE
from tests.sql.sources import load
from tests.support.documents import open_package
from tests.support.factories import Connection, create_user
from tests.support.scripted_s3 import ScriptedStore, breaking_off, etag_of, open_scripted_store
from tests.test_settings import REQUIRED

Command: TypeAlias = Callable[[Path], Sequence[str | Path]]

SEVEN_ZIP = shutil.which("7zz") or shutil.which("7z") or "7zz"
# Each unpacks the file into the current folder.
UNPACKERS: dict[str, Command] = {
    "Info-ZIP": lambda file: ["unzip", "-q", file],
    "7-Zip": lambda file: [SEVEN_ZIP, "x", "-bd", file],
    "libarchive": lambda file: ["bsdtar", "-xf", file],
    "Python": lambda file: ["python3", "-m", "zipfile", "-e", file, "."],
    "Java": lambda file: ["jar", "--extract", "--file", file],
}
TESTERS: dict[str, Command] = {
    "Info-ZIP": lambda file: ["unzip", "-tq", file],
    "7-Zip": lambda file: [SEVEN_ZIP, "t", "-bd", file],
}
PHOTOS = """-- file: key from uploads as name
SELECT n, key, name FROM public.photos WHERE user_id = $1 ORDER BY n"""
NAMES = (
    "cat.jpg",
    "CAT.jpg",
    "cat.jpg",
    "名前.jpg",
    "Café (1).txt",
    "../../etc/passwd",
    "CON",
    "a" * 300 + ".png",
    "\u202egpj.exe",
)
LARGE_BYTES = 4 * 2**30 + 12_345


@pytest.fixture
async def s3() -> AsyncGenerator[ScriptedStore, None]:
    async with open_scripted_store() as opened:
        yield opened


@pytest.fixture
async def stores(s3: ScriptedStore) -> AsyncGenerator[dict[str, AttachmentStore], None]:
    given = {
        "CARRYOUT_FILE_STORES": "uploads=s3://uploads/photos",
        "CARRYOUT_FILE_STORE_UPLOADS_ENDPOINT_URL": s3.url,
        "CARRYOUT_FILE_STORE_UPLOADS_ACCESS_KEY_ID": "key",
        "CARRYOUT_FILE_STORE_UPLOADS_SECRET_ACCESS_KEY": "secret",
    }
    async with open_attachment_stores(from_env(REQUIRED | given)) as opened:
        yield opened


@pytest.fixture
async def photos(database: Connection, tmp_path: Path) -> tuple[Dataset, ...]:
    await database.execute("CREATE TABLE public.photos (n int PRIMARY KEY, user_id uuid NOT NULL, key text, name text)")
    folder = tmp_path / "datasets"
    folder.mkdir()
    return await load(database, folder, {"profile.sql": PROFILE, "photos.sql": PHOTOS})


@pytest.fixture
async def package(  # noqa: PLR0913 (all that a package is made of)
    *,
    pool: Pool,
    photos: tuple[Dataset, ...],
    database: Connection,
    s3: ScriptedStore,
    stores: dict[str, AttachmentStore],
    tmp_path: Path,
) -> Path:
    """Odd names, a missing file, and a large one whose entry breaks off and stays between the others."""
    for number, _ in enumerate(NAMES):
        s3.objects[f"photos/{number}"] = bytes(range(256)) * 100 * number
    s3.objects["photos/broken"] = b"x" * 12 * 2**20
    s3.answers["photos/broken"] = breaking_off(100)
    files = [(f"photos/{number}", name) for number, name in enumerate(NAMES)]
    files[3:3] = [("photos/broken", "broken.bin"), ("photos/none", "none.jpg")]
    return await make(pool=pool, photos=photos, database=database, stores=stores, folder=tmp_path, files=files)


async def make(  # noqa: PLR0913 (likewise)
    *,
    pool: Pool,
    photos: tuple[Dataset, ...],
    database: Connection,
    stores: dict[str, AttachmentStore],
    folder: Path,
    files: Sequence[tuple[str, str]],
) -> Path:
    user_id = await create_user(database)
    await database.executemany(
        "INSERT INTO public.photos VALUES ($1, $2, $3, $4)",
        [(n, user_id, key, name) for n, (key, name) in enumerate(files, start=1)],
    )
    path = folder / "package.zip"
    with path.open("wb") as file:
        async with (
            open_package(pool, photos, user_id) as document,
            aclosing(package_chunks(document, stores)) as chunks,
        ):
            async for chunk in chunks:
                file.write(chunk)
    return path


async def run(command: Sequence[str | Path], folder: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode(errors="replace")[-3_000:]


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def require_as_described(folder: Path) -> None:
    manifest = json.loads((folder / "datapackage.json").read_bytes())
    described = {one["path"]: (one["bytes"], one["hash"]) for one in manifest["resources"]}
    unpacked = {
        path.relative_to(folder).as_posix(): (path.stat().st_size, digest_of(path))
        for path in folder.rglob("*")
        if path.is_file() and path.name != "datapackage.json"
    }
    assert unpacked == described


@pytest.mark.parametrize("name", UNPACKERS)
async def test_each_file_is_as_the_manifest_says(package: Path, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "unpacked"
    folder.mkdir()
    await run(UNPACKERS[name](package), folder)
    require_as_described(folder)
    assert len(list((folder / "files" / "photos").iterdir())) == len(NAMES)


@pytest.mark.parametrize("name", TESTERS)
async def test_it_passes_their_tests(package: Path, name: str, tmp_path: Path) -> None:
    await run(TESTERS[name](package), tmp_path)


@pytest.mark.large
async def test_over_4_gib(  # noqa: PLR0913 (likewise)
    *,
    pool: Pool,
    photos: tuple[Dataset, ...],
    database: Connection,
    s3: ScriptedStore,
    stores: dict[str, AttachmentStore],
    tmp_path: Path,
) -> None:
    """One object of more than 4 GiB, which the store makes up as it sends it."""

    async def endless(request: web.Request, _content: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": etag_of(b"large")})
        response.content_length = LARGE_BYTES
        await response.prepare(request)
        left = 0 if request.method == "HEAD" else LARGE_BYTES
        while left:
            piece = PIECE[: min(left, len(PIECE))]
            await response.write(piece)
            left -= len(piece)
        return response

    s3.objects["photos/small"] = b"after it"
    s3.answers["photos/large"] = endless
    files = [("photos/large", "film.mp4"), ("photos/small", "small.txt")]
    path = await make(pool=pool, photos=photos, database=database, stores=stores, folder=tmp_path, files=files)
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("files/photos/1-film.mp4").file_size == LARGE_BYTES
        assert archive.getinfo("files/photos/1-film.mp4").compress_type == zipfile.ZIP_STORED
    for command in TESTERS.values():
        await run(command(path), tmp_path)
    for name in ("libarchive", "Java"):
        folder = tmp_path / name
        folder.mkdir()
        await run(UNPACKERS[name](path), folder)
        require_as_described(folder)
        shutil.rmtree(folder)


PIECE = os.urandom(2**20)
