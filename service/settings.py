"""Every setting, read once from the environment; the README's table is held to this module by a test."""

import ipaddress
import string
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from service.errors import ConfigurationError

PREFIX = "CARRYOUT_"
# For the commands of the client; they may be set where a service's settings are.
CLIENT_CREDENTIALS = frozenset({"token", "api_key"})
SQL_DIR = Path(__file__).resolve().parent.parent / "sql"
MINIMUM_SECRET_BYTES = 32
TOKEN_KEYS = ("jwt_secret", "jwt_public_key_file", "jwt_jwks_url")

CommaSeparated = tuple[str, ...]
# Far above what makes sense, and within what PostgreSQL and the event loop can count.
PositiveInt = Annotated[int, Meta(ge=1, le=1_000_000_000)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One field a setting: `CARRYOUT_` + the field's name in capitals; the description is the README's."""

    database_url: Annotated[str, Meta(description="PostgreSQL with Carryout's own schema")]
    source_database_url: Annotated[
        str, Meta(description="The application's data; may be a read replica. Default: `DATABASE_URL`")
    ] = ""
    redis_url: Annotated[str, Meta(description="Redis (or Valkey) that carries job ids")]

    s3_bucket: Annotated[
        str, Meta(description="Bucket for the files; those in an earlier one are neither served nor deleted")
    ]
    s3_endpoint_url: Annotated[str, Meta(description="S3-compatible server; empty: AWS")] = ""
    s3_public_url: Annotated[
        str, Meta(description="The S3 server as browsers reach it, for presigned links. Default: `S3_ENDPOINT_URL`")
    ] = ""
    s3_region: Annotated[str, Meta(description="Region to sign for")] = "us-east-1"
    s3_access_key_id: Annotated[str, Meta(description="Access key; empty: the usual AWS credential chain")] = ""
    s3_secret_access_key: Annotated[str, Meta(description="Secret of that key")] = ""
    s3_checksums: Annotated[
        Literal["when_required", "when_supported"],
        Meta(description="botocore's integrity checksums; `when_supported` for AWS itself"),
    ] = "when_required"

    smtp_url: Annotated[
        str,
        Meta(description="`smtp://user:password@host:587` (STARTTLS required unless `?starttls=never`) or `smtps://`"),
    ]
    mail_from: Annotated[str, Meta(description="Sender of the mails")]
    public_url: Annotated[str, Meta(description="This service as users reach it; links are built from it alone")]

    link_secrets: Annotated[
        CommaSeparated,
        Meta(description="Secrets for download links, at least 32 bytes each; the first signs, all verify"),
    ]
    jwt_secret: Annotated[str, Meta(description="HMAC secret of the users' tokens, at least 32 bytes")] = ""
    jwt_public_key_file: Annotated[str, Meta(description="PEM file with the public key of the users' tokens")] = ""
    jwt_jwks_url: Annotated[str, Meta(description="JWKS URL with the keys of the users' tokens")] = ""
    jwt_algorithms: Annotated[
        CommaSeparated, Meta(description="Accepted algorithms. Default: `HS256`, or `RS256,ES256,EdDSA` for a key")
    ] = ()
    jwt_issuer: Annotated[str, Meta(description="Required `iss`; empty: not checked")] = ""
    jwt_audience: Annotated[str, Meta(description="Required `aud`; empty: tokens must carry none")] = ""

    small_export_records: Annotated[PositiveInt, Meta(description="From so many records an export is queued")] = 1_000
    max_export_records: Annotated[PositiveInt, Meta(description="Records an export may have at most")] = 100_000
    export_ttl_seconds: Annotated[PositiveInt, Meta(description="How long a file and its link live")] = 604_800
    exports_per_hour: Annotated[PositiveInt, Meta(description="Accepted exports per user and hour")] = 10
    datasets_dir: Annotated[str, Meta(description="Folder with the dataset files")] = str(SQL_DIR / "datasets")
    forbidden_columns: Annotated[
        CommaSeparated, Meta(description="Column names (globs) that never leave, checked against what a dataset reads")
    ] = ("*password*", "*passwd*", "*secret*", "*token*", "*api_key*", "internal_id", "*_hash", "*salt*", "*otp*")
    operator_columns: Annotated[
        CommaSeparated, Meta(description="Entries of `FORBIDDEN_COLUMNS` that don't hold for the operators' user lists")
    ] = ("internal_id",)
    users_filename: Annotated[str, Meta(description="Name of the file with the operators' user list")] = (
        "users_export.csv"
    )
    users_full_filename: Annotated[str, Meta(description="Name of the file with their full user list")] = (
        "users_full_export.csv"
    )
    features: Annotated[
        CommaSeparated,
        Meta(
            description="Feature flags that are on by default: these, and without any all, less those given as `-name`"
        ),
    ] = (
        "users:export",
        "users:export_full",
        "users:export_alive",
        "users:export_simple",
    )
    download_mode: Annotated[
        Literal["redirect", "proxy"],
        Meta(description="`redirect` to a presigned S3 URL, or `proxy` the file through the service"),
    ] = "redirect"
    user_id_type: Annotated[
        Literal["uuid", "bigint", "text"], Meta(description="Type of user ids; fixed by the first migration")
    ] = "uuid"

    pool_size: Annotated[
        int, Meta(ge=1, le=1_000, description="Connections per process for bookkeeping, and as many for making files")
    ] = 8
    stream_pool_size: Annotated[int, Meta(ge=1, le=1_000, description="Streams per process at once; more get 503")] = 8
    # With a query's time below the silence after which a worker's /livez calls it stuck; so is its poll.
    acquire_timeout_seconds: Annotated[
        float, Meta(gt=0, le=20, description="How long a request waits for a connection before it gets 503")
    ] = 5.0
    worker_jobs: Annotated[
        int, Meta(ge=1, le=1_000, description="Exports a worker makes at once, at most `CARRYOUT_POOL_SIZE`")
    ] = 4
    lease_seconds: Annotated[
        float, Meta(ge=2, le=3_600, description="After so long without a heartbeat an export goes to another worker")
    ] = 15.0
    worker_poll_seconds: Annotated[
        float, Meta(ge=0.01, le=30, description="How often a worker looks into its queue")
    ] = 0.1
    worker_grace_seconds: Annotated[
        float, Meta(ge=0, le=3_600, description="After SIGTERM: how long a worker's exports may take to end")
    ] = 10.0
    # At most a third of the time after which the alert CarryoutSweepStopped begins.
    sweep_seconds: Annotated[
        float, Meta(ge=1, le=600, description="How often a worker looks in S3 for what no export owns")
    ] = 120.0
    worker_metrics_port: Annotated[
        int, Meta(ge=0, le=65_535, description="Port where a worker answers `/livez` and `/metrics`; 0: none")
    ] = 0
    drain_seconds: Annotated[
        float, Meta(ge=0, le=3_600, description="After SIGTERM: how long `/readyz` fails before the listener closes")
    ] = 0.0
    shutdown_grace_seconds: Annotated[
        int, Meta(ge=1, le=3_600, description="After that: how long running responses may take to end")
    ] = 20
    trusted_proxies: Annotated[
        CommaSeparated,
        Meta(description="Networks of the proxies whose `X-Forwarded-For` is believed; empty: nobody's"),
    ] = ()
    otlp_endpoint: Annotated[
        str,
        Meta(
            description="OTLP/HTTP collector of traces, as `http://collector:4318`; needs the extra `otel`; empty: none"
        ),
    ] = ""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least severe log lines to write")
    ] = "info"

    @property
    def public_path(self) -> str:
        """What a proxy takes off the paths that users ask for: `/carryout`, or nothing."""
        return urlsplit(self.public_url).path

    def __post_init__(self) -> None:
        """Derived defaults and the rules between settings."""
        _default(self, "source_database_url", self.database_url)
        _default(self, "s3_public_url", self.s3_endpoint_url)
        _default(self, "jwt_algorithms", ("HS256",) if self.jwt_secret else ("RS256", "ES256", "EdDSA"))
        msgspec.structs.force_setattr(self, "public_url", self.public_url.rstrip("/"))
        _require_url(self.database_url, "DATABASE_URL", {"postgresql", "postgres"})
        _require_url(self.source_database_url, "SOURCE_DATABASE_URL", {"postgresql", "postgres"})
        _require_url(self.redis_url, "REDIS_URL", {"redis", "rediss", "unix"})
        for name in ("s3_endpoint_url", "s3_public_url", "otlp_endpoint"):
            if url := getattr(self, name):
                _require_url(url, name.upper(), {"http", "https"})
        _require_url(self.smtp_url, "SMTP_URL", {"smtp", "smtps"})
        _require_url(self.public_url, "PUBLIC_URL", {"http", "https"})
        _require_secrets(self)
        _require_networks(self.trusted_proxies)
        if any(" #" in glob for glob in self.forbidden_columns):
            raise ConfigurationError(_named("FORBIDDEN_COLUMNS", "has a comment, which would be part of a name"))
        if self.small_export_records > self.max_export_records:
            raise ConfigurationError(_named("SMALL_EXPORT_RECORDS", "must not exceed CARRYOUT_MAX_EXPORT_RECORDS"))


def from_env(environ: Mapping[str, str]) -> Settings:
    """The settings in `environ`. Raises ConfigurationError with one unknown, all missing, or one wrong name."""
    given = {name.removeprefix(PREFIX).lower(): text for name, text in environ.items() if name.startswith(PREFIX)}
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}
    if unknown := sorted(given.keys() - fields.keys() - CLIENT_CREDENTIALS):
        raise ConfigurationError(_named(unknown[0], "is not a setting"))
    texts = {name: text for name in fields if (text := given.get(name, "").strip())}
    _require_all(texts.keys())
    for name, text in texts.items():
        _require_plain(name, text)
    values = {name: _convert(name, text, fields[name].type) for name, text in texts.items()}
    return Settings(**values)  # type: ignore[arg-type]


def split_list(text: str) -> CommaSeparated:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _require_all(given: Collection[str]) -> None:
    required = [field.name for field in msgspec.structs.fields(Settings) if field.required]
    missing = [_variable(name) for name in required if name not in given]
    if not any(name in given for name in TOKEN_KEYS):
        secret, *others = map(_variable, TOKEN_KEYS)
        missing.append(f"{secret} (or {' or '.join(others)})")
    if missing:
        *names, last = missing
        raise ConfigurationError(f"{', '.join(names)} and {last} are not set" if names else f"{last} is not set")


def _require_plain(name: str, text: str) -> None:
    """Quotes that a shell would have taken off, and what can't be seen, would be part of the value: of a forbidden
    column's name, for one, which no column has.
    """
    if text[0] == text[-1] and text[0] in "\"'":
        raise ConfigurationError(_named(name, "is in quotes, which would be part of it: leave them off"))
    if not text.isprintable():
        raise ConfigurationError(_named(name, "has a line break or an invisible character in it"))


def _convert(name: str, text: str, wanted: object) -> object:
    value = split_list(text) if CommaSeparated in get_args(wanted) else text  # of Annotated
    try:
        return msgspec.convert(value, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(_named(name, f"is wrong: {error}")) from None


def _named(name: str, fault: str) -> str:
    return f"{_variable(name)} {fault}"


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _default(settings: Settings, name: str, value: object) -> None:
    if not getattr(settings, name):
        msgspec.structs.force_setattr(settings, name, value)


def _require_url(url: str, name: str, schemes: set[str]) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigurationError(_named(name, "is no URL")) from None
    if any(character.isspace() for character in url):
        raise ConfigurationError(_named(name, "has a space in it"))
    if parts.scheme not in schemes:
        raise ConfigurationError(_named(name, f"must begin with {' or '.join(sorted(s + '://' for s in schemes))}"))
    if parts.scheme.startswith("http") and (not parts.hostname or parts.query or parts.fragment):
        raise ConfigurationError(_named(name, "needs a host, and no query"))


def _require_networks(networks: CommaSeparated) -> None:
    try:
        for network in networks:
            ipaddress.ip_network(network)
    except ValueError as error:
        raise ConfigurationError(_named("TRUSTED_PROXIES", f"is wrong: {error}")) from None


def _require_secrets(settings: Settings) -> None:
    if bool(settings.s3_access_key_id) != bool(settings.s3_secret_access_key):
        raise ConfigurationError(_named("S3_SECRET_ACCESS_KEY", "and CARRYOUT_S3_ACCESS_KEY_ID go together"))
    if not settings.link_secrets:
        raise ConfigurationError(_named("LINK_SECRETS", "names no secret"))
    for secret in settings.link_secrets:
        _require_secret(secret, "LINK_SECRETS")
    if settings.jwt_secret:
        _require_secret(settings.jwt_secret, "JWT_SECRET")
    if sum(bool(getattr(settings, name)) for name in TOKEN_KEYS) != 1:
        raise ConfigurationError(
            "Set exactly one of CARRYOUT_JWT_SECRET, CARRYOUT_JWT_PUBLIC_KEY_FILE and CARRYOUT_JWT_JWKS_URL"
        )


def _require_secret(secret: str, name: str) -> None:
    if len(secret.encode()) < MINIMUM_SECRET_BYTES or len(set(secret) - set(string.whitespace)) < 2:  # noqa: PLR2004
        raise ConfigurationError(_named(name, f"needs at least {MINIMUM_SECRET_BYTES} random bytes"))
