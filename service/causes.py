"""Why something failed, in words for the start's last sentence and for the log: no address, no credentials."""

from collections.abc import Mapping
from typing import Final

import botocore.exceptions
import redis.exceptions

from service.database import REFUSED_PASSWORD, describe_failure
from service.errors import ServiceError, find_cause
from service.unreachable import NO_ANSWER, Failures, describe_unreachable, find_words

NO_BUCKET: Final = "has no such bucket"
NO_BUCKET_NAME: Final = "has no buckets of such a name"
DENIED: Final = "denies access to the bucket"
NO_CREDENTIALS: Final = "can't be asked without credentials"
# The answers to HEAD, which have no body to name their error.
S3_STATUSES: Final[Mapping[str, str]] = {"404": NO_BUCKET, "403": DENIED, "401": DENIED}
# The first that fits: redis derives the special from the general.
KINDS: Final[Failures] = (
    (redis.exceptions.AuthenticationError, REFUSED_PASSWORD),
    (redis.exceptions.BusyLoadingError, "is still loading its data"),
    (redis.exceptions.TimeoutError, NO_ANSWER),
    (redis.exceptions.OutOfMemoryError, "has no memory left"),
    (redis.exceptions.ReadOnlyError, "is a read-only replica"),
    (redis.exceptions.InvalidResponse, "answers in another protocol than Redis'"),
    (botocore.exceptions.NoCredentialsError, NO_CREDENTIALS),
    (botocore.exceptions.ParamValidationError, NO_BUCKET_NAME),
    (botocore.exceptions.ConnectTimeoutError, NO_ANSWER),
    (botocore.exceptions.ReadTimeoutError, NO_ANSWER),
)
# What a library makes of an OSError.
CONNECTION_FAILURES: Final = (
    redis.exceptions.ConnectionError,
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
)


def describe_cause(error: BaseException) -> str:
    """What follows the server's name, for what one of ours was raised from: `refused the password`."""
    cause = find_cause(error)
    if isinstance(cause, ServiceError):
        return cause.detail
    if isinstance(cause, botocore.exceptions.ClientError):
        code = cause.response["Error"]["Code"]
        return S3_STATUSES.get(code, f"answers with the error {code}")
    if words := find_words(KINDS, cause):
        return words
    return describe_unreachable(cause) if isinstance(cause, CONNECTION_FAILURES) else describe_failure(cause)
