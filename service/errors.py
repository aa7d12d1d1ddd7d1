"""What can go wrong, each named for the fact. Nothing here knows HTTP or exit codes; the doors translate."""


class ServiceError(Exception):
    """A failure whose message may be shown to the caller.

    `detail` is a whole sentence without secrets; `fields` are further facts for machines.
    """

    def __init__(self, detail: str, **fields: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields


def find_cause(error: BaseException) -> BaseException:
    """What one of ours was raised from, however often it was wrapped; `error` itself if nobody else failed."""
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
    """Nobody we know is asking. The detail never says which check failed."""


class PermissionDeniedError(ServiceError):
    """We know who asks, and they may not."""


class ExportNotFoundError(ServiceError):
    """No such export, or not the caller's: the two look the same."""

    def __init__(self) -> None:
        super().__init__("Export not found")


class ExportInProgressError(ServiceError):
    """The user already has a pending or processing export."""


class ExportTooLargeError(ServiceError):
    """More records than the cap."""


class ExportGoneError(ServiceError):
    """The file's time is over, or its owner deleted it."""


class ExportNotReadyError(ServiceError):
    """The export has no file: it hasn't been made yet, or it failed."""


class IdempotencyConflictError(ServiceError):
    """An Idempotency-Key was used again with another body."""


class RateLimitedError(ServiceError):
    """Too many in too short a time; `retry_after_seconds` says how long to wait."""

    def __init__(self, detail: str, *, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class RangeNotSatisfiableError(ServiceError):
    """The asked byte range lies outside the file of `size_bytes`."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__("The requested range lies outside the file")
        self.size_bytes = size_bytes


class UnavailableError(ServiceError):
    """A server we depend on doesn't answer, or we are full; trying again later may help."""

    def __init__(self, detail: str, *, retry_after_seconds: int = 5, **fields: object) -> None:
        super().__init__(detail, **fields)
        self.retry_after_seconds = retry_after_seconds


class OutageError(UnavailableError):
    """A server we depend on answers nobody: that is no fault of what we asked it.

    `server` is its name in the log, and in `/readyz` if that asks it: `postgresql`, `source`, `redis`, `s3`.
    """

    def __init__(self, detail: str, *, server: str) -> None:
        super().__init__(detail)
        self.server = server


class SubjectNotFoundError(ServiceError):
    """The application's database has no such user (any more)."""


class DocumentError(ServiceError):
    """A document can't be finished: its rows don't match their count, or the source failed mid-way."""


class ExportSupersededError(ServiceError):
    """Another attempt has this export now, or its user cancelled it: this one may change nothing any more."""

    def __init__(self) -> None:
        super().__init__("This attempt isn't the current one any more")


class NotificationSupersededError(ServiceError):
    """Another worker has this mail now, or it has ended: this attempt may neither send nor change it any more."""

    def __init__(self) -> None:
        super().__init__("This attempt to send a mail isn't the current one any more")
