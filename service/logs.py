"""Log lines: one JSON object an event on stdout, with a static name, and data in fields.

Whatever a library or an exception says in prose may hold rows, addresses or credentials, so prose isn't
logged: of stdlib records the format string without its arguments, of exceptions their types and frames. Whole are the
lines of uvicorn and arq alone, which tell of processes, sockets and job ids.
What was foreseen has a class in `service.errors`, and needs no frames: who logs it with `exc_info` gets what failed, in
words, and a warning where an error would blame us.
Uvicorn would replace this configuration with its own: start it with `log_config=None`.
"""

import asyncio
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date
from uuid import UUID

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from service.causes import describe_cause
from service.errors import ConfigurationError, DocumentError, OutageError, ServiceError, find_cause

REDACTED = "[redacted]"
SECRET_WORDS = ("token", "authorization", "key", "signature", "secret", "password", "email", "cookie")
MAX_FRAMES = 30
TOLD_WHOLE = frozenset({"uvicorn", "arq"})
# Foreseen, and yet something is wrong with the service or its data.
MEND = (ConfigurationError, DocumentError)


def configure_logging(level: str) -> None:
    """Route structlog and stdlib loggers to stdout. Libraries stay at info or above: their debug is about payloads."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    processors = _processors()
    render = structlog.processors.JSONRenderer(default=_encode)
    structlog.configure(
        processors=[*processors, render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
    )
    handler = logging.StreamHandler(sys.stdout)
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


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: _redacted(name, value) for name, value in event.items()}


def describe_exception(error: BaseException) -> list[dict[str, object]]:
    """`error` and what led to it, outermost first: types and frames, and the message only where it may be shown."""
    return [_describe(link) for link in _chain(error, set())]


def describe_foreseen(error: ServiceError) -> dict[str, object]:
    """What an operator needs to know of it: which server, and why; or what else is the matter."""
    error_type = type(find_cause(error)).__name__
    if isinstance(error, OutageError):
        return {"server": error.server, "cause": describe_cause(error), "error_type": error_type}
    return {"detail": error.detail, "error_type": error_type}


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
    logging.getLogger("uvicorn.access").propagate = False  # it prints query strings: link signatures


def _fill_in(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    arguments = event.pop("positional_args", ())
    if arguments and event["logger"].partition(".")[0] in TOLD_WHOLE:
        with suppress(TypeError, ValueError, KeyError):  # a format that doesn't fit stays as it is
            event["event"] %= arguments
    return event


def _keep_first_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    # asyncio and uvicorn append the repr of a task, or a whole traceback, below it
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
    if isinstance(error, tuple):  # as stdlib records have it
        error = error[1]
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, ServiceError):
        error = error.__cause__  # Starlette's wrapping, where a response had begun
    if isinstance(error, ServiceError):
        event = {**describe_foreseen(error), **event}
        if event["level"] == "error" and not isinstance(error, MEND):
            event["level"] = "warning"
    elif isinstance(error, asyncio.CancelledError):  # only a server that stops cancels what somebody else would log
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
    if cause := error.__cause__ or error.__context__:  # also what `from None` hides: types and frames give nothing away
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
    """Ids and times as text; anything else by its type alone, as its repr may hold what must not be logged."""
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else f"<{type(value).__qualname__}>"
