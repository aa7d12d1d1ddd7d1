"""Log lines on stdout: one JSON object per event, with a static event name and the data in fields.

Messages of libraries and exceptions may contain rows, addresses or credentials, so they are not logged. Stdlib records
keep the format string without its arguments; exceptions keep their types and frames. Only the lines of uvicorn and arq
are logged whole: they name processes, sockets and job ids.
Expected failures have a class in `service.errors` and need no frames: logged with `exc_info`, they give the server and
the cause in words, as a warning unless the service itself is at fault.
Uvicorn would replace this configuration with its own: start it with `log_config=None`.
"""

import asyncio
import logging
import select
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from datetime import date
from typing import Any, BinaryIO, Final, TextIO, cast
from uuid import UUID

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from service.backends.failures import code_of, describe_cause, describe_for_operators
from service.errors import ConfigurationError, DocumentError, OutageError, ServiceError, find_cause

REDACTED = "[redacted]"
SECRET_WORDS = ("token", "authorization", "key", "signature", "secret", "password", "email", "cookie")
MAX_FRAMES = 30
PATIENCE_SECONDS = 5.0
ASYNC_LEVELS = ("info", "warning", "error")
TOLD_WHOLE = frozenset({"uvicorn", "arq"})
# Expected failures that stay errors: an operator has to mend the configuration or the data.
MEND = (ConfigurationError, DocumentError)


class LineSink:
    """Writes log lines to a stream past its buffers. A line that can't be written is lost: a full disk, a closed pipe,
    or one that its collector leaves full for `patience_seconds`, must not end the work that the line tells of.
    """

    def __init__(self, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._stalled = False
        self._on_loss: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._torn = b""
        self._stream: BinaryIO | None = None

    def open(self, stream: TextIO | None) -> None:
        """None is the `sys.stdout` of a process that was started without one."""
        self._stream = getattr(stream.buffer, "raw", stream.buffer) if stream else None

    def takes_lines(self) -> bool:
        """Whether a line can be written, or is lost, without waiting."""
        return self._stalled or (not self._lock.locked() and self._is_ready(0))

    def on_loss(self, call: Callable[[], None]) -> None:
        """Call this for each lost line, from any thread."""
        self._on_loss = call

    def write(self, line: str) -> None:
        with self._lock:
            try:
                self._write(self._torn + line.encode("utf-8", "backslashreplace"))
            except (OSError, ValueError):  # the latter: the stream is closed
                if self._on_loss:
                    self._on_loss()
            else:
                self._torn = b""

    def flush(self) -> None:
        """Each write has reached the stream already."""

    def _write(self, rest: bytes) -> None:
        while rest:
            self._stalled = not self._is_ready(0 if self._stalled else self._patience_seconds)
            written = self._stream.write(rest[: select.PIPE_BUF]) if self._stream and not self._stalled else None
            if not written:
                raise BlockingIOError
            rest, self._torn = rest[written:], b"\n"

    def _is_ready(self, seconds: float) -> bool:
        """Whether the stream takes PIPE_BUF bytes within this time: a pipe with room does (poll(2)), and any file."""
        try:
            poll = select.poll()
            poll.register(self._stream.fileno() if self._stream else -1, select.POLLOUT)
            return bool(poll.poll(seconds * 1_000))
        except (OSError, ValueError):  # there is none, or it is closed: a write says so
            return True


SINK: Final = LineSink()


def configure_logging(level: str) -> None:
    """Route structlog and stdlib loggers to stdout. Libraries log at info or above: debug lines hold payloads."""
    SINK.open(sys.stdout)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    processors = _processors()
    bound = structlog.make_filtering_bound_logger(threshold)
    render = structlog.processors.JSONRenderer(default=_encode)
    structlog.configure(
        processors=[*processors, render],
        wrapper_class=type("Logger", (bound,), {f"a{name}": _in_loop(bound, name) for name in ASYNC_LEVELS}),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", SINK)),
    )
    handler = logging.StreamHandler(SINK)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, _fill_in, _keep_first_line, *processors],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
            use_get_message=False,
            pass_foreign_args=True,
        )
    )
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.INFO), force=True)
    logging.raiseExceptions = False  # a line that can't be written must not print its data to stderr instead
    _silence_uvicorn()


def _in_loop(bound: type[Any], level: str) -> Callable[..., Awaitable[None]]:
    """The method for a coroutine. Structlog's own takes a thread, and with it six times the CPU of the line.

    Here only a line that may have to wait does, or one with frames, which is long.
    """
    write, write_in_thread = getattr(bound, level), getattr(bound, f"a{level}")

    async def log(self: object, event: str, **fields: object) -> None:
        if "exc_info" not in fields and SINK.takes_lines():
            write(self, event, **fields)
        else:
            await write_in_thread(self, event, **fields)

    return log


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: _redacted(name, value) for name, value in event.items()}


def describe_exception(error: BaseException) -> list[dict[str, object]]:
    """Types and frames of `error` and its causes, outermost first; a message only for a ServiceError."""
    return [_describe(link) for link in _chain(error, set())]


def describe_foreseen(error: ServiceError) -> dict[str, object]:
    """The fields that an operator needs: the server and the cause, or the error's detail."""
    facts: dict[str, object] = {"error_type": type(find_cause(error)).__name__}
    if code := code_of(error):
        facts["code"] = code
    if isinstance(error, OutageError):
        return {"server": error.server, "cause": describe_cause(error)} | facts
    return {"detail": describe_for_operators(error)} | facts


def _processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _render_exception,
        redact,
    ]


def _silence_uvicorn() -> None:
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
    logging.getLogger("uvicorn.access").propagate = False  # it prints query strings, which hold link signatures


def _fill_in(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    arguments = event.pop("positional_args", ())
    if arguments and event["logger"].partition(".")[0] in TOLD_WHOLE:
        with suppress(TypeError, ValueError, KeyError):  # a format that doesn't fit stays as it is
            event["event"] %= arguments
    return event


def _keep_first_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    # asyncio and uvicorn append the repr of a task, or a traceback, on further lines
    event["event"] = event["event"].partition("\n")[0]
    return event


def _redacted(name: str, value: object) -> object:
    if any(word in name.lower() for word in SECRET_WORDS):
        return REDACTED
    if isinstance(value, Mapping):
        return {str(key): _redacted(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted("", item) for item in value]
    return value


def _render_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event.pop("stack_info", None)
    given = event.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given
    if isinstance(error, tuple):  # the form in stdlib records
        error = error[1]
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, ServiceError):
        error = error.__cause__  # Starlette wraps an error that follows the start of a response
    if isinstance(error, ServiceError):
        event = {**describe_foreseen(error), **event}
        if event["level"] == "error" and not isinstance(error, MEND):
            event["level"] = "warning"
    elif isinstance(error, asyncio.CancelledError):  # only shutdown cancels work that another task would log
        event = {**event, "detail": "Cut by the end of the process", "level": "warning"}
    elif isinstance(error, BaseException):
        event["exception"] = describe_exception(error)
    return event


def _chain(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    if id(error) in seen:
        return
    seen.add(id(error))
    yield error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _chain(member, seen)
    if cause := error.__cause__ or error.__context__:  # also after `from None`: types and frames are safe to log
        yield from _chain(cause, seen)


def _describe(error: BaseException) -> dict[str, object]:
    frames = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), lookup_lines=False)
    described: dict[str, object] = {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-MAX_FRAMES:]],
    }
    if isinstance(error, ServiceError):
        described["detail"] = error.detail
    return described


def _encode(value: object) -> str:
    """Ids and times as text. Other values as their type: a repr may contain personal data."""
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else f"<{type(value).__qualname__}>"
