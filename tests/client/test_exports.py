"""The client asks for an export and waits for it, through proxies and outages."""

import asyncio
from pathlib import Path
from uuid import UUID

import pytest
from yarl import URL

from client.api import Api
from client.console import Console
from client.errors import ClientError, ExportFailedError, IncompleteError, InProgressError, RefusedError
from client.exports import Job, download_export, request_export, stream_export, wait_for
from client.http import open_session
from client.outputs import open_output
from client.retries import Backoff
from service.formats import STREAMED_FORMATS
from service.resources import Resources
from service.user_ids import UserId
from tests.client.conftest import Doors, MakeExport, OpenApi
from tests.support.documents import count_records
from tests.support.exports import start_export
from tests.support.factories import Connection, create_user
from worker.running import run_export

SMALL = 300
QUEUED = 1_000


async def queue(resources: Resources, user_id: UserId) -> str:
    """The id of an export in progress."""
    return str((await start_export(resources, user_id)).id)


async def fail(database: Connection, job_id: str) -> None:
    await database.execute(
        """UPDATE carryout.export_jobs SET status = 'failed', completed_at = now(), error_message = 'Out of luck'
        WHERE id = $1""",
        UUID(job_id),
    )


@pytest.mark.parametrize("scheme", ["", "http://"])
async def test_through_a_proxy_of_the_environment(
    open_api: OpenApi, doors: Doors, database: Connection, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("http_proxy", scheme + doors.api.url.removeprefix("http://"))
    async with open_api(await create_user(database)) as api:
        api.url = URL("http://carryout.invalid")
        assert (await api.create_export("csv")).job_id
    assert b"POST http://carryout.invalid/api/export HTTP/1.1" in doors.api.asked


@pytest.mark.parametrize(
    ("status", "error"), [("407 Proxy Authentication Required", RefusedError), ("502 Bad Gateway", IncompleteError)]
)
async def test_a_proxy_that_opens_no_tunnel_is_quoted(
    monkeypatch: pytest.MonkeyPatch, status: str, error: type[ClientError]
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as proxy, open_session() as session:
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:{1}".format(*proxy.sockets[0].getsockname()))
        api = Api(session, URL("https://carryout.invalid"), {}, backoff=Backoff(tries=1), say=lambda _sentence: None)
        with pytest.raises(error, match=f"The proxy on the way to carryout.invalid answered {status}"):
            await api.create_export("csv")


async def test_a_proxy_that_is_not_there_is_named_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_session() as session:
        for scheme in ("http", "https"):
            monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:1")
            url = URL(f"{scheme}://carryout.invalid")
            api = Api(session, url, {}, backoff=Backoff(tries=1), say=lambda _sentence: None)
            with pytest.raises(IncompleteError, match=r"^Can't connect to the proxy on the way to carryout\.invalid: "):
                await api.create_export("csv")


async def test_a_lost_answer_is_asked_for_again(
    open_api: OpenApi, doors: Doors, database: Connection, make_export: MakeExport
) -> None:
    user_id = await create_user(database, activity=SMALL)
    doors.api.cuts = [0, 30, 300]
    async with open_api(user_id) as api:
        export = await make_export(api)
    made = await database.fetchval("SELECT array_agg(id) FROM carryout.export_jobs WHERE user_id = $1", user_id)
    assert made == [UUID(export.job_id)]
    posts = doors.api.asked.split(b"POST ")[1:]
    assert len(posts) >= 3
    assert len({post.partition(b"Idempotency-Key: ")[2].partition(b"\r\n")[0] for post in posts}) == 1


class TestWaiting:
    async def test_shows_progress(
        self, open_api: OpenApi, resources: Resources, database: Connection, capsys: pytest.CaptureFixture[str]
    ) -> None:
        user_id = await create_user(database, activity=QUEUED)
        console = Console(quiet=False)
        async with open_api(user_id) as api:
            job = await request_export(api, "csv", console, wait=True)
            capsys.readouterr()
            waiting = asyncio.create_task(wait_for(api, job, "csv", console))
            while not (shown := capsys.readouterr().err):
                await asyncio.sleep(0.01)
            await run_export(resources, UUID(job.id))
            export = await waiting
        assert shown == "Waiting: 0 of 1,001 records\n"
        assert (export.status, export.record_count) == ("completed", 1 + QUEUED)

    async def test_for_one_that_is_in_progress(
        self, open_api: OpenApi, resources: Resources, database: Connection, console: Console
    ) -> None:
        user_id = await create_user(database)
        job_id = await queue(resources, user_id)
        async with open_api(user_id) as api:
            with pytest.raises(InProgressError, match=job_id):
                await request_export(api, "csv", console, wait=False)
            job = await request_export(api, "json", console, wait=True)
            assert job.id == job_id
            with pytest.raises(InProgressError, match="has the format csv, not json"):
                await wait_for(api, job, "json", console)
            await run_export(resources, UUID(job_id))
            assert (await wait_for(api, job, "csv", console)).status == "completed"

    async def test_in_vain(
        self, open_api: OpenApi, resources: Resources, database: Connection, console: Console
    ) -> None:
        user_id = await create_user(database)
        job_id = await queue(resources, user_id)
        async with open_api(user_id) as api:
            waiting = asyncio.create_task(wait_for(api, Job(job_id), None, console))
            await fail(database, job_id)
            with pytest.raises(ExportFailedError, match="Out of luck"):
                await waiting

    async def test_a_file_that_has_expired_is_refused(
        self, open_api: OpenApi, database: Connection, make_export: MakeExport, console: Console, tmp_path: Path
    ) -> None:
        user_id = await create_user(database)
        async with open_api(user_id) as api:
            job_id = (await make_export(api)).job_id
            await database.execute("UPDATE carryout.export_jobs SET expires_at = now() WHERE id = $1", UUID(job_id))
            gone = await wait_for(api, Job(job_id), None, console)
            with (
                open_output(tmp_path / "data.csv", force=False, resume=False) as output,
                pytest.raises(RefusedError, match="gone"),
            ):
                await download_export(api, gone, output, console)


class TestLive:
    async def test_whole_or_nothing(
        self, open_api: OpenApi, doors: Doors, database: Connection, console: Console, tmp_path: Path
    ) -> None:
        for format_ in STREAMED_FORMATS:
            for cut in (1_000, 1_400, 1_800):  # after the header, else aiohttp silently tries once more
                user_id = await create_user(database, content=300, body_bytes=900)
                doors.api.cuts = [cut]
                with pytest.raises(IncompleteError, match="broke"):
                    await self.stream(open_api, user_id, format_, tmp_path / "broken", console)
            user_id = await create_user(database, content=300, body_bytes=900)
            await self.stream(open_api, user_id, format_, tmp_path / format_, console)
            assert count_records((tmp_path / format_).read_bytes(), format_) == 301
        assert {path.name for path in tmp_path.iterdir()} == set(STREAMED_FORMATS)

    async def stream(self, open_api: OpenApi, user_id: UUID, format_: str, path: Path, console: Console) -> None:
        async with open_api(user_id) as api:
            with open_output(path, force=False, resume=False) as output:
                await stream_export(api, format_, output, console)

    async def test_a_document_without_a_detectable_end_is_refused(self, open_api: OpenApi) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/csv\r\n\r\nuser_id,email\r\n")
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, open_api(credentials={}) as api:
            api.url = URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            with pytest.raises(RefusedError, match="complete"):
                async with api.open_document("api/export/stream", {}):
                    pass
