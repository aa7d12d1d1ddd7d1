"""Log lines as a collector gets them: from the stdout of a process."""

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest

PREAMBLE = """
import asyncio, datetime, logging, uuid
import structlog
from service.errors import UnavailableError
from service.logs import configure_logging

configure_logging(LEVEL)
log = structlog.get_logger()
"""


def run(script: str, level: str = "info") -> list[dict[str, Any]]:
    """The lines that `script` logs. Nothing may reach stderr."""
    program = PREAMBLE.replace("LEVEL", repr(level)) + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert "canary" not in done.stdout
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_line_is_an_event_with_fields() -> None:
    (line,) = run("""
        structlog.contextvars.bind_contextvars(request_id="r1", trace_id="t1")
        job = uuid.UUID("0190b8a4-7c1e-7def-8000-0123456789ab")
        log.info("export_queued", job_id=job, at=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), records=3)
    """)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "export_queued",
        "level": "info",
        "request_id": "r1",
        "trace_id": "t1",
        "job_id": "0190b8a4-7c1e-7def-8000-0123456789ab",
        "at": "2026-01-01T00:00:00+00:00",
        "records": 3,
    }


def test_line_breaks_stay_inside_a_line() -> None:
    (line,) = run("""log.info("request", path="a\\r\\n{}\\x00\\ud800")""")
    assert line["path"] == "a\r\n{}\x00\ud800"


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "Authorization",
        "api_key",
        "X-API-Key",
        "signature",
        "link_secret",
        "password_hash",
        "to_email",
        "Cookie",
    ],
)
def test_secrets_are_redacted_at_any_depth(name: str) -> None:
    first, second = run(f"""
        log.info("first", **{{{name!r}: "canary"}})
        log.info("second", headers=[{{{name!r}: {{"inner": "canary"}}}}])
    """)
    assert first[name] == "[redacted]"
    assert second["headers"] == [{name: "[redacted]"}]


def test_values_of_unknown_types_show_their_type_alone() -> None:
    (line,) = run("""log.info("request", error=ValueError("canary"), data={1: b"canary"})""")
    assert (line["error"], line["data"]) == ("<ValueError>", {"1": "<bytes>"})


def test_an_exception_shows_its_types_and_frames() -> None:
    (line,) = run("""
        def connect():
            password = "canary"
            raise ConnectionError("postgresql://u:canary@db")

        try:
            try:
                connect()
            except ConnectionError:
                raise UnavailableError("The database doesn't answer") from None
        except UnavailableError:
            log.exception("request_failed")
    """)
    outer, inner = line["exception"]
    assert (outer["type"], outer["detail"]) == ("service.errors.UnavailableError", "The database doesn't answer")
    assert (inner["type"], set(inner)) == ("builtins.ConnectionError", {"type", "frames"})
    assert [frame.rpartition(" ")[2] for frame in inner["frames"]] == ["<module>", "connect"]


def test_members_of_a_group_are_shown() -> None:
    (line,) = run("""
        error = ExceptionGroup("canary", [ValueError("canary"), ExceptionGroup("canary", [OSError("canary")])])
        error.exceptions[0].__context__ = error
        log.error("task_failed", exc_info=error)
    """)
    assert [part["type"].removeprefix("builtins.") for part in line["exception"]] == [
        "ExceptionGroup",
        "ValueError",
        "ExceptionGroup",
        "OSError",
    ]


def test_libraries_go_through_the_same_renderer_without_their_arguments() -> None:
    (line,) = run("""
        structlog.contextvars.bind_contextvars(request_id="r1")
        logging.getLogger("botocore.auth").info("Signature: %s", "canary", stack_info=True)
    """)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "Signature: %s", "level": "info", "logger": "botocore.auth", "request_id": "r1"}


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn.error", "arq.worker"])
def test_uvicorn_and_arq_tell_whole_sentences(name: str) -> None:
    first, second, third = run(f"""
        logger = logging.getLogger({name!r})
        logger.info("Started server process [%d]", 7)
        logger.warning("%(done)d jobs", {{"done": 3}})
        logger.info("Finished")
    """)
    assert [line["event"] for line in (first, second, third)] == ["Started server process [7]", "3 jobs", "Finished"]
    assert first.keys() == {"event", "level", "logger", "timestamp"}


def test_a_lost_exception_of_asyncio_keeps_its_text_to_itself() -> None:
    (line,) = run("""
        async def fail():
            raise ValueError("canary")

        async def main():
            task = asyncio.create_task(fail())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            del task

        asyncio.run(main())
    """)
    assert (line["event"], line["logger"]) == ("Task exception was never retrieved", "asyncio")
    assert line["exception"][0]["type"] == "builtins.ValueError"


def test_a_broken_log_call_says_nothing_on_stderr() -> None:
    assert len(run("""logging.getLogger("arq").warning("%d", "canary")""")) == 1


@pytest.mark.parametrize(
    ("level", "events"), [("debug", ["d", "i", "li", "w"]), ("info", ["i", "li", "w"]), ("warning", ["w"])]
)
def test_levels(level: str, events: list[str]) -> None:
    lines = run(
        """
        log.debug("d")
        log.info("i")
        logging.getLogger("botocore").debug("ld")
        logging.getLogger("botocore").info("li")
        log.warning("w")
        """,
        level,
    )
    assert [line["event"] for line in lines] == events


def test_a_server_logs_no_query_no_header_and_no_exception_text() -> None:
    lines = run("""
        import httpx, socket, uvicorn
        from starlette.routing import Route
        from tests.api.serving import create_edge, serve

        async def fail(request):
            raise ValueError(f"canary {request.url}")

        async def break_off(request):
            async def run(scope, receive, send):
                await send({"type": "http.response.start", "status": 200})
                raise ValueError("canary")
            return run

        async def main():
            app = create_edge([Route("/fail", fail), Route("/break", break_off)])
            async with serve(app) as served, served.client() as client:
                secrets = {"Authorization": "Bearer canary", "Cookie": "canary", "X-Request-ID": "r1"}
                await client.get("/fail?signature=canary", headers=secrets)
                try:
                    await client.get("/break?signature=canary", headers=secrets)
                except httpx.RemoteProtocolError:
                    pass

        logging.getLogger("httpx").disabled = True
        asyncio.run(main())
    """)
    of_request = [(line["event"], line["level"]) for line in lines if line.get("request_id") == "r1"]
    assert of_request == [
        ("request_failed", "error"),
        ("request", "info"),
        ("request", "info"),
        ("Exception in ASGI application", "error"),
    ]
    assert all(line["exception"][0]["type"] == "builtins.ValueError" for line in lines if line["level"] == "error")
