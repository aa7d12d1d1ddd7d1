"""Every setting, read once from the environment; the README's table is held to this module by a test."""

import base64
import ipaddress
import re
import string
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin
from urllib.parse import quote, urlsplit

import idna
import msgspec
from msgspec import Meta
from yarl import URL

from guard.files import read_trusted
from languages.choice import Tag
from service.errors import ConfigurationError
from service.file_stores import FileStore, option_names, parse_stores, with_options

PREFIX = "CARRYOUT_"
DATABASES = ("database_url", "source_database_url", "migration_database_url")
# A parameter of a database's URL: a pooler gives each transaction another session.
POOLED = "pgbouncer=true"
VERIFYING = re.compile(r"[?&]sslmode=verify-")
AUTHORITIES = re.compile(r"[?&](?:sslrootcert|ssl_ca_certs|ssl_ca_data)=")
# The characters that S3 calls safe in keys, without the segments . and ..
KEY_PREFIX = re.compile(r"(?:(?!\.{1,2}(?:/|$))[\w!.*'()-]+(?:/|$)){0,20}", re.ASCII)
AUTHORITY = re.compile(r"\w+://([^/?#]*)")
BASE64 = "base64:"
WEBHOOK_SECRET = "whsec_"  # noqa: S105 (a prefix)
WEBHOOK_SECRET_BYTES = range(24, 65)
STORES = "file_stores"
# For the commands of the client; they may be set where a service's settings are.
CLIENT_CREDENTIALS = frozenset({"token", "api_key"})
SQL_DIR = Path(__file__).resolve().parent.parent / "sql"
MINIMUM_SECRET_BYTES = 32
OTHER_SEPARATORS = re.compile(r"[;|:\s]+")
# Those that the page sets itself (OpenID Connect Core 1.0, RFC 7636).
OWN_PARAMETERS = frozenset(
    {
        "response_type",
        "response_mode",
        "client_id",
        "redirect_uri",
        "scope",
        "state",
        "nonce",
        "code_challenge",
        "code_challenge_method",
    }
)
# Browsers take pages of these for secure without TLS.
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
ENCODE = ": percent-encode what is special in its user or password, such as : / ? # [ ] @ %"
TOKEN_KEYS = ("jwt_secret", "jwt_public_key_file", "jwt_jwks_url")
# `CARRYOUT_NAME_FILE` names a file that holds the setting, as secrets are mounted.
FILE_SUFFIX = "_file"
# Kubernetes puts these into every pod for each service of the namespace, here for those called carryout…. A setting
# may be called …_PORT as well, but is never a URL.
SERVICE_LINK = re.compile(
    r"(?:\w+_)?(?:service_host|service_port(?:_\w+)?|port_\d+_(?:tcp|udp|sctp)(?:_(?:proto|port|addr))?)"
)
SERVICE_LINK_PORT = re.compile(r"(?:tcp|udp|sctp)://")

CommaSeparated = tuple[str, ...]
# Far above what makes sense, and within what PostgreSQL and the event loop can count.
# The least age of the rows that the functions of retention delete: sql/migrations/0017_purge.sql.
MIN_RETENTION_SECONDS = 30 * 86_400
PositiveInt = Annotated[int, Meta(ge=1, le=1_000_000_000)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One field a setting: `CARRYOUT_` + the field's name in capitals; the description is the README's."""

    database_url: Annotated[str, Meta(description="PostgreSQL with Carryout's own schema")]
    source_database_url: Annotated[
        str, Meta(description="The application's data; may be a read replica. Default: `DATABASE_URL`")
    ] = ""
    migration_database_url: Annotated[
        str, Meta(description="`DATABASE_URL` as the role that owns the schema, for `migrate` alone. Default: that URL")
    ] = ""
    schema_owner: Annotated[
        str, Meta(description="Role that the schema must belong to. Default: the role of the URL that is used")
    ] = ""
    pooler: Annotated[
        Literal["none", "transaction"],
        Meta(
            description="`transaction` if a pooler such as PgBouncer, in any mode, stands before the databases; "
            "for one of them: `?pgbouncer=true` in its URL"
        ),
    ] = "none"
    max_replica_lag_seconds: Annotated[
        PositiveInt | None,
        Meta(description="How old the data of a replica may be; beyond, exports wait or get 503. Empty: no limit"),
    ] = None
    redis_url: Annotated[
        str,
        Meta(
            description="Redis (or Valkey) that carries job ids; by Sentinels: `redis+sentinel://:password@host1,host2/name`"
        ),
    ]

    s3_bucket: Annotated[
        str, Meta(description="Bucket for the files; `carryout reconcile` moves those in an earlier one")
    ]
    s3_endpoint_url: Annotated[str, Meta(description="S3-compatible server; empty: AWS")] = ""
    s3_public_url: Annotated[
        str, Meta(description="The S3 server as browsers reach it, for presigned links. Default: `S3_ENDPOINT_URL`")
    ] = ""
    s3_region: Annotated[str, Meta(description="Region to sign for")] = "us-east-1"
    s3_access_key_id: Annotated[str, Meta(description="Access key; empty: the usual AWS credential chain")] = ""
    s3_secret_access_key: Annotated[str, Meta(description="Secret of that key")] = ""
    s3_addressing_style: Annotated[
        Literal["auto", "path", "virtual"],
        Meta(description="`virtual` for a server that wants the bucket in the host's name; `auto`: for AWS alone"),
    ] = "auto"
    s3_prefix: Annotated[
        str, Meta(description="Prefix of all keys; nothing outside it is read, listed or deleted. Empty: none")
    ] = ""
    s3_sse: Annotated[
        Literal["none", "AES256", "aws:kms", "aws:kms:dsse"],
        Meta(description="Server-side encryption to ask for; `none`: the bucket's default"),
    ] = "none"
    s3_sse_kms_key_id: Annotated[str, Meta(description="KMS key for `S3_SSE=aws:kms`; empty: the account's")] = ""
    s3_checksums: Annotated[
        Literal["when_required", "when_supported"],
        Meta(description="botocore's integrity checksums; `when_supported` for AWS itself"),
    ] = "when_required"

    file_stores: Annotated[
        tuple[FileStore, ...],
        Meta(
            description="Stores of attachments, as `uploads=s3://bucket/prefix`; a prefix may hold `{user_id}`. "
            "Each may have `FILE_STORE_UPLOADS_ENDPOINT_URL`, `…_ACCESS_KEY_ID` and `…_SECRET_ACCESS_KEY`; "
            "default: those of S3"
        ),
    ] = ()

    smtp_url: Annotated[
        str,
        Meta(description="`smtp://user:password@host:587` (STARTTLS required unless `?starttls=never`) or `smtps://`"),
    ]
    smtp_ehlo_name: Annotated[
        str,
        Meta(description="Name in EHLO; many mail servers refuse `localhost`. Default: the host of `PUBLIC_URL`"),
    ] = ""
    smtp_oauth_token_file: Annotated[
        str,
        Meta(description="File with an OAuth access token for the user of `SMTP_URL`, read anew for each mail"),
    ] = ""
    mail_from: Annotated[str, Meta(description="Sender of the mails")]
    language: Annotated[
        Tag,
        Meta(
            description="Language of users whose token, profile (its column `locale`) and browser name none of those "
            "that there are"
        ),
    ] = "en"
    public_url: Annotated[str, Meta(description="This service as users reach it; links are built from it alone")]

    product_name: Annotated[
        str,
        Meta(max_length=60, description="Name of the application, on the page, in mails and in packages. Empty: none"),
    ] = ""
    support_address: Annotated[
        str, Meta(description="Where users get help: a mail address, or a URL that begins with `https://`")
    ] = ""
    accent_color: Annotated[
        str,
        Meta(
            description="Colour of buttons and links, as `#0b6b5d`, with a contrast of 4.5 at least. Empty: Carryout's"
        ),
    ] = ""
    accent_color_dark: Annotated[
        str,
        Meta(description="The same in the dark theme. Default: `ACCENT_COLOR`, as much lighter as it takes"),
    ] = ""
    logo_file: Annotated[
        str,
        Meta(description="PNG, or plain SVG without scripts, of 64 KiB at most; needs `PRODUCT_NAME`. Empty: none"),
    ] = ""
    templates_dir: Annotated[
        str, Meta(description="Folder with the operator's own templates of mails. Empty: none")
    ] = ""

    ca_file: Annotated[
        str,
        Meta(
            description="PEM file of further certificate authorities for S3, Redis, the mail server, keys and traces, "
            "beside the machine's; and for a PostgreSQL with `sslmode=verify-full` whose URL has no `sslrootcert`"
        ),
    ] = ""

    link_secrets: Annotated[
        CommaSeparated,
        Meta(description="Secrets for download links, at least 32 bytes each; the first signs, all verify"),
    ]
    jwt_secret: Annotated[
        CommaSeparated,
        Meta(
            description="HMAC secrets of the users' tokens, at least 32 bytes each, as texts or `base64:…`; all verify"
        ),
    ] = ()
    jwt_public_key_file: Annotated[
        str, Meta(description="PEM file with the public keys of the users' tokens, one or several")
    ] = ""
    jwt_jwks_url: Annotated[str, Meta(description="JWKS URL with the keys of the users' tokens")] = ""
    jwt_algorithms: Annotated[
        CommaSeparated,
        Meta(description="Accepted algorithms. Default: `HS256`, or `RS256,ES256,EdDSA,Ed25519` for a key"),
    ] = ()
    jwt_issuer: Annotated[CommaSeparated, Meta(description="Accepted values of `iss`; empty: not checked")] = ()
    jwt_audience: Annotated[
        CommaSeparated,
        Meta(description="Accepted values of `aud`; empty: tokens must have none"),
    ] = ()
    jwt_audience_claim: Annotated[
        str, Meta(description="Claim that names the audience instead of `aud`, such as `client_id`")
    ] = "aud"
    jwt_user_claim: Annotated[
        str, Meta(description="Claim with the user's id, such as `oid` or `https://app.example.org/user_id`")
    ] = "sub"
    jwt_required_claims: Annotated[
        CommaSeparated,
        Meta(description="Claims that tokens must have, as `type=access,scope=export`: a value, or one of a list"),
    ] = ()
    jwt_token_types: Annotated[
        CommaSeparated,
        Meta(description="Accepted `typ` of a token's header, in any case; a header without one counts as `JWT`"),
    ] = ("JWT", "at+jwt")

    oidc_issuer: Annotated[
        str,
        Meta(description="Issuer of the OpenID Connect provider where the page signs people in; empty: none"),
    ] = ""
    oidc_client_id: Annotated[
        str, Meta(description="The page's id there: a public client, whose redirect URI is `PUBLIC_URL` and a slash")
    ] = ""
    oidc_scopes: Annotated[str, Meta(description="Scopes to request; with `offline_access` where renewal needs it")] = (
        "openid"
    )
    oidc_parameters: Annotated[
        CommaSeparated,
        Meta(description="Further parameters of the authorization request, as `audience=https://api.example.org`"),
    ] = ()
    oidc_origins: Annotated[
        CommaSeparated, Meta(description="Origins of the provider's endpoints that differ from the issuer's")
    ] = ()
    sign_in_url: Annotated[
        str,
        Meta(description="Instead: where the application signs people in, and sends them back to `/#token=…`"),
    ] = ""

    small_export_records: Annotated[
        PositiveInt, Meta(description="Exports with this many records or more are queued")
    ] = 1_000
    max_export_records: Annotated[PositiveInt, Meta(description="Maximum number of records of an export")] = 100_000
    max_export_bytes: Annotated[
        int,
        Meta(ge=1, le=80_000_000_000, description="Maximum size of all attachments of an export, in bytes"),
    ] = 10_000_000_000
    ranges_seconds: Annotated[
        float,
        Meta(gt=0, le=60, description="How long a refusal of too many records may look for date ranges that fit"),
    ] = 5.0
    since_overlap_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=31_536_000,
            description="How far `since` goes back behind an export whose role can't see all transactions",
        ),
    ] = 86_400.0
    export_ttl_seconds: Annotated[PositiveInt, Meta(description="Lifetime of a file and its link")] = 604_800
    retention_seconds: Annotated[
        Annotated[int, Meta(ge=MIN_RETENTION_SECONDS, le=1_000_000_000)] | None,
        Meta(
            description="Age at which a worker deletes exports' rows and events of the audit trail, 30 days at least; "
            "empty: never"
        ),
    ] = None
    exports_per_hour: Annotated[
        PositiveInt,
        Meta(description="Exports per user and hour, but for failed ones, and ones cancelled unbegun"),
    ] = 10
    requests_per_hour: Annotated[
        PositiveInt | None,
        Meta(
            description="How many exports a user may have had in the last hour, their own included, when the desk asks "
            "for one more. Default: `EXPORTS_PER_HOUR`"
        ),
    ] = None
    streams_per_hour: Annotated[PositiveInt, Meta(description="Live streams per user and hour")] = 60
    kept_files: Annotated[
        PositiveInt, Meta(description="Files a user may keep; more are refused until one expires or is deleted")
    ] = 50
    datasets_dir: Annotated[str, Meta(description="Folder with the dataset files")] = str(SQL_DIR / "datasets")
    lists_dir: Annotated[
        str, Meta(description="Folder with the files of operators' lists. Default: `lists` beside `DATASETS_DIR`")
    ] = ""
    forbidden_columns: Annotated[
        CommaSeparated, Meta(description="Column names (globs) that never leave, checked against what a dataset reads")
    ] = ("*password*", "*passwd*", "*secret*", "*token*", "*api_key*", "internal_id", "*_hash", "*salt*", "*otp*")
    operator_columns: Annotated[
        CommaSeparated, Meta(description="Entries of `FORBIDDEN_COLUMNS` that don't hold for the operators' lists")
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
    ] = ()
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
    stream_pool_size: Annotated[
        int, Meta(ge=1, le=1_000, description="Users' streams per process at once; more get 503")
    ] = 8
    list_pool_size: Annotated[
        int,
        Meta(ge=1, le=1_000, description="Operators' lists per process at once, half of them for one key at most"),
    ] = 4
    stream_seconds: Annotated[
        int,
        Meta(ge=60, le=86_400, description="How long one stream, list or proxied download may last; then it is cut"),
    ] = 3_600
    # With a query's time below the silence after which a worker's /livez calls it stuck; so is its poll.
    acquire_timeout_seconds: Annotated[
        float, Meta(gt=0, le=20, description="How long a request waits for a connection before it gets 503")
    ] = 5.0
    worker_jobs: Annotated[
        int, Meta(ge=1, le=1_000, description="Exports a worker makes at once, at most `CARRYOUT_POOL_SIZE`")
    ] = 4
    lease_seconds: Annotated[
        float,
        Meta(
            ge=2,
            le=3_600,
            description="Lease of an export; heartbeats renew it, and another worker takes over when it expires",
        ),
    ] = 15.0
    worker_poll_seconds: Annotated[
        float, Meta(ge=0.01, le=30, description="How often a worker looks into its queue, besides when an export ends")
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
        Meta(description="Networks of the proxies whose `X-Forwarded-For` is trusted; empty: none"),
    ] = ()
    cors_origins: Annotated[
        CommaSeparated,
        Meta(description="Other sites whose pages may call the API, as `https://app.example.org`; empty: none"),
    ] = ()
    frame_ancestors: Annotated[
        CommaSeparated,
        Meta(
            description="Sites whose pages may show `/embedded` in a frame and hand a session over, as "
            "`https://app.example.org`; empty: none"
        ),
    ] = ()
    webhook_url: Annotated[
        str,
        Meta(description="Where events about exports are posted, as Standard Webhooks; without a proxy. Empty: none"),
    ] = ""
    webhook_secrets: Annotated[
        CommaSeparated, Meta(description="Secrets as `whsec_…` that sign the events, each of them by all secrets")
    ] = ()
    webhook_allow_private: Annotated[
        bool, Meta(description="Also post to private addresses, and by plain HTTP, as inside a cluster")
    ] = False
    otlp_endpoint: Annotated[
        str,
        Meta(
            description="OTLP/HTTP collector of traces, as `http://collector:4318`; needs the extra `otel`; empty: none"
        ),
    ] = ""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least severe log lines to write")
    ] = "info"
    log_probes: Annotated[
        bool, Meta(description="Log also the probes that succeed: `/livez`, `/readyz` and `/metrics`")
    ] = True

    def __repr__(self) -> str:
        """Without the secrets, for tracebacks and debuggers."""
        return "Settings(…)"

    @property
    def public_path(self) -> str:
        """The path prefix that a proxy strips, such as `/carryout`; empty without one."""
        return urlsplit(self.public_url).path

    @property
    def lists_folder(self) -> Path:
        return Path(self.lists_dir) if self.lists_dir else Path(self.datasets_dir).parent / "lists"

    @property
    def forbidden_to_operators(self) -> CommaSeparated:
        return tuple(name for name in self.forbidden_columns if name not in self.operator_columns)

    def __post_init__(self) -> None:
        """Derived defaults and the rules between settings."""
        _default(self, "source_database_url", self.database_url)
        _default(self, "migration_database_url", self.database_url)
        _default(self, "s3_public_url", self.s3_endpoint_url)
        _default(self, "jwt_algorithms", ("HS256",) if self.jwt_secret else ("RS256", "ES256", "EdDSA", "Ed25519"))
        msgspec.structs.force_setattr(self, "public_url", self.public_url.rstrip("/"))
        for name in DATABASES:
            _require_database(getattr(self, name), name.upper())
            if self.pooler == "transaction":
                msgspec.structs.force_setattr(self, name, with_parameter(getattr(self, name), POOLED))
        _require_redis(self.redis_url)
        _trust_authorities(self)
        for name in ("s3_endpoint_url", "s3_public_url", "otlp_endpoint", "oidc_issuer"):
            if url := getattr(self, name):
                _require_url(url, name.upper(), {"http", "https"})
        _require_scheme(self.smtp_url, "SMTP_URL", {"smtp", "smtps"})  # Mailer reads the rest
        _require_url(self.public_url, "PUBLIC_URL", {"http", "https"})
        _default(self, "smtp_ehlo_name", _ehlo_name(urlsplit(self.public_url).hostname or ""))
        _require_prefix(self)
        _require_stores(self)
        _require_secrets(self)
        _require_claims(self)
        _require_networks(self.trusted_proxies)
        origins = tuple(_parse_origin(text, "CORS_ORIGINS") for text in self.cors_origins)
        msgspec.structs.force_setattr(self, "cors_origins", origins)
        ancestors = tuple(_parse_ancestor(text, self.public_url) for text in self.frame_ancestors)
        msgspec.structs.force_setattr(self, "frame_ancestors", ancestors)
        _require_sign_in(self)
        _require_webhook(self)
        if any(" #" in glob for glob in self.forbidden_columns):
            raise ConfigurationError(_named("FORBIDDEN_COLUMNS", "has a comment, which would be part of a name"))
        if self.small_export_records > self.max_export_records:
            raise ConfigurationError(_named("SMALL_EXPORT_RECORDS", "must not exceed CARRYOUT_MAX_EXPORT_RECORDS"))


def from_env(environ: Mapping[str, str]) -> Settings:
    """The settings in `environ`, and in the files that it names.

    Raises ConfigurationError with one unknown, all missing, or one wrong name; never with a value.
    """
    given = {name.removeprefix(PREFIX).lower(): text for name, text in environ.items() if name.startswith(PREFIX)}
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}
    own = {name: text.strip() for name, text in given.items() if not _is_service_link(name, text)}
    stores = tuple(parse_stores(split_list(_text_of(STORES, own))))
    settable = [*fields, *(name for store in stores for name in option_names(store))]
    known = {*settable, *CLIENT_CREDENTIALS, *(name + FILE_SUFFIX for name in settable)}
    if unknown := sorted(own.keys() - known):
        raise ConfigurationError(_named(unknown[0], "is not a setting"))
    _refuse_both(own, settable)
    texts = {name: text for name in settable if (text := _text_of(name, own))}
    _require_all(texts.keys())
    for name, text in texts.items():
        _require_plain(name, text)
    values = {
        name: _convert(name, texts[name], fields[name].type) for name in fields if name in texts.keys() - {STORES}
    }
    return Settings(**values, file_stores=tuple(with_options(store, texts) for store in stores))  # type: ignore[arg-type]


def _text_of(name: str, given: Mapping[str, str]) -> str:
    return given.get(name) or _read_file(name, given)


def _is_service_link(name: str, text: str) -> bool:
    return bool(SERVICE_LINK.fullmatch(name) or (name.endswith("port") and SERVICE_LINK_PORT.match(text)))


def decode_secret(text: str) -> bytes:
    """A secret's bytes: a text's, or those that follow `base64:`, in either alphabet. Raises ValueError."""
    if not text.startswith(BASE64):
        return text.encode()
    digits = text.removeprefix(BASE64).rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)


def decode_webhook_secret(text: str) -> bytes:
    """The bytes of a secret as Standard Webhooks 1.0 writes it. Raises ValueError."""
    if not text.startswith(WEBHOOK_SECRET):
        raise ValueError(text)
    return base64.b64decode(text.removeprefix(WEBHOOK_SECRET), validate=True)


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


def _refuse_both(given: Mapping[str, str], fields: Collection[str]) -> None:
    for name in fields:
        if given.get(name) and given.get(name + FILE_SUFFIX):
            raise ConfigurationError(f"Set either {_variable(name)} or {_variable(name + FILE_SUFFIX)}, not both")


def _read_file(name: str, given: Mapping[str, str]) -> str:
    """The content of the file that holds the setting; empty if none is named."""
    variable = name + FILE_SUFFIX
    if not (path := given.get(variable)):
        return ""
    try:
        text = read_trusted(Path(path)).decode().strip()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(_named(variable, f"names a file that can't be read: {reason}")) from None
    if not text:
        raise ConfigurationError(_named(variable, "names an empty file"))
    return text


def _require_plain(name: str, text: str) -> None:
    """Quotes that a shell would have taken off, and what can't be seen, would be part of the value: of a forbidden
    column's name, for one, which no column has.
    """
    if text[0] == text[-1] and text[0] in "\"'":
        raise ConfigurationError(_named(name, "is in quotes, which would be part of it: leave them off"))
    if not text.isprintable():
        raise ConfigurationError(_named(name, "has a line break or an invisible character in it"))


def _convert(name: str, text: str, wanted: object) -> object:
    kind = get_args(wanted)[0]  # of Annotated
    if get_origin(kind) is Literal and text not in get_args(kind):  # msgspec would quote the text
        raise ConfigurationError(_named(name, f"must be one of {', '.join(get_args(kind))}"))
    try:
        return msgspec.convert(split_list(text) if kind == CommaSeparated else text, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(_named(name, f"is wrong: {error}")) from None


def _named(name: str, fault: str) -> str:
    return f"{_variable(name)} {fault}"


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _default(settings: Settings, name: str, value: object) -> None:
    if not getattr(settings, name):
        msgspec.structs.force_setattr(settings, name, value)


def with_parameter(url: str, parameter: str) -> str:
    parts = urlsplit(url)
    return parts._replace(query="&".join(filter(None, [parts.query, parameter]))).geturl()


def _trust_authorities(settings: Settings) -> None:
    """By the parameters of those URLs whose clients take a file by them."""
    if not settings.ca_file:
        return
    file = quote(settings.ca_file, safe="")
    for name in DATABASES:
        url = getattr(settings, name)
        if VERIFYING.search(url) and not AUTHORITIES.search(url):
            msgspec.structs.force_setattr(settings, name, with_parameter(url, f"sslrootcert={file}"))
    if settings.redis_url.startswith("rediss") and not AUTHORITIES.search(settings.redis_url):
        url = with_parameter(settings.redis_url, f"ssl_ca_certs={file}")
        msgspec.structs.force_setattr(settings, "redis_url", url)


def _require_database(url: str, name: str) -> None:
    """There may be several hosts, each with a port."""
    authority = AUTHORITY.match(url)
    hosts = authority[1].rpartition("@")[2] if authority else ""
    for host in hosts.split(","):
        _require_url(url.replace(hosts, host, 1), name, {"postgresql", "postgres"})


def _require_url(url: str, name: str, schemes: set[str]) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigurationError(_named(name, f"is not a URL{ENCODE if '@' in url else ''}")) from None
    _require_scheme(url, name, schemes)
    if parts.scheme.startswith("http"):
        if not parts.hostname or parts.query or parts.fragment:
            raise ConfigurationError(_named(name, "needs a host, and no query"))
    elif parts.fragment or "@" in parts.path:  # behind a password that begins with digits, which passes for a port
        raise ConfigurationError(_named(name, f"is not a URL{ENCODE}"))


def _require_scheme(url: str, name: str, schemes: set[str]) -> None:
    if any(character.isspace() for character in url):
        raise ConfigurationError(_named(name, "has a space in it"))
    if url.partition("://")[0].lower() not in schemes:
        raise ConfigurationError(_named(name, f"must begin with {' or '.join(sorted(s + '://' for s in schemes))}"))


def _ehlo_name(host: str) -> str:
    """The host as RFC 5321 writes it in EHLO: an IP address in brackets."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        with suppress(idna.IDNAError):  # Mailer refuses what isn't a name
            host = host if host.isascii() else idna.encode(host, uts46=True).decode()
        return host.rstrip(".")
    return f"[{host}]" if address.version == 4 else f"[IPv6:{host}]"  # noqa: PLR2004 (IPv4)


def _require_redis(url: str) -> None:
    """There may be several Sentinels."""
    authority = AUTHORITY.match(url.replace("+sentinel://", "://", 1))
    hosts = authority[1].rpartition("@")[2] if authority and "+sentinel://" in url else ""
    for host in hosts.split(","):
        schemes = {"redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"}
        _require_url(url.replace(hosts, host, 1), "REDIS_URL", schemes)


def _require_prefix(settings: Settings) -> None:
    if settings.s3_sse_kms_key_id and not settings.s3_sse.startswith("aws:kms"):
        raise ConfigurationError(_named("S3_SSE_KMS_KEY_ID", "needs CARRYOUT_S3_SSE=aws:kms"))
    prefix = settings.s3_prefix
    if not KEY_PREFIX.fullmatch(prefix):
        raise ConfigurationError(
            _named(
                "S3_PREFIX", "must be names of letters, digits and !_.*'()- between single slashes, such as exports/eu"
            )
        )
    if prefix and not prefix.endswith("/"):
        msgspec.structs.force_setattr(settings, "s3_prefix", f"{prefix}/")


def _require_stores(settings: Settings) -> None:
    """No attachment may be an export of another user."""
    exports = f"{settings.s3_prefix}exports/"
    for store in settings.file_stores:
        name = f"FILE_STORE_{store.name.upper()}_ENDPOINT_URL"
        if store.endpoint_url:
            _require_url(store.endpoint_url, name, {"http", "https"})
        same = store.bucket == settings.s3_bucket and store.endpoint_url in {"", settings.s3_endpoint_url}
        if same and (exports.startswith(store.common_prefix) or store.common_prefix.startswith(exports)):
            raise ConfigurationError(
                _named("FILE_STORES", f"needs a prefix for the store {store.name} that holds no exports")
            )


def _require_networks(networks: CommaSeparated) -> None:
    for position, network in enumerate(networks, start=1):
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise ConfigurationError(
                _named("TRUSTED_PROXIES", f"needs networks such as 10.0.0.0/8, but entry {position} is none")
            ) from None


def _parse_origin(text: str, name: str, *, whole: bool = True) -> str:
    """As browsers write it: in lower case, without a default port, an international name in its ASCII form.

    `whole`: the text is an origin; otherwise it may have a path.
    """
    try:
        url = URL(text)
        is_web = url.scheme in {"http", "https"} and url.host and "*" not in url.host
        if is_web and (not whole or url == url.origin().with_path("/")):
            return str(url.origin())
    except ValueError:
        pass
    raise ConfigurationError(_named(name, f"needs origins as https://app.example.org, without a path, not {text}"))


def _parse_ancestor(text: str, public_url: str) -> str:
    """A page that the network could change must not hand tokens over."""
    origin = _parse_origin(text, "FRAME_ANCESTORS")
    parts = urlsplit(origin)
    if parts.scheme == "http" and public_url.startswith("https://") and parts.hostname not in LOCAL_HOSTS:
        raise ConfigurationError(_named("FRAME_ANCESTORS", f"needs https:// as PUBLIC_URL has it, not {origin}"))
    return origin


def _require_sign_in(settings: Settings) -> None:
    if bool(settings.oidc_issuer) != bool(settings.oidc_client_id):
        raise ConfigurationError(_named("OIDC_CLIENT_ID", "and CARRYOUT_OIDC_ISSUER go together"))
    if settings.sign_in_url:
        _require_sign_in_url(settings)
    if settings.oidc_issuer:
        _require_provider(settings)


def _require_sign_in_url(settings: Settings) -> None:
    if settings.oidc_issuer:
        raise ConfigurationError(_named("SIGN_IN_URL", "and CARRYOUT_OIDC_ISSUER exclude each other: leave one off"))
    if not settings.sign_in_url.startswith(("https://", "http://")):
        raise ConfigurationError(_named("SIGN_IN_URL", "must begin with http:// or https://"))


def _require_provider(settings: Settings) -> None:
    """Browsers hash the proof of a code (PKCE) on secure pages alone."""
    page = urlsplit(settings.public_url)
    if page.scheme != "https" and page.hostname not in LOCAL_HOSTS:
        raise ConfigurationError(_named("PUBLIC_URL", "must begin with https:// for CARRYOUT_OIDC_ISSUER"))
    if "openid" not in settings.oidc_scopes.split():
        raise ConfigurationError(_named("OIDC_SCOPES", "must contain openid"))
    for parameter in settings.oidc_parameters:
        name, _, value = parameter.partition("=")
        if not value or name in OWN_PARAMETERS:
            raise ConfigurationError(_named("OIDC_PARAMETERS", f"needs name=value, and not {parameter}"))
    issuer = _parse_origin(settings.oidc_issuer, "OIDC_ISSUER", whole=False)
    others = (_parse_origin(text, "OIDC_ORIGINS") for text in settings.oidc_origins)
    msgspec.structs.force_setattr(settings, "oidc_origins", (issuer, *others))


def _require_webhook(settings: Settings) -> None:
    if not settings.webhook_url:
        return
    schemes = {"http", "https"} if settings.webhook_allow_private else {"https"}
    _require_url(settings.webhook_url, "WEBHOOK_URL", schemes)
    if not settings.webhook_secrets:
        raise ConfigurationError(_named("WEBHOOK_SECRETS", "is needed with CARRYOUT_WEBHOOK_URL"))
    for position, secret in enumerate(settings.webhook_secrets, start=1):
        _require_webhook_secret(secret, position)


def _require_webhook_secret(secret: str, position: int) -> None:
    try:
        if len(decode_webhook_secret(secret)) in WEBHOOK_SECRET_BYTES:
            return
    except ValueError:
        pass
    fault = f"needs {WEBHOOK_SECRET} and 24 to 64 random bytes in base64 for each secret, but entry {position} differs"
    raise ConfigurationError(_named("WEBHOOK_SECRETS", fault))


def _require_claims(settings: Settings) -> None:
    if not settings.jwt_token_types:
        raise ConfigurationError(_named("JWT_TOKEN_TYPES", "names no type"))
    if settings.jwt_audience_claim != "aud" and not settings.jwt_audience:
        raise ConfigurationError(_named("JWT_AUDIENCE", "is needed with CARRYOUT_JWT_AUDIENCE_CLAIM"))
    for position, claim in enumerate(settings.jwt_required_claims, start=1):
        name, _, value = claim.partition("=")
        if not name.strip() or not value.strip():
            raise ConfigurationError(
                _named("JWT_REQUIRED_CLAIMS", f"needs name=value for each claim, but entry {position} is none")
            )


def _require_secrets(settings: Settings) -> None:
    if bool(settings.s3_access_key_id) != bool(settings.s3_secret_access_key):
        raise ConfigurationError(_named("S3_SECRET_ACCESS_KEY", "and CARRYOUT_S3_ACCESS_KEY_ID go together"))
    if not settings.link_secrets:
        raise ConfigurationError(_named("LINK_SECRETS", "names no secret"))
    for secret in settings.link_secrets:
        _require_one_secret(secret, "LINK_SECRETS")
        _require_secret(secret.encode(), "LINK_SECRETS")
    for secret in settings.jwt_secret:
        _require_one_secret(secret, "JWT_SECRET")
        _require_secret(_decode(secret, "JWT_SECRET"), "JWT_SECRET")
    if sum(bool(getattr(settings, name)) for name in TOKEN_KEYS) != 1:
        raise ConfigurationError(
            "Set exactly one of CARRYOUT_JWT_SECRET, CARRYOUT_JWT_PUBLIC_KEY_FILE and CARRYOUT_JWT_JWKS_URL"
        )


def _decode(secret: str, name: str) -> bytes:
    try:
        return decode_secret(secret)
    except ValueError:
        raise ConfigurationError(_named(name, f"is not valid base64 after {BASE64}")) from None


def _require_one_secret(text: str, name: str) -> None:
    """Two secrets with another separator than a comma would be taken for one, and end all that the old one signed."""
    if sum(len(part.encode()) >= MINIMUM_SECRET_BYTES for part in OTHER_SEPARATORS.split(text)) > 1:
        raise ConfigurationError(_named(name, "has several secrets in one: separate them by commas"))


def _require_secret(secret: bytes, name: str) -> None:
    if len(secret) < MINIMUM_SECRET_BYTES or len(set(secret) - set(string.whitespace.encode())) < 2:  # noqa: PLR2004
        raise ConfigurationError(
            _named(name, f"needs at least {MINIMUM_SECRET_BYTES} random bytes for each of its comma-separated secrets")
        )
