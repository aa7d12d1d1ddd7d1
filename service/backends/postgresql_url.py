"""PostgreSQL's URLs as libpq, asyncpg, poolers and other libraries write them: what of them asyncpg is given."""

import getpass
import os
import re
import ssl
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from service.backends.authorities import require_authorities
from service.errors import ConfigurationError

Host: TypeAlias = tuple[str, int]

CONNECT_TIMEOUT_SECONDS: Final = 5.0
DEFAULT_PORT: Final = 5432
TRANSACTION_POOLING: Final = "pgbouncer"
# asyncpg would give each other one to the server, as a setting of the session.
ASYNCPGS: Final = frozenset(
    {
        *("host", "port", "dbname", "database", "user", "password", "passfile", "service", "target_session_attrs"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib"),
    }
)
# libpq's own: patience with a silent server, for which our queries have time limits of their own, and what asyncpg
# always or never does. Then those of Prisma, Rails, JDBC, node-postgres and Supabase, about their own pools.
IGNORED: Final = frozenset(
    {
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
        *("client_encoding", "fallback_application_name", "load_balance_hosts", "sslcompression", "sslsni"),
        *("sslcertmode", "gssdelegation", "min_protocol_version", "max_protocol_version"),
        *("schema", "connection_limit", "pool_timeout", "socket_timeout", "pool", "statement_cache_size"),
        *("prepared_statements", "prepareThreshold", "uselibpqcompat", "supa"),
    }
)
# Parameters that asyncpg can't fulfil, and the values that ask for nothing.
IMPOSSIBLE: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "channel_binding": frozenset({"disable", "prefer"}),
        "gssencmode": frozenset({"disable", "prefer"}),
        "hostaddr": frozenset(),
        "replication": frozenset({"false"}),
        "require_auth": frozenset(),
        "requirepeer": frozenset(),
        "sslcrldir": frozenset(),
    }
)
INSTEAD: Final = MappingProxyType(
    {
        "channel_binding": "use sslmode=verify-full, with sslrootcert=system or your authority's file, which protects "
        "against the same",
        "hostaddr": "give the address as the host",
    }
)
SETTING: Final = re.compile(r"[A-Za-z_][\w.]{0,62}", re.ASCII)
TRUTHS: Final = MappingProxyType({"true": True, "false": False})


class PostgresqlUrl(NamedTuple):
    """`dsn` is for asyncpg, and `session` for the server: settings of the session. `hosts` is empty for one host."""

    dsn: str
    hosts: tuple[Host, ...]
    session: dict[str, str]
    target: str | None
    transaction_pooling: bool
    connect_timeout_seconds: float
    tls: ssl.SSLContext | None


def parse_postgresql_url(url: str, name: str) -> PostgresqlUrl:
    """Raises ConfigurationError, with the setting's `name`, for a parameter that can't be obeyed."""
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    for parameter, harmless in IMPOSSIBLE.items():
        if parameter in given and given.pop(parameter) not in harmless:
            raise ConfigurationError(_impossible(name, parameter))
    timeout = _take(given, "connect_timeout", name, _seconds, default=None)
    pooled = _take(given, TRANSACTION_POOLING, name, TRUTHS.get, default=False)
    if not (parts.username or given.get("user") or os.environ.get("PGUSER")):
        _require_account(name)
    hosts = _hosts(parts.netloc.rpartition("@")[2], given)
    _require_tls_files(given, name)
    tls = _take_system_authorities(given, name)
    session = {key: value for key, value in given.items() if key not in ASYNCPGS | IGNORED}
    if wrong := next((key for key in session if not SETTING.fullmatch(key)), None):
        raise ConfigurationError(f"{name} has a parameter that PostgreSQL doesn't know: {wrong}")
    kept = {key: value for key, value in given.items() if key in ASYNCPGS}
    return PostgresqlUrl(
        dsn=f"{url.partition('?')[0]}?{urlencode(kept, quote_via=quote)}".rstrip("?"),
        hosts=hosts if len(hosts) > 1 else (),
        session=session,
        target=kept.get("target_session_attrs") or os.environ.get("PGTARGETSESSIONATTRS"),
        transaction_pooling=bool(pooled),
        # One host that vanished must leave time for the next.
        connect_timeout_seconds=timeout or CONNECT_TIMEOUT_SECONDS / max(1, len(hosts)),
        tls=tls,
    )


def _require_account(name: str) -> None:
    """Asyncpg takes the account's name for the user; in a container, the account may have none."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # KeyError before Python 3.13
        raise ConfigurationError(f"{name} names no user, and this process's account has no name") from None


def _impossible(name: str, parameter: str) -> str:
    mend = INSTEAD.get(parameter, "leave it off")
    return f"{name} has a parameter that can't be obeyed, {parameter}: {mend}"


def _take(
    given: dict[str, str], parameter: str, name: str, read: Callable[[str], float | None], *, default: float | None
) -> float | None:
    if parameter not in given:
        return default
    value = read(given.pop(parameter))
    if value is None:
        raise ConfigurationError(f"{name} has a wrong value of the parameter {parameter}")
    return value


def _seconds(text: str) -> float | None:
    """0 is libpq's "for ever", which here is the default."""
    return float(text) if re.fullmatch(r"\d{1,4}", text, re.ASCII) else None


def _require_tls_files(given: Mapping[str, str], name: str) -> None:
    if (file := given.get("sslrootcert", "system")) != "system":
        require_authorities(file, f"{name} in sslrootcert")
    if "sslcert" not in given:
        return
    try:
        _load_client_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), given)
    except (OSError, ValueError):  # a missing file, another file's key, a wrong sslpassword
        raise ConfigurationError(f"{name} has a certificate in sslcert or a key in sslkey that can't be used") from None


def _load_client_certificate(context: ssl.SSLContext, given: Mapping[str, str]) -> None:
    # A text, even an empty one: otherwise OpenSSL would ask at the terminal.
    context.load_cert_chain(given["sslcert"], given.get("sslkey"), given.get("sslpassword", ""))


def _take_system_authorities(given: dict[str, str], name: str) -> ssl.SSLContext | None:
    """As libpq's sslrootcert=system: the authorities of the machine, and the server's name is checked."""
    if given.get("sslrootcert", os.environ.get("PGSSLROOTCERT")) != "system":
        return None
    given.pop("sslrootcert", None)
    if given.pop("sslmode", "verify-full") != "verify-full":  # libpq refuses it, too: any server would be trusted
        raise ConfigurationError(f"{name} has sslrootcert=system, which needs sslmode=verify-full")
    context = ssl.create_default_context()
    context.set_alpn_protocols(["postgresql"])
    if "sslcert" in given:
        _load_client_certificate(context, given)
    return context


def _hosts(netloc: str, given: Mapping[str, str]) -> tuple[Host, ...]:
    """As libpq pairs them: in the authority each has its port; parameters are two lists of the same length."""
    if netloc:
        return tuple(_host(spec) for spec in netloc.split(","))
    hosts = [host for host in given.get("host", "").split(",") if host]
    ports = given.get("port", "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    return tuple((host, int(port or DEFAULT_PORT)) for host, port in zip(hosts, ports, strict=False))


def _host(spec: str) -> Host:
    host, port = spec, ""
    if found := re.fullmatch(r"(?:\[([^\]]+)\]|([^:]*))(?::(\d*))?", spec):
        host, port = found[1] or found[2], found[3] or ""
    return unquote(host), int(port or os.environ.get("PGPORT") or DEFAULT_PORT)
