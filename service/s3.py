"""How S3 is reached, and what its answers and its silence mean."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from http import HTTPStatus
from typing import Any

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from botocore.exceptions import BotoCoreError, ClientError, InvalidRegionError

from service.errors import ConfigurationError, OutageError, UnavailableError
from service.settings import Settings

# A download holds its connection for as long as its reader takes, so that slow readers could have them all; what
# downloads leave is for uploads, deletions and checks.
MAX_CONNECTIONS = 100
MAX_DOWNLOADS = 80
MAX_DOWNLOADS_OF_ONE_OWNER = 16  # or one user, or whoever has their links, could keep the others from theirs
CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 30

_SILENCE = (BotoCoreError, aiohttp.ClientError, OSError)  # TimeoutError is an OSError

# What S3 would answer to any request: its own trouble, and a bucket, credentials or rights that somebody has to mend.
# Rights are among them, as what may be done with one of our keys may be done with all; but see answer_within.
_OUTAGE_STATUSES = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS})
_OUTAGE_CODES = frozenset(
    {
        "AuthorizationHeaderMalformed",  # the wrong region
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "NoSuchBucket",
        "RequestTimeTooSkewed",
        "RequestTimeout",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)


@cache
def _session() -> AioSession:
    """One for the process: it remembers the description of S3, half of what making a client costs."""
    return get_session()


@asynccontextmanager
async def open_client(settings: Settings, endpoint_url: str, *, name: str) -> AsyncIterator[Any]:
    """Asks nobody yet. Raises ConfigurationError, with the `name` of a wrong `endpoint_url`, if none can be made."""
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(_create_client(settings, endpoint_url))
        except InvalidRegionError:
            raise ConfigurationError("CARRYOUT_S3_REGION is no name of a region") from None
        except ValueError:
            raise ConfigurationError(f"CARRYOUT_{name} names no valid host (letters, digits, `-` and `.`)") from None
        except BotoCoreError as error:  # of AWS's own variables and files
            raise ConfigurationError(f"The AWS configuration is wrong: {error}") from error
        yield client


def _create_client(settings: Settings, endpoint_url: str) -> Any:
    config = AioConfig(
        signature_version="s3v4",
        s3={"addressing_style": "path" if endpoint_url else "auto"},
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        max_pool_connections=MAX_CONNECTIONS,
        request_checksum_calculation=settings.s3_checksums,
        response_checksum_validation=settings.s3_checksums,
    )
    return _session().create_client(
        "s3",
        region_name=settings.s3_region,
        endpoint_url=endpoint_url or None,
        aws_access_key_id=settings.s3_access_key_id or None,
        aws_secret_access_key=settings.s3_secret_access_key or None,
        config=config,
    )


@asynccontextmanager
async def answer_within(seconds: float, *, may_hold_key: bool = False) -> AsyncIterator[None]:
    """Turn every failure of the storage, and its silence after `seconds`, into UnavailableError or OutageError.

    With `may_hold_key` a 403 is no outage: it may be a legal hold or a retention period of this one object.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except ClientError as error:
        if _is_outage(error, may_hold_key=may_hold_key):
            raise OutageError("The file storage is unavailable", server="s3") from error
        code = error.response["Error"]["Code"]
        raise UnavailableError(f"The file storage refuses this: {code}") from error
    except _SILENCE as error:
        raise OutageError("The file storage is unavailable", server="s3") from error


def _is_outage(error: ClientError, *, may_hold_key: bool) -> bool:
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    refused = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    if not refused or error.response["Error"]["Code"] in _OUTAGE_CODES:
        return True
    return status in _OUTAGE_STATUSES and not (may_hold_key and status == HTTPStatus.FORBIDDEN)
