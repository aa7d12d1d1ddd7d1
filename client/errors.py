"""The client's errors, each with its exit code for scripts."""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import ClassVar

from client.words import gettext


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
    """The status that shells report for a program ended by Ctrl-C."""
    BROKEN_PIPE = 141
    """The status that shells report for a program that wrote to `head` after it closed the pipe."""


MEANINGS: Mapping[ExitCode, str] = MappingProxyType(
    {
        ExitCode.OK: "done, the file is complete",
        ExitCode.REFUSED: "the server refused the request, or any error not listed below",
        ExitCode.USAGE: "wrong options, or FILE exists or can't be created",
        ExitCode.NOT_AUTHORISED: "the token or key is wrong, expired, or lacks the right",
        ExitCode.IN_PROGRESS: "another export is in progress (with --no-wait, in another format, or a live one)",
        ExitCode.TOO_LARGE: "more records than the server exports",
        ExitCode.EXPORT_FAILED: "the export failed",
        ExitCode.INCOMPLETE: "network or server unavailable, incomplete after all retries",
        ExitCode.CHECKSUM: "the download isn't the file that the server made",
        ExitCode.INTERRUPTED: "interrupted",
        ExitCode.BROKEN_PIPE: "the reader of standard output closed it",
    }
)


class ClientError(Exception):
    """A failure as one sentence; `request_id` finds it in the server's log."""

    exit_code: ClassVar[ExitCode]
    hint: str | None = None
    """Advice for the user, as a sentence of its own."""

    def __init__(self, detail: str, *, request_id: str | None = None) -> None:
        super().__init__(f"{detail} (request_id {request_id})" if request_id else detail)


class RefusedError(ClientError):
    """The server refuses, or its answer isn't Carryout's."""

    exit_code = ExitCode.REFUSED


class OutputError(ClientError):
    """FILE exists, can't be created, or another process is writing it."""

    exit_code = ExitCode.USAGE


class NotAuthorisedError(ClientError):
    """The server rejects the credential, or the caller lacks the right."""

    exit_code = ExitCode.NOT_AUTHORISED


class InProgressError(ClientError):
    """Another export of this user is running: `job_id`, unless it is a live one."""

    exit_code = ExitCode.IN_PROGRESS

    def __init__(self, detail: str, *, job_id: str | None = None, request_id: str | None = None) -> None:
        sentence = gettext("%(sentence)s: job %(job_id)s", sentence=detail, job_id=job_id) if job_id else detail
        super().__init__(sentence, request_id=request_id)
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
