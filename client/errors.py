"""What can go wrong on the client's side, each with the exit code by which scripts tell it."""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import ClassVar


class ExitCode(IntEnum):
    OK = 0
    REFUSED = 1
    USAGE = 2
    """Also click's code for wrong options."""
    NOT_AUTHORISED = 3
    IN_PROGRESS = 4
    TOO_LARGE = 5
    EXPORT_FAILED = 6
    INCOMPLETE = 7
    CHECKSUM = 8
    INTERRUPTED = 130
    """What shells say of a program ended by Ctrl-C."""
    BROKEN_PIPE = 141
    """What they say of one that wrote to `head` once that had enough."""


MEANINGS: Mapping[ExitCode, str] = MappingProxyType(
    {
        ExitCode.OK: "done, the file is complete",
        ExitCode.REFUSED: "the server refused, or anything not named below",
        ExitCode.USAGE: "wrong options, or FILE is there already or can't be made",
        ExitCode.NOT_AUTHORISED: "the token or key is wrong, expired, or may not do this",
        ExitCode.IN_PROGRESS: "another export is in progress (with --no-wait, in another format, or a live one)",
        ExitCode.TOO_LARGE: "more records than the server exports",
        ExitCode.EXPORT_FAILED: "the export failed",
        ExitCode.INCOMPLETE: "network or server unavailable, incomplete after all tries",
        ExitCode.CHECKSUM: "what arrived isn't what the server made",
        ExitCode.INTERRUPTED: "interrupted",
        ExitCode.BROKEN_PIPE: "nobody reads standard output any more",
    }
)


class ClientError(Exception):
    """A failure told in one sentence; `request_id` finds it in the server's log."""

    exit_code: ClassVar[ExitCode]
    hint: str | None = None
    """What may help, as a sentence of its own."""

    def __init__(self, detail: str, *, request_id: str | None = None) -> None:
        super().__init__(f"{detail} (request_id {request_id})" if request_id else detail)


class RefusedError(ClientError):
    """The server won't do it, or answers as no Carryout does."""

    exit_code = ExitCode.REFUSED


class OutputError(ClientError):
    """FILE is there already, can't be made, or somebody else is writing it."""

    exit_code = ExitCode.USAGE


class NotAuthorisedError(ClientError):
    """The server doesn't know who asks, or they may not."""

    exit_code = ExitCode.NOT_AUTHORISED


class InProgressError(ClientError):
    """Another export of this user is running: `job_id`, unless it is a live one."""

    exit_code = ExitCode.IN_PROGRESS

    def __init__(self, detail: str, *, job_id: str | None = None, request_id: str | None = None) -> None:
        super().__init__(f"{detail}: job {job_id}" if job_id else detail, request_id=request_id)
        self.job_id = job_id


class TooLargeError(ClientError):
    """More records than the server's cap."""

    exit_code = ExitCode.TOO_LARGE

    def __init__(self, detail: str, *, suggestion: str | None = None, request_id: str | None = None) -> None:
        super().__init__(detail, request_id=request_id)
        self.hint = suggestion


class ExportFailedError(ClientError):
    """The server accepted the export and couldn't make it, or its user cancelled it."""

    exit_code = ExitCode.EXPORT_FAILED


class IncompleteError(ClientError):
    """The connection broke, or the server is unavailable: another try may help, after `retry_after_seconds`."""

    exit_code = ExitCode.INCOMPLETE

    def __init__(self, detail: str, *, retry_after_seconds: float = 0, request_id: str | None = None) -> None:
        super().__init__(detail, request_id=request_id)
        self.retry_after_seconds = retry_after_seconds


class ChecksumError(ClientError):
    """The bytes that arrived aren't those of the export, or are more."""

    exit_code = ExitCode.CHECKSUM
