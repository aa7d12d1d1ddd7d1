"""Traces as a collector gets them: whole, with nothing personal, and no burden."""

import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from service.api.app import create_app
from service.errors import ConfigurationError
from service.mails.sending import send_due_mails
from service.resources import Resources, open_resources
from service.settings import Settings
from service.telemetry import otel
from service.telemetry.otel import open_otel_tracer
from service.telemetry.tracing import trace_id_of
from tests.api.conftest import ASYNC, CSV
from tests.api.problems import bearer
from tests.api.serving import serve
from tests.conftest import OpenDatabase, Token, on_database, open_client, patient_client
from tests.support.certificates import create_authority
from tests.support.collecting import Collector, open_collector
from tests.support.factories import CANARY, Connection, create_user, create_user_with
from worker.running import run_export

JOB, ERASED, STREAM, BROKEN, STRANGE, UNSAMPLED = (f"{number:032x}" for number in range(1, 7))
CLIENT_SPAN = "00f067aa0ba902b7"
PLAIN = {"Accept-Encoding": "identity"}


def traced(trace_id: str, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{trace_id}-{CLIENT_SPAN}-{flags}"}


class Scene(NamedTuple):
    collector: Collector
    traceparent: str
    """The trace context stored with the export of the trace JOB."""
    records: int
    streamed: bytes
    secrets: list[str]


class Play:
    """The requests of users, and the worker's part."""

    def __init__(
        self, resources: Resources, api: httpx.AsyncClient, database: Connection, token: Token, secrets: list[str]
    ) -> None:
        self.resources = resources
        self.api = api
        self.database = database
        self.token = token
        self.secrets = secrets

    def signed_in(self, user_id: UUID) -> dict[str, str]:
        token = self.token(user_id)
        self.secrets += [str(user_id), token]
        return bearer(token)

    async def run_job(self) -> str:
        headers = self.signed_in(await create_user_with(self.database, 5))
        created = await self.api.post("/api/export", json=CSV, headers={**headers, **ASYNC, **traced(JOB)})
        job_id = UUID(created.json()["job_id"])
        await run_export(self.resources, job_id)
        assert await send_due_mails(self.resources, limit=10) == 1
        shown = await self.api.get(created.headers["location"], headers=headers)
        link = shown.json()["download_url"].removeprefix(self.resources.settings.public_url)
        await self.api.get(link)
        self.secrets += [link.partition("?")[2]]
        return await self.database.fetchval("SELECT traceparent FROM carryout.export_jobs WHERE id = $1", job_id)  # type: ignore[no-any-return] # a text

    async def lose_user(self) -> None:
        user_id = await create_user_with(self.database, 1)
        headers = self.signed_in(user_id) | ASYNC | traced(ERASED)
        created = await self.api.post("/api/export", json=CSV, headers=headers)
        await self.database.execute("DELETE FROM public.users WHERE id = $1", user_id)
        await run_export(self.resources, UUID(created.json()["job_id"]))

    async def stream(self, records: int) -> bytes:
        headers = self.signed_in(await create_user_with(self.database, records)) | PLAIN | traced(STREAM)
        return (await self.api.get("/api/export/stream?format=csv", headers=headers)).content

    async def leave_stream(self) -> None:
        user_id = await create_user(self.database, content=3_000, body_bytes=1_900)
        headers = self.signed_in(user_id) | PLAIN | traced(BROKEN)
        async with self.api.stream("GET", "/api/export/stream?format=csv", headers=headers) as response:
            await anext(response.aiter_raw())

    async def ask_strangely(self) -> None:
        await self.api.request("PROPFIND", f"/{CANARY}?signature={CANARY}", headers=traced(STRANGE))
        await self.api.get(f"/{CANARY}", headers=traced(STRANGE))
        await self.api.get("/livez", headers=traced(UNSAMPLED, flags="00"))


@pytest.fixture(scope="module")
async def scene(common_settings: Settings, open_database: OpenDatabase, token: Token) -> AsyncIterator[Scene]:
    records = 7
    async with open_collector() as collector, open_database() as url:
        settings = msgspec.structs.replace(on_database(common_settings, url), otlp_endpoint=collector.endpoint)
        async with open_resources(settings) as resources, serve(create_app(resources)) as served:
            database = await asyncpg.connect(url)
            async with patient_client(served) as api:
                play = Play(resources, api, database, token, [CANARY, "@example.com", "127.0.0.1", "password"])
                traceparent = await play.run_job()
                await play.lose_user()
                streamed = await play.stream(records)
                await play.leave_stream()
                await play.ask_strangely()
            await database.close()
        yield Scene(collector, traceparent, records, streamed, play.secrets)


def test_one_trace_from_the_request_to_the_mail(scene: Scene) -> None:
    request = scene.collector.get("POST /api/export", JOB)
    run = scene.collector.get("export run", JOB)
    mail = scene.collector.get("mail send", JOB)
    upload = scene.collector.get("s3 upload", JOB)
    counted, snapshot = sorted(
        scene.collector.find("export snapshot", JOB), key=lambda span: span.parent_id != request.id
    )

    assert (request.kind, request.parent_id) == ("server", CLIENT_SPAN)
    assert (run.kind, run.parent_id) == ("consumer", request.id)
    assert (mail.kind, mail.parent_id) == ("client", request.id)
    assert (counted.parent_id, snapshot.parent_id) == (request.id, run.id)
    assert (upload.kind, upload.parent_id) == ("client", snapshot.id)
    assert scene.traceparent == f"00-{JOB}-{request.id}-01"


def test_spans_have_their_attributes(scene: Scene) -> None:
    assert (
        scene.collector.get("POST /api/export", JOB).attributes.items()
        >= {
            "http.request.method": "POST",
            "http.route": "/api/export",
            "http.response.status_code": 202,
            "url.scheme": "http",
            "carryout.outcome": "complete",
        }.items()
    )
    assert scene.collector.get("export run", JOB).attributes["carryout.attempt"] == 1
    assert scene.collector.get("s3 upload", JOB).attributes["carryout.bytes"] > 0
    assert scene.collector.get("mail send", JOB).attributes["carryout.outcome"] == "sent"
    assert not any(span.failed for span in scene.collector.spans if span.trace_id == JOB)


def test_a_failure_has_its_class_and_no_text(scene: Scene) -> None:
    run = scene.collector.get("export run", ERASED)

    assert run.failed
    assert run.attributes["error.type"] == "service.errors.SubjectNotFoundError"
    assert (run.message, run.events) == ("", 0)


def test_a_stream_lasts_to_its_end(scene: Scene) -> None:
    request = scene.collector.get("GET /api/export/stream", STREAM)
    snapshot = scene.collector.get("export snapshot", STREAM)

    assert request.attributes["http.response.body.size"] == len(scene.streamed)
    assert request.attributes["carryout.outcome"] == "complete"
    assert snapshot.parent_id == request.id
    assert snapshot.attributes == {"carryout.records": scene.records, "carryout.bytes": len(scene.streamed)}


def test_a_broken_stream_is_told(scene: Scene) -> None:
    request = scene.collector.get("GET /api/export/stream", BROKEN)

    assert request.attributes["carryout.outcome"] == "aborted"
    assert scene.collector.get("export snapshot", BROKEN).attributes["carryout.records"] < 3_001


def test_a_client_decides_that_its_trace_is_not_recorded(scene: Scene) -> None:
    assert UNSAMPLED not in {span.trace_id for span in scene.collector.spans}


def test_nothing_personal_leaves(scene: Scene) -> None:
    assert scene.collector.get("HTTP", STRANGE).attributes["http.request.method"] == "_OTHER"
    assert "http.route" not in scene.collector.get("GET", STRANGE).attributes
    assert not [secret for secret in scene.secrets if secret in scene.collector.text]


async def test_a_hanging_collector_delays_no_request(
    settings: Settings, database: Connection, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otel, "EXPORT_SECONDS", 600.0)
    monkeypatch.setattr(otel, "FLUSH_SECONDS", 0.1)
    user_id = await create_user_with(database, 3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert await export_at_once(settings, token(user_id), silent) == 201
        assert otel.FLUSHING in {thread.name for thread in threading.enumerate()}  # no request waited for it


async def test_a_missing_collector_delays_no_request(
    settings: Settings, database: Connection, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otel, "FLUSH_SECONDS", 0.1)
    user_id = await create_user_with(database, 3)
    with closing(socket.socket()) as unheard:
        unheard.bind(("127.0.0.1", 0))
        assert await export_at_once(settings, token(user_id), unheard) == 201


async def export_at_once(settings: Settings, token: str, collector: socket.socket) -> int:
    endpoint = f"http://127.0.0.1:{collector.getsockname()[1]}"
    async with open_client(msgspec.structs.replace(settings, otlp_endpoint=endpoint)) as api:
        return (await api.post("/api/export", json=CSV, headers=bearer(token))).status_code


async def test_a_collector_of_a_private_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # which come first
        monkeypatch.delenv(name, raising=False)
    authority = create_authority(tmp_path / "authority.pem")
    async with open_collector(authority.issue(tmp_path / "collector.pem")) as collector:
        async with open_otel_tracer(collector.endpoint, str(authority.file)) as tracer:
            with tracer.entry("probe", "server", f"00-{JOB}-{CLIENT_SPAN}-01"):
                pass
        assert collector.get("probe", JOB)


async def test_the_missing_package_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "service.telemetry.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    with pytest.raises(ConfigurationError, match=r"pip install carryout\[otel\]"):
        async with open_resources(msgspec.structs.replace(settings, otlp_endpoint="http://127.0.0.1:4318")):
            pass


async def test_the_logs_of_job_and_mail_name_the_trace(
    resources: Resources, database: Connection, api: httpx.AsyncClient, token: Token
) -> None:
    headers = bearer(token(await create_user_with(database, 3))) | ASYNC | traced(JOB)
    created = await api.post("/api/export", json=CSV, headers=headers)
    with capture_logs([structlog.contextvars.merge_contextvars]) as logs:
        await run_export(resources, UUID(created.json()["job_id"]))
        await send_due_mails(resources, limit=10)

    ids = {line["event"]: (line["trace_id"], line["request_id"]) for line in logs}
    expected = (JOB, created.headers["x-request-id"])
    assert ids == dict.fromkeys(("export_started", "export_completed", "mail_attempted"), expected)


async def test_a_stored_trace_is_not_believed(
    resources: Resources, database: Connection, api: httpx.AsyncClient, token: Token
) -> None:
    headers = bearer(token(await create_user_with(database, 3))) | ASYNC
    created = await api.post("/api/export", json=CSV, headers=headers)
    job_id = UUID(created.json()["job_id"])
    await database.execute("UPDATE carryout.export_jobs SET traceparent = '00-canary'")

    async with resources.connection() as connection:
        export = await resources.exports.find(connection, job_id)
    assert export
    assert export.log_context == {"job_id": str(job_id), "request_id": created.headers["x-request-id"]}


@pytest.mark.parametrize(
    "traceparent",
    [None, "", "canary", f"ff-{JOB}-{CLIENT_SPAN}-01", f"00-{'0' * 32}-{CLIENT_SPAN}-01", f"00-{JOB}-{'0' * 16}-01"],
)
def test_an_invalid_traceparent_names_no_trace(traceparent: str | None) -> None:
    assert trace_id_of(traceparent) is None
