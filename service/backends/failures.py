"""Why a server failed, in the same words for each library: for the last sentence of a start, and for the log.

The words hold no address and no credentials.
"""

import re
import socket
import ssl
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg

from guard.text import printable
from service.errors import OutageError, ServiceError, find_cause

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

Failures: TypeAlias = tuple[tuple[type[Exception], str], ...]

UNKNOWN_PARAMETER: Final = re.compile(r'parameter "([\w.]{1,63})"', re.ASCII)
NAMES_OBJECT: Final = re.compile(
    r"permission denied for \w+ \S{1,130}|(relation|table|column|schema|type) \S{1,130} does not exist"
)
UNREACHABLE: Final = "can't be reached"
NO_LISTENER: Final = f"{UNREACHABLE}: nothing listens there"
NO_ANSWER: Final = "didn't answer in time"
NO_TLS: Final = f"{UNREACHABLE} by TLS"
CLOSED: Final = f"{UNREACHABLE}: it closed the connection (do both sides speak TLS?)"
UNTRUSTED: Final = (
    f"{UNREACHABLE}: its certificate is of an unknown authority: add that to CARRYOUT_CA_FILE, or to the file that its "
    "URL names"
)
UNVERIFIED: Final = f"{UNREACHABLE}: its certificate can't be verified"
OTHER_NAME: Final = f"{UNREACHABLE}: its certificate is for another name than its host's"
# By OpenSSL's codes (x509_vfy.h), which Python has no names for.
CERTIFICATES: Final[Mapping[int, str]] = {
    **dict.fromkeys((2, 18, 19, 20, 21), UNTRUSTED),
    9: f"{UNREACHABLE}: its certificate isn't valid yet (do the clocks agree?)",
    10: f"{UNREACHABLE}: its certificate has expired",
    **dict.fromkeys((62, 64), OTHER_NAME),
}
NO_PRIMARY: Final = "has no primary that its Sentinels know"
NO_SENTINEL: Final = "has no Sentinel that can be asked: the first"
OS_FAILURES: Final[Failures] = (
    (TimeoutError, NO_ANSWER),
    (socket.gaierror, f"{UNREACHABLE}: its host is unknown"),
    (ConnectionRefusedError, NO_LISTENER),
    (FileNotFoundError, f"{UNREACHABLE}: a file or socket that its URL names is missing"),
    (ssl.SSLError, NO_TLS),
    (ConnectionError, CLOSED),
    (OSError, UNREACHABLE),
)
CLUSTER: Final = "is a Cluster, which Carryout doesn't use: name a single server, or its Sentinels"
# By what Redis says; the library has no types of their own for most of it.
REDIS_WORDS: Final[Mapping[str, str]] = {
    "DB index is out of range": "has no database of the number that its URL gives",
    "Authentication required": "wants a password, and was given none",
    "MISCONF": "takes no writes, because it can't save its data to disk: MISCONF",
    "NOREPLICAS": "takes no writes, because too few replicas follow it: NOREPLICAS",
    "MASTERDOWN": "is a replica that has lost its primary: MASTERDOWN",
    "CLUSTERDOWN": f"{CLUSTER}: CLUSTERDOWN",
    "CROSSSLOT": f"{CLUSTER}: CROSSSLOT",
    "MOVED ": f"{CLUSTER}: MOVED",
}
ENDED_CONNECTION: Final = "ended the connection"
BEHIND_POOLER: Final = (
    "is reached through a pooler: set CARRYOUT_POOLER=transaction, or add pgbouncer=true to the URL's parameters"
)
# asyncpg's words where sslmode wants a certificate verified, and no file says by which authorities.
NO_ROOT_FILE: Final = "root certificate file"
NO_AUTHORITY: Final = "can't be verified by its certificate: set CARRYOUT_CA_FILE, or sslrootcert in the URL"
REFUSED_PASSWORD: Final = "refused the password"  # noqa: S105 (words)
DEMANDS_TLS: Final = "takes no connection without TLS: add sslmode=require to the URL"
NO_CONNECTION_LEFT: Final = "has no connection left"
# Poolers and managed servers say these under codes that mean nothing (XX000), a lost connection (08P01) or any refusal
# of the user (28000). The words are theirs alone, and hold no data.
POOLERS_WORDS: Final[Mapping[str, str]] = {
    "no such database": "has no such database",
    "Tenant or user not found": "is behind a pooler that doesn't know the user: Supavisor wants user.project",
    "server login has been failing": "is behind a pooler that can't log in to it",
    "cannot connect to server": "is behind a pooler that can't reach it",
    "query_wait_timeout": "is behind a pooler that had no connection to it in time",
    "max_client_conn": NO_CONNECTION_LEFT,
    "max clients reached": NO_CONNECTION_LEFT,
    "Max client connections reached": NO_CONNECTION_LEFT,
    "SASL authentication failed": REFUSED_PASSWORD,
    "no encryption": "has no entry for this client in pg_hba.conf: if it demands TLS, add sslmode=require to the URL",
    "requires TLS": DEMANDS_TLS,
    "SSL required": DEMANDS_TLS,
    "connection is insecure": DEMANDS_TLS,
}
POOLERS_ERRORS: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InternalServerError,
)
# The first that fits.
POSTGRESQL: Final[Failures] = (
    (asyncpg.InvalidPasswordError, REFUSED_PASSWORD),
    (asyncpg.InvalidAuthorizationSpecificationError, "refused the user"),
    (asyncpg.InvalidCatalogNameError, "has no such database"),
    (asyncpg.InsufficientPrivilegeError, "denies the user access to the database"),
    (asyncpg.TooManyConnectionsError, NO_CONNECTION_LEFT),
    (asyncpg.DiskFullError, "has no disk space left"),
    (asyncpg.OutOfMemoryError, "has no memory left"),
    (asyncpg.ConfigurationLimitExceededError, "has reached a limit of its settings"),
    (asyncpg.PostgresSystemError, "can't read or write its files"),
    (asyncpg.CannotConnectNowError, "is starting or stopping"),
    (asyncpg.QueryCanceledError, "canceled a query: statement_timeout is too short, or an operator did it"),
    (asyncpg.DatabaseDroppedError, "has no such database"),
    (asyncpg.ReadOnlySQLTransactionError, "is read-only"),
    (asyncpg.SerializationError, "is a replica that had to replay its primary's changes first"),
    (asyncpg.InvalidCachedStatementError, "was migrated a moment ago"),
    (asyncpg.AdminShutdownError, ENDED_CONNECTION),
    (asyncpg.CrashShutdownError, ENDED_CONNECTION),
    (asyncpg.IdleSessionTimeoutError, ENDED_CONNECTION),
    (asyncpg.PostgresConnectionError, ENDED_CONNECTION),
    (asyncpg.exceptions.TargetServerAttributeNotMatched, "has no server of the kind that target_session_attrs names"),
    (asyncpg.InternalClientError, ENDED_CONNECTION),
    (asyncpg.UndefinedObjectError, "doesn't know a parameter that the URL gives"),
    (asyncpg.exceptions.ClientConfigurationError, "can't be asked: the URL, or a file for its sslmode, is wrong"),
    (asyncpg.InterfaceError, ENDED_CONNECTION),
    *OS_FAILURES,
)
NO_BUCKET: Final = "has no such bucket"
NO_BUCKET_NAME: Final = "has no buckets of such a name"
DENIED: Final = "denies access to the bucket"
WRONG_KEYS: Final = "refuses the keys"
WRONG_REGION: Final = "is of another region"
VIRTUAL_ONLY: Final = "wants the bucket in the host's name"
NO_CREDENTIALS: Final = "can't be asked without credentials"
NO_ROLE: Final = "needs a role that AWS STS refuses"
WANTS_CHECKSUMS: Final = "wants checksums, which CARRYOUT_S3_CHECKSUMS=when_supported sends"
STS_OPERATION: Final = "AssumeRole"  # or AssumeRoleWithWebIdentity: another service's than S3's
# AWS's own words for a bucket whose objects have a retention period.
OBJECT_LOCK: Final = "Object Lock"
# The answers to HEAD, which have no body to name their error.
S3_STATUSES: Final[Mapping[str, str]] = {"404": NO_BUCKET, "403": DENIED, "401": DENIED}
# The words for S3's own codes, which are added.
S3_CODES: Final[Mapping[str, str]] = {
    "AccessDenied": DENIED,
    "AllAccessDisabled": DENIED,
    "AuthorizationHeaderMalformed": WRONG_REGION,
    "ExpiredToken": WRONG_KEYS,
    "IllegalLocationConstraintException": WRONG_REGION,
    "InvalidAccessKeyId": WRONG_KEYS,
    "InvalidToken": WRONG_KEYS,
    "PermanentRedirect": WRONG_REGION,
    "RequestTimeTooSkewed": "and this machine differ in their clocks",
    "SecondLevelDomainForbidden": VIRTUAL_ONLY,
    "SignatureDoesNotMatch": WRONG_KEYS,
    "VirtualHostDomainRequired": VIRTUAL_ONLY,
}


def find_words(failures: Failures, error: BaseException) -> str | None:
    """Those of the first kind that fits: what follows the server's name in a sentence."""
    if isinstance(error, ssl.SSLCertVerificationError) and hasattr(error, "verify_code"):  # aiohttp's own has none
        return CERTIFICATES.get(error.verify_code, f"{UNVERIFIED}: {error.verify_message}")
    return next((words for kind, words in failures if isinstance(error, kind)), None)


def _find_said(meanings: Mapping[str, str], error: BaseException) -> str | None:
    """The words for the first phrase that the server says."""
    said = str(error)
    return next((words for phrase, words in meanings.items() if phrase in said), None)


def describe_unreachable(error: BaseException | None) -> str:
    """Describe a library's error by the OSError in its chain of causes; without one, by what redis and botocore say."""
    words = CLOSED if "closed" in str(error) else UNREACHABLE
    while error is not None:
        words = find_words(OS_FAILURES, error) or words
        error = error.__cause__ or error.__context__
    return words


def describe_postgresql(error: BaseException) -> str:
    """The words after the server's name in a sentence. An error's own words may hold addresses and users."""
    if isinstance(error, asyncpg.PostgresError) and (words := _describe_refused_parameter(error)):
        return words
    if isinstance(error, POOLERS_ERRORS) and (words := _find_said(POOLERS_WORDS, error)):
        return words
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError) and str(error).startswith(NO_ROOT_FILE):
        return NO_AUTHORITY
    return find_words(POSTGRESQL, error) or f"can't be used: {type(error).__name__}"


def _describe_refused_parameter(error: asyncpg.PostgresError) -> str | None:
    """The server and poolers quote a parameter of the URL that they don't know. Its name isn't secret."""
    text = str(error)
    if isinstance(error, asyncpg.ProtocolViolationError) and "startup parameter" in text:  # PgBouncer's words
        return BEHIND_POOLER
    if isinstance(error, asyncpg.UndefinedObjectError) and (found := UNKNOWN_PARAMETER.search(text)):
        return f"doesn't know the parameter {found[1]} that the URL gives"
    return None


def code_of(error: BaseException) -> str | None:
    """The server's own code for the cause: PostgreSQL's SQLSTATE, or S3's word."""
    import botocore.exceptions  # noqa: PLC0415 (see `_describe`)

    cause = find_cause(error)
    if isinstance(cause, botocore.exceptions.ClientError):
        return str(cause.response["Error"].get("Code", "Unknown"))
    return cause.sqlstate if isinstance(cause, asyncpg.PostgresError) else None


def describe_for_operators(error: ServiceError) -> str:
    """The error's detail, and the cause with the server's code.

    PostgreSQL's own words may hold data: only those are shown that name a table or a column.
    """
    cause, code = find_cause(error), code_of(error)
    if cause is error:
        return error.detail
    server = f"{error.server}: " if isinstance(error, OutageError) else f"{error.detail}: "
    said = cause.message or "" if isinstance(cause, asyncpg.PostgresError) else ""  # without the hint below it
    words = printable(said) if NAMES_OBJECT.fullmatch(said) else describe_cause(error)
    return f"{server}{words}" + (f" ({code})" if code and code not in words else "")


def describe_cause(error: BaseException) -> str:
    """The words after the server's name, for the error that one of ours was raised from: `refused the password`."""
    return printable(_describe(find_cause(error)))


def _describe(cause: BaseException) -> str:
    import botocore.exceptions  # noqa: PLC0415 (a third of a second, with redis, that most commands never need)
    import redis.exceptions  # noqa: PLC0415 (likewise)

    if isinstance(cause, ServiceError):
        return cause.detail
    if isinstance(cause, botocore.exceptions.ClientError):
        return _describe_s3(cause)
    kinds, connection_failures = _redis_and_s3()
    if cause.__cause__ and find_words(kinds, cause) == NO_PRIMARY:
        return f"{NO_SENTINEL} {_describe(cause.__cause__)}"
    if isinstance(cause, redis.exceptions.RedisError) and (words := _find_said(REDIS_WORDS, cause)):
        return words
    if words := find_words(kinds, cause):
        return words
    return describe_unreachable(cause) if isinstance(cause, connection_failures) else describe_postgresql(cause)


def _describe_s3(error: "ClientError") -> str:
    code = str(error.response["Error"].get("Code", "Unknown"))
    if error.operation_name.startswith(STS_OPERATION):
        return f"{NO_ROLE}: {code}"
    if OBJECT_LOCK in error.response["Error"].get("Message", ""):
        return f"{WANTS_CHECKSUMS}: {code}"
    if code == "NoSuchBucket":
        return NO_BUCKET
    return S3_STATUSES.get(code) or f"{S3_CODES.get(code, 'answers with the error')}: {code}"


@cache
def _redis_and_s3() -> tuple[Failures, tuple[type[Exception], ...]]:
    """Their libraries' failures, the first that fits: redis derives the special from the general. Then the exceptions
    that they make of an OSError.
    """
    import botocore.exceptions  # noqa: PLC0415 (see above)
    import redis.asyncio.sentinel  # noqa: PLC0415 (likewise)
    import redis.exceptions  # noqa: PLC0415 (likewise)

    kinds: Failures = (
        (redis.exceptions.AuthenticationError, REFUSED_PASSWORD),
        (redis.exceptions.BusyLoadingError, "is still loading its data"),
        (redis.exceptions.TimeoutError, NO_ANSWER),
        (redis.exceptions.OutOfMemoryError, "has no memory left"),
        (redis.exceptions.ReadOnlyError, "is a read-only replica"),
        (redis.exceptions.NoPermissionError, "denies its user a command or a key"),
        (redis.asyncio.sentinel.MasterNotFoundError, NO_PRIMARY),
        (redis.exceptions.InvalidResponse, "answers in another protocol than Redis'"),
        (botocore.exceptions.NoCredentialsError, NO_CREDENTIALS),
        (botocore.exceptions.ParamValidationError, NO_BUCKET_NAME),
        (botocore.exceptions.ConnectTimeoutError, NO_ANSWER),
        (botocore.exceptions.ReadTimeoutError, NO_ANSWER),
    )
    return kinds, (
        redis.exceptions.ConnectionError,
        botocore.exceptions.ConnectionError,
        botocore.exceptions.HTTPClientError,
    )
