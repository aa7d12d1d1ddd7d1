"""Log lines as a collector gets them: from the stdout of a process."""

import fcntl
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO

import pytest

from service.telemetry.logs import LineSink

PREAMBLE = """
import asyncio, datetime, logging, uuid
import structlog
from service.errors import ConfigurationError, DocumentError, OutageError, SubjectNotFoundError, UnavailableError
from service.telemetry.logs import configure_logging

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
                raise KeyError("canary") from None
        except KeyError:
            log.exception("request_failed")
    """)
    outer, inner = line["exception"]
    assert line["level"] == "error"
    assert (outer["type"], inner["type"]) == ("builtins.KeyError", "builtins.ConnectionError")
    assert set(outer) == set(inner) == {"type", "frames"}
    assert [frame.rpartition(" ")[2] for frame in inner["frames"]] == ["<module>", "connect"]


@pytest.mark.parametrize(
    ("cause", "words", "name"),
    [
        ("ConnectionRefusedError('canary')", "can't be reached: nothing listens there", "ConnectionRefusedError"),
        ("TimeoutError('canary')", "didn't answer in time", "TimeoutError"),
        ("asyncpg.InvalidPasswordError('canary')", "refused the password", "InvalidPasswordError"),
        ("asyncpg.ConnectionDoesNotExistError('canary')", "ended the connection", "ConnectionDoesNotExistError"),
        ("redis.ConnectionError('redis://:canary@host')", "can't be reached", "ConnectionError"),
        ("redis.OutOfMemoryError('canary')", "has no memory left", "OutOfMemoryError"),
        (
            "botocore.EndpointConnectionError(endpoint_url='http://canary')",
            "can't be reached",
            "EndpointConnectionError",
        ),
        (
            "botocore.ClientError({'Error': {'Code': 'SlowDown', 'Message': 'canary'}}, 'PutObject')",
            "answers with the error: SlowDown",
            "ClientError",
        ),
        ("LookupError('canary')", "can't be used: LookupError", "LookupError"),
    ],
)
def test_an_outage_is_one_short_warning_that_names_the_server(cause: str, words: str, name: str) -> None:
    """However often it was wrapped, and no matter which library logs it: uvicorn does, where a response breaks off."""
    lines = run(f"""
        import asyncpg, botocore.exceptions as botocore, redis.exceptions as redis

        try:
            try:
                raise {cause}
            except Exception as error:
                raise ConfigurationError("PostgreSQL went away") from error
        except ConfigurationError as error:
            outage = OutageError("It is not available", server="s3")
            outage.__cause__ = error
        log.error("request_failed", exc_info=outage)
        logging.getLogger("uvicorn.error").error("Exception in ASGI application", exc_info=outage)
    """)
    assert [line["event"] for line in lines] == ["request_failed", "Exception in ASGI application"]
    for line in lines:
        assert "exception" not in line
        assert {field: line[field] for field in ("level", "server", "cause", "error_type")} == {
            "level": "warning",
            "server": "s3",
            "cause": words,
            "error_type": name,
        }


@pytest.mark.parametrize(
    ("error", "level"),
    [
        ("UnavailableError('All streams are taken')", "warning"),
        ("SubjectNotFoundError('All streams are taken')", "warning"),
        ("DocumentError('All streams are taken')", "error"),
        ("ConfigurationError('All streams are taken')", "error"),
    ],
)
def test_an_expected_error_is_logged_without_frames(error: str, level: str) -> None:
    first, second = run(f"""
        log.error("request_failed", exc_info={error})
        log.info("noted", exc_info={error})
    """)
    assert (first["level"], first["detail"]) == (level, "All streams are taken")
    assert first["error_type"] == error.partition("(")[0]
    assert second["level"] == "info"
    assert "exception" not in first | second


def test_outage_is_told_when_it_begins_changes_and_ends() -> None:
    refused, starting, again, over, anew = run("""
        from service.telemetry.outages import OutageLog

        async def main():
            outages = OutageLog("queue_unavailable", "queue_available", loop="queue")
            await outages.end()
            for cause in [ConnectionRefusedError()] * 3 + [TimeoutError()] * 3 + [ConnectionRefusedError()] * 3:
                async with outages.catching(OutageError):
                    raise OutageError("Redis is not available", server="redis") from cause
            for _ in range(3):
                async with outages.catching(OutageError):
                    pass
            async with outages.catching(OutageError, KeyError):
                raise KeyError("canary")

        asyncio.run(main())
    """)
    assert [line["event"] for line in (refused, starting, again, anew)] == ["queue_unavailable"] * 4
    assert [line["server"] for line in (refused, starting, again, over)] == ["redis"] * 4
    assert [line["error_type"] for line in (refused, starting, again)] == [
        "ConnectionRefusedError",
        "TimeoutError",
        "ConnectionRefusedError",
    ]
    assert refused["since"] == starting["since"] == again["since"] == over["since"] < anew["since"]
    assert (over["event"], over["level"], over["loop"]) == ("queue_available", "info", "queue")
    assert over["seconds"] >= 0
    assert (anew["level"], anew["exception"][0]["type"]) == ("error", "builtins.KeyError")


def test_lasting_outage_is_told_again_now_and_then() -> None:
    lines = run("""
        import service.telemetry.outages

        async def main(reminds):
            service.telemetry.outages.REMIND_SECONDS = reminds
            outages = service.telemetry.outages.OutageLog("repair_postponed", "repair_resumed")
            for _ in range(3):
                await outages.record(OutageError("Redis is not available", server="redis"))

        asyncio.run(main(0.0))
        asyncio.run(main(600.0))
    """)
    assert len(lines) == 3 + 1


def test_outage_names_the_server_of_each_time() -> None:
    s3, postgresql, over = run("""
        from service.telemetry.outages import OutageLog

        async def main():
            outages = OutageLog("repair_postponed", "repair_resumed", step="expire files")
            for server in ("s3", "s3", "postgresql", "postgresql"):
                await outages.record(OutageError("It is not available", server=server))
            await outages.end()

        asyncio.run(main())
    """)
    assert [line["server"] for line in (s3, postgresql, over)] == ["s3", "postgresql", "postgresql"]
    assert {line["step"] for line in (s3, postgresql, over)} == {"expire files"}


def test_an_exception_that_is_not_an_outage_is_passed_on() -> None:
    (line,) = run("""
        from service.telemetry.outages import OutageLog

        async def main():
            outages = OutageLog("repair_postponed", "repair_resumed")
            async with outages.catching(OutageError):
                raise KeyError

        try:
            asyncio.run(main())
        except KeyError:
            log.info("raised")
    """)
    assert line["event"] == "raised"


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


def test_a_response_that_an_outage_breaks_off_is_a_short_line() -> None:
    lines = run("""
        import httpx
        from starlette.routing import Route
        from starlette.responses import StreamingResponse
        from tests.api.serving import create_edge, serve

        async def break_off(request):
            async def chunks():
                yield b"first"
                raise OutageError("PostgreSQL is not available", server="source") from TimeoutError("canary")
            return StreamingResponse(chunks())

        async def main():
            async with serve(create_edge([Route("/", break_off)])) as served, served.client() as client:
                try:
                    await client.get("/", headers={"X-Request-ID": "r1"})
                except httpx.RemoteProtocolError:
                    pass

        logging.getLogger("httpx").disabled = True
        asyncio.run(main())
    """)
    (line,) = (line for line in lines if line["level"] != "info")
    assert line.pop("timestamp")
    assert line == {
        "event": "Exception in ASGI application",
        "logger": "uvicorn.error",
        "level": "warning",
        "request_id": "r1",
        "server": "source",
        "cause": "didn't answer in time",
        "error_type": "TimeoutError",
    }


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


def test_a_line_after_a_torn_one_begins_anew() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    free = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    lost: list[str] = []
    sink = LineSink(patience_seconds=0)
    sink.on_loss(lambda: lost.append("line"))
    with os.fdopen(reading, "rb", buffering=0) as pipe, os.fdopen(writing, "w") as stream:
        sink.open(stream)
        sink.write("a" * (free + 1) + "\n")
        assert pipe.read(free) == b"a" * free
        sink.write("b\n")
        assert pipe.read(free) == b"\nb\n"
        sink.write("c\n")
        assert pipe.read(free) == b"c\n"
    assert lost == ["line"]


@contextmanager
def full_pipe() -> Iterator[tuple[BinaryIO, int]]:
    """A full one: the file that reads from it, and the descriptor that writes to it."""
    reading, writing = os.pipe()
    os.write(writing, b"x" * fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096))
    with os.fdopen(reading, "rb") as pipe:
        yield pipe, writing


def test_only_a_line_waits_for_a_collector_that_has_stopped_reading() -> None:
    program = PREAMBLE.replace("LEVEL", "'info'") + textwrap.dedent("""
        import os

        async def main():
            line = asyncio.create_task(log.ainfo("stuck"))
            await asyncio.sleep(0.2)
            os.write(2, b"waits" if not line.done() else b"is done")
            await line
            await log.ainfo("told")

        asyncio.run(main())
    """)
    with full_pipe() as (pipe, writing):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE)
        os.close(writing)
        assert process.stderr is not None
        with process.stderr:
            assert process.stderr.read(5) == b"waits"
            assert pipe.read(4_096) == b"x" * 4_096
            lines = pipe.read().splitlines()
            assert process.stderr.read() == b""
        assert process.wait() == 0
    assert [json.loads(line)["event"] for line in lines] == ["stuck", "told"]


def test_a_collector_that_reads_no_more_costs_its_patience_once() -> None:
    lost: list[str] = []
    sink = LineSink(patience_seconds=0.2)
    sink.on_loss(lambda: lost.append("line"))
    with full_pipe() as (pipe, writing), os.fdopen(writing, "w") as stream:
        sink.open(stream)
        assert not sink.takes_lines()
        sink.write("a\n")
        assert sink.takes_lines()  # it is lost at once
        for _ in range(1_000):
            sink.write("b\n")
        assert len(lost) == 1_001
        assert os.read(pipe.fileno(), 4_096) == b"x" * 4_096
        sink.write("c\n")
        assert os.read(pipe.fileno(), 4_096) == b"c\n"
        assert len(lost) == 1_001


def test_a_line_longer_than_a_pipe_is_told_piece_by_piece() -> None:
    sink = LineSink()
    text = "".join(map(str, range(5_000)))
    with full_pipe() as (pipe, writing), os.fdopen(writing, "w") as stream, ThreadPoolExecutor() as threads:
        sink.open(stream)
        written = threads.submit(sink.write, f"{text}\n")
        received = bytearray()
        while not received.endswith(b"\n"):
            received += os.read(pipe.fileno(), 1_000)
        written.result()
    assert received == b"x" * 4_096 + text.encode() + b"\n"
