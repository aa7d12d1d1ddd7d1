"""Errors of the service. They know nothing of HTTP or exit codes: the API and the commands translate them."""

from enum import StrEnum

from guard.text import printable
from languages.words import to_translate

NO_SUCH_USER = to_translate("No such user")
# For users: operators read the server and the cause in the log.
AWAY = "The service is not available at the moment: please try again soon"
NOT_AUTHENTICATED = "Missing or invalid token"


class ServiceError(Exception):
    """A failure whose message may be shown to the caller.

    `detail` is a sentence without secrets; `fields` are further facts for machines. Quoted input is made printable and
    truncated here.
    """

    def __init__(self, detail: str, **fields: object) -> None:
        self.detail = printable(detail)
        super().__init__(self.detail)
        self.fields = {name: printable(value) if isinstance(value, str) else value for name, value in fields.items()}


def find_cause(error: BaseException) -> BaseException:
    """The root cause of a ServiceError, through all its wrappers; `error` itself if it has none."""
    cause: BaseException | None = error
    while isinstance(cause, ServiceError):
        cause = cause.__cause__
    return cause or error


class ConfigurationError(ServiceError):
    """The process can't start as configured: a setting, a dataset, or the database's schema is wrong."""


class InvalidRequestError(ServiceError):
    """The request is malformed."""


class InvalidValueError(ServiceError):
    """The request is well formed, but a value in it isn't allowed."""


class UnsupportedMediaTypeError(ServiceError):
    """The body isn't declared as JSON."""


class AuthenticationError(ServiceError):
    """The caller is not authenticated. The detail never says which check failed."""


class TokenFault(StrEnum):
    """Why a token was refused: for the log, a metric and the command line. Callers aren't told."""

    MISSING = "missing"
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    TYPE = "type"
    ALGORITHM = "algorithm"
    UNKNOWN_KEY = "unknown_key"
    SIGNATURE = "signature"
    EXPIRED = "expired"
    NOT_YET = "not_yet"
    CLOCK = "clock"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    CLAIM = "claim"
    PURPOSE = "purpose"
    USER = "user"


class TokenRefusedError(AuthenticationError):
    """A user's token isn't accepted."""

    def __init__(self, fault: TokenFault) -> None:
        super().__init__(NOT_AUTHENTICATED)
        self.fault = fault


class TokenTooLargeError(ServiceError):
    """A user's token has more than `most` characters: the only fault that its caller is told."""

    fault = TokenFault.TOO_LARGE

    def __init__(self, most: int) -> None:
        super().__init__(f"The token is too large: more than {most} characters")


class PermissionDeniedError(ServiceError):
    """The caller is authenticated but not authorized."""


class ExportNotFoundError(ServiceError):
    """The export doesn't exist or isn't the caller's. Both cases look the same."""

    def __init__(self) -> None:
        super().__init__("Export not found")


class ExportInProgressError(ServiceError):
    """The user already has a pending or processing export."""


class ExportTooLargeError(ServiceError):
    """The export has more records than the cap."""


class ExportGoneError(ServiceError):
    """The file has expired or was deleted."""


class ExportNotReadyError(ServiceError):
    """The export has no file: it hasn't been made yet, or it failed."""


class IdempotencyConflictError(ServiceError):
    """An Idempotency-Key was used again with another body."""


class RateLimitedError(ServiceError):
    """A rate limit or a concurrency cap is reached. The client may retry after `retry_after_seconds`."""

    def __init__(self, detail: str, *, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class PreconditionFailedError(ServiceError):
    """The client wants another version than the one there is (If-Match, If-Unmodified-Since)."""

    def __init__(self) -> None:
        super().__init__("There is another version than the one that If-Match or If-Unmodified-Since asks for")


class RangeNotSatisfiableError(ServiceError):
    """The requested byte range lies outside the file of `size_bytes`."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__("The requested range lies outside the file")
        self.size_bytes = size_bytes


class UnavailableError(ServiceError):
    """A server that we depend on doesn't answer, or a cap is reached. A later retry may succeed."""

    def __init__(self, detail: str, *, retry_after_seconds: int = 5, **fields: object) -> None:
        super().__init__(detail, **fields)
        self.retry_after_seconds = retry_after_seconds


class OutageError(UnavailableError):
    """A server we depend on is down for every request: the outage is independent of this one.

    `server` is its name in the log, and in `/readyz` if `/readyz` checks it: `postgresql`, `source`, `redis`, `s3`.
    """

    def __init__(self, detail: str, *, server: str) -> None:
        super().__init__(detail)
        self.server = server


class SubjectNotFoundError(ServiceError):
    """The user doesn't exist in the application's database, or was erased."""


class DocumentError(ServiceError):
    """A document can't be finished: its rows don't match their count, or the source failed mid-way."""


class ExportSupersededError(ServiceError):
    """Another attempt owns this export, or its user cancelled it. This attempt must not change the export."""

    def __init__(self) -> None:
        super().__init__("This attempt isn't the current one any more")


class EntrySupersededError(ServiceError):
    """Another worker owns this entry of an outbox, or the entry has ended. This attempt must not send or change it."""

    def __init__(self) -> None:
        super().__init__("This attempt to send isn't the current one any more")
