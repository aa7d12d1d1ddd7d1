"""Attachments from the request to the mail: on a real S3 server, by the worker, as the user is told of them."""

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from service.backends.attachments import PROBE, AttachmentError, Fault
from service.backends.failures import NO_BUCKET
from service.backends.s3 import open_client
from service.file_stores import FileStore
from service.resources import Resources, open_resources
from service.settings import Settings
from tests.api.problems import bearer
from tests.conftest import PUBLIC_URL, Token, on_database
from tests.documents.package.reading import read_page
from tests.support.factories import Connection, create_user
from tests.support.scripted_s3 import Answer, ScriptedStore, open_scripted_store, refusing, whole
from worker.running import run_export

PROFILE = "SELECT id, email FROM public.users WHERE id = $1"
PHOTOS = """-- file: key from uploads as name
SELECT n, key, name FROM public.photos WHERE user_id = $1 ORDER BY n"""
PICTURE = bytes(range(256)) * 12_000


class TestOnRealS3:
    @pytest.fixture
    def prefix(self) -> str:
        return f"photos-{uuid4().hex}/"

    @pytest.fixture
    async def settings(
        self, common_settings: Settings, database_url: str, database: Connection, tmp_path: Path, prefix: str
    ) -> Settings:
        return await with_photos(common_settings, database_url, database, tmp_path, uploads(prefix=prefix))

    async def test_from_the_request_to_the_mail(
        self, api: httpx.AsyncClient, token: Token, database: Connection, resources: Resources, prefix: str
    ) -> None:
        user_id = await create_user(database)
        await add_photos(database, user_id, f"{prefix}a.jpg", f"{prefix}gone.jpg", f"{prefix}b.jpg", "other/c.jpg")
        async with open_client(resources.settings, resources.settings.s3_endpoint_url, name="") as s3:
            for key in ("a.jpg", "b.jpg"):
                await s3.put_object(Bucket="carryout", Key=prefix + key, Body=PICTURE)
        user = bearer(token(user_id))
        accepted = await api.post("/api/export", json={"format": "zip"}, headers=user)

        with capture_logs() as logs:
            await run_export(resources, UUID(accepted.json()["job_id"]))

        shown = (await api.get(accepted.headers["location"], headers=user)).json()
        assert shown["status"] == "completed"
        assert shown["files"] == {"included": 2, "missing": 2}
        assert shown["progress"] == {
            "records_done": 5,
            "records_total": 5,
            "bytes_done": 2 * len(PICTURE),
            "bytes_total": 2 * len(PICTURE),
        }
        file = await api.get(shown["download_url"].removeprefix(PUBLIC_URL), follow_redirects=True)
        with zipfile.ZipFile(io.BytesIO(file.content)) as archive:
            assert archive.testzip() is None
            assert archive.read("files/photos/1-a.jpg") == archive.read("files/photos/3-b.jpg") == PICTURE
            assert [one["reason"] for one in json.loads(archive.read("datapackage.json"))["missing"]] == [
                "missing",
                "outside",
            ]
            assert "2 files are not included" in read_page(archive.read("index.html")).text
        told = {line["fault"]: line["files"] for line in logs if line["event"] == "files_not_included"}
        assert told == {"missing": 1, "outside": 1}

    async def test_another_version_than_the_one_that_was_looked_at(self, resources: Resources, prefix: str) -> None:
        """A server of files may not know If-Match: then its answer is compared."""
        store = resources.file_stores["uploads"]
        async with open_client(resources.settings, resources.settings.s3_endpoint_url, name="") as s3:
            await s3.put_object(Bucket="carryout", Key=f"{prefix}a.jpg", Body=PICTURE)
            version = await store.look(f"{prefix}a.jpg")
            assert b"".join([chunk async for chunk in store.read(f"{prefix}a.jpg", version)]) == PICTURE
            await s3.put_object(Bucket="carryout", Key=f"{prefix}a.jpg", Body=PICTURE[::-1])
        with pytest.raises(AttachmentError) as raised:
            _ = [chunk async for chunk in store.read(f"{prefix}a.jpg", version)]
        assert raised.value.fault is Fault.CHANGED


class TestOnAStoreThatFails:
    @pytest.fixture
    async def s3(self) -> AsyncIterator[ScriptedStore]:
        async with open_scripted_store() as opened:
            opened.objects = {"photos/a.jpg": PICTURE, "photos/b.jpg": PICTURE}
            yield opened

    @pytest.fixture
    async def settings(
        self, common_settings: Settings, database_url: str, database: Connection, tmp_path: Path, s3: ScriptedStore
    ) -> Settings:
        store = uploads(prefix="photos/", endpoint_url=s3.url)
        return await with_photos(common_settings, database_url, database, tmp_path, store)

    @pytest.fixture
    async def ask(self, api: httpx.AsyncClient, token: Token, database: Connection) -> Callable[[], Any]:
        user_id = await create_user(database)
        await add_photos(database, user_id, "photos/a.jpg", "photos/b.jpg")

        async def asked() -> UUID:
            accepted = await api.post("/api/export", json={"format": "zip"}, headers=bearer(token(user_id)))
            return UUID(accepted.json()["job_id"])

        return asked

    async def test_an_outage_costs_no_try(
        self, ask: Callable[[], Any], s3: ScriptedStore, resources: Resources, database: Connection
    ) -> None:
        job_id = await ask()
        s3.down = 503
        for _ in range(4):
            await run_export(resources, job_id)
            row = await database.fetchrow("SELECT status, failures, error_cause FROM carryout.export_jobs")
            assert row
            assert (row["status"], row["failures"]) == ("pending", 0)
            assert "store uploads" in row["error_cause"]
            await database.execute("UPDATE carryout.export_jobs SET run_after = now()")
        s3.down = None
        await run_export(resources, job_id)
        assert await database.fetchval("SELECT (files_included, files_missing) FROM carryout.export_jobs") == (2, 0)

    @pytest.mark.parametrize(
        ("answer", "causes"),
        [
            (refusing(403, "InvalidAccessKeyId"), ["refuses the keys: InvalidAccessKeyId"]),
            (refusing(404, "NoSuchBucket"), [NO_BUCKET]),
            (refusing(403, "AccessDenied"), []),  # as without s3:ListBucket, if all is well
            (refusing(404, "NoSuchKey"), []),
        ],
    )
    async def test_a_start_warns_of_a_store_that_can_not_be_read(
        self, settings: Settings, s3: ScriptedStore, answer: Answer, causes: list[str]
    ) -> None:
        s3.answers[f"photos/{PROBE}"] = answer
        assert await warned_causes(settings) == causes

    async def test_a_start_warns_of_a_store_that_is_down(self, settings: Settings, s3: ScriptedStore) -> None:
        s3.down = 503
        assert len(await warned_causes(settings)) == 1

    async def test_wrong_rights_are_told_once(
        self, ask: Callable[[], Any], s3: ScriptedStore, resources: Resources, database: Connection
    ) -> None:
        for key in s3.objects:
            s3.answers[key] = refusing(403, "AccessDenied")
        with capture_logs() as logs:
            await run_export(resources, await ask())
        assert await database.fetchval("SELECT (status, files_missing) FROM carryout.export_jobs") == ("completed", 2)
        [line] = [line for line in logs if line["event"] == "files_not_included"]
        assert (line["log_level"], line["store"], line["files"]) == ("error", "uploads", 2)
        assert "AccessDenied" in line["cause"]

    async def test_too_many_bytes_fail_with_a_sentence(
        self, ask: Callable[[], Any], resources: Resources, database: Connection
    ) -> None:
        settings = msgspec.structs.replace(resources.settings, max_export_bytes=len(PICTURE))
        async with open_resources(settings) as strict:
            await run_export(strict, await ask())
        row = await database.fetchrow("SELECT status, error_message FROM carryout.export_jobs")
        assert row
        assert row["status"] == "failed"
        assert row["error_message"].startswith(f"Export too large: its files have more than {len(PICTURE):,} bytes")

    async def test_bytes_are_progress(
        self, ask: Callable[[], Any], s3: ScriptedStore, resources: Resources, database: Connection
    ) -> None:
        """Seen from outside while the second file is silent."""
        gate = asyncio.Event()

        async def wait(request: Any, content: bytes) -> Any:
            if request.method == "GET":
                await gate.wait()
            return await whole(request, content)

        s3.answers["photos/b.jpg"] = wait
        running = asyncio.create_task(run_export(resources, await ask()))
        try:
            expected = (len(PICTURE), 2 * len(PICTURE))
            async with asyncio.timeout(60):
                while await database.fetchval("SELECT (bytes_done, bytes_total) FROM carryout.export_jobs") != expected:
                    await asyncio.sleep(0.1)
        finally:
            gate.set()
            await running


async def test_a_store_that_no_setting_names_stops_the_start(
    common_settings: Settings, database_url: str, database: Connection, tmp_path: Path
) -> None:
    settings = await with_photos(common_settings, database_url, database, tmp_path, None)
    with pytest.raises(Exception, match=r"^Dataset photos\.sql: its line `-- file:` names the store uploads, which"):
        async with open_resources(settings):
            pass


async def warned_causes(settings: Settings) -> list[str]:
    """Why a start says that stores can't be read."""
    with capture_logs() as logs:
        async with open_resources(settings):
            pass
    return [line["cause"] for line in logs if line["event"] == "file_store_unusable"]


def uploads(*, prefix: str, endpoint_url: str = "") -> FileStore:
    return FileStore(name="uploads", bucket="carryout", prefix=prefix, endpoint_url=endpoint_url)


async def with_photos(
    common: Settings, database_url: str, database: Connection, folder: Path, store: FileStore | None
) -> Settings:
    """Datasets of a table with photos, which its reader may read."""
    await database.execute("CREATE TABLE public.photos (n int PRIMARY KEY, user_id uuid NOT NULL, key text, name text)")
    (folder / "profile.sql").write_text(PROFILE)
    (folder / "photos.sql").write_text(PHOTOS)
    settings = on_database(common, database_url)
    return msgspec.structs.replace(
        settings,
        source_database_url=database_url,
        datasets_dir=str(folder),
        file_stores=(store,) if store else (),
    )


async def add_photos(database: Connection, user_id: UUID, *keys: str) -> None:
    rows = [(n, user_id, key, key.rpartition("/")[2]) for n, key in enumerate(keys, start=1)]
    await database.executemany("INSERT INTO public.photos VALUES ($1, $2, $3, $4)", rows)
