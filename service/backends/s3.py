"""Clients for S3, and the classification of its errors and timeouts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache, partial
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from botocore.exceptions import BotoCoreError, ClientError, InvalidRegionError
from botocore.parsers import ResponseParserError

from service.backends.failures import STS_OPERATION
from service.backends.s3_session import S3Session
from service.errors import ConfigurationError, OutageError, UnavailableError
from service.settings import Settings

# A download holds its connection for as long as its reader takes, so that slow readers could have them all; what
# downloads leave is for uploads, deletions and checks.
MAX_CONNECTIONS = 100
MAX_DOWNLOADS = 80
MAX_DOWNLOADS_OF_ONE_OWNER = 16  # else the holders of one user's links could block all other downloads
CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 30

_SILENCE = (BotoCoreError, aiohttp.ClientError, OSError)  # TimeoutError is an OSError
# botocore and its callers raise these for an answer that isn't S3's: another server's page, or one without its fields.
_NONSENSE = (ResponseParserError, LookupError, ValueError, TypeError, RecursionError)

# A bucket with a retention period refuses an object without a checksum so, and MinIO the deletion of one under a hold.
NO_CHECKSUM: Final = "InvalidRequest"
# Errors that S3 would return for any request: outages, and a bucket, credentials or rights that an operator has to fix.
# Rights are included because they are the same for all of our keys; but see answer_within.
_OUTAGE_STATUSES = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS})
_OUTAGE_CODES = frozenset(
    {
        "AuthorizationHeaderMalformed",  # the wrong region
        "ExpiredToken",
        "InvalidAccessKeyId",
        NO_CHECKSUM,
        "InvalidToken",
        "NoSuchBucket",
        "QuotaExceeded",
        "RequestTimeTooSkewed",
        "RequestTimeout",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "XMinioAdminBucketQuotaExceeded",
    }
)


@cache
def _session() -> AioSession:
    """One for the process: it remembers the description of S3, half of what making a client costs."""
    return get_session()


class Keys(NamedTuple):
    """Credentials; without an id, those that AWS's usual chain finds."""

    access_key_id: str
    secret_access_key: str


@asynccontextmanager
async def open_client(
    settings: Settings, endpoint_url: str, *, name: str, keys: Keys | None = None
) -> AsyncIterator[Any]:
    """Opens no connection yet; without `keys`, those of the settings are used.

    Raises ConfigurationError, with the setting's `name`, if `endpoint_url` is invalid.
    """
    keys = keys or Keys(settings.s3_access_key_id, settings.s3_secret_access_key)
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(_create_client(settings, endpoint_url, keys))
        except InvalidRegionError:
            raise ConfigurationError("CARRYOUT_S3_REGION is not a valid region name") from None
        except ValueError:
            raise ConfigurationError(f"CARRYOUT_{name} names no valid host (letters, digits, `-` and `.`)") from None
        except BotoCoreError as error:  # in AWS's own variables and files
            raise ConfigurationError(f"The AWS configuration is wrong: {error}") from error
        yield client


def _create_client(settings: Settings, endpoint_url: str, keys: Keys) -> Any:
    config = AioConfig(
        signature_version="s3v4",
        s3={"addressing_style": _addressing_style(settings, endpoint_url)},
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        max_pool_connections=MAX_CONNECTIONS,
        request_checksum_calculation=settings.s3_checksums,
        response_checksum_validation=settings.s3_checksums,
        http_session_cls=partial(S3Session, ca_file=settings.ca_file),
    )
    return _session().create_client(
        "s3",
        region_name=settings.s3_region,
        endpoint_url=endpoint_url or None,
        aws_access_key_id=keys.access_key_id or None,
        aws_secret_access_key=keys.secret_access_key or None,
        config=config,
    )


def _addressing_style(settings: Settings, endpoint_url: str) -> str:
    """Most other servers than AWS know their buckets by the path alone."""
    style = settings.s3_addressing_style
    return "path" if endpoint_url and style == "auto" else style


def encryption(settings: Settings) -> dict[str, str]:
    """The arguments of the calls that create an object."""
    if settings.s3_sse == "none":
        return {}
    key = {"SSEKMSKeyId": settings.s3_sse_kms_key_id} if settings.s3_sse_kms_key_id else {}
    return {"ServerSideEncryption": settings.s3_sse} | key


@asynccontextmanager
async def answer_within(seconds: float, *, may_hold_key: bool = False) -> AsyncIterator[None]:
    """Turn every failure of the storage, and its silence after `seconds`, into UnavailableError or OutageError.

    Read an answer's fields inside: an answer without them is none of S3's, and an outage.

    With `may_hold_key` a 403 is not an outage: it may be a legal hold or a retention period of this one object.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except ClientError as error:
        if _is_outage(error, may_hold_key=may_hold_key):
            raise OutageError("The file storage is unavailable", server="s3") from error
        raise UnavailableError(f"The file storage refuses this: {_code_of(error)}") from error
    except (*_SILENCE, *_NONSENSE) as error:
        raise OutageError("The file storage is unavailable", server="s3") from error


def _is_outage(error: ClientError, *, may_hold_key: bool) -> bool:
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    refused = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    if not refused or error.operation_name.startswith(STS_OPERATION):
        return True
    if _code_of(error) in _OUTAGE_CODES:
        return not (may_hold_key and _code_of(error) == NO_CHECKSUM)
    return status in _OUTAGE_STATUSES and not (may_hold_key and status == HTTPStatus.FORBIDDEN)


def is_refusal(error: ClientError) -> bool:
    """Whether the server has understood the request and refuses it; other errors may pass."""
    status: int = error.response["ResponseMetadata"]["HTTPStatusCode"]
    may_pass = status == HTTPStatus.TOO_MANY_REQUESTS or _code_of(error) == "RequestTimeout"
    return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and not may_pass


def _code_of(error: ClientError) -> str:
    """S3's code; `Unknown` for an error document without one."""
    return str(error.response["Error"].get("Code", "Unknown"))
