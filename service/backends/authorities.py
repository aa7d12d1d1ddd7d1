"""The certificate authorities that a connection trusts: the machine's, and those of CARRYOUT_CA_FILE."""

import functools
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guard.files import read_trusted
from service.errors import ConfigurationError


def create_tls_context(ca_file: str) -> ssl.SSLContext:
    """For a client that checks a server's certificate and its name. Raises ConfigurationError.

    All clients of the process share it: reading the machine's authorities takes tens of milliseconds.
    """
    with _refusing("CARRYOUT_CA_FILE"):
        return _trust(_read(ca_file), ssl.get_default_verify_paths())


def require_authorities(file: str, name: str) -> None:
    """Raises ConfigurationError, with the setting's `name`, for a file that a library would fail at later."""
    with _refusing(name):
        _parse(_read(file))


def add_authorities(context: ssl.SSLContext, ca_file: str) -> None:
    """Trust those of the file, too, if one is given. Raises ConfigurationError."""
    with _refusing("CARRYOUT_CA_FILE"):
        _add(context, _read(ca_file))


@functools.lru_cache(maxsize=8)
def _trust(authorities: str | None, _machines: ssl.DefaultVerifyPaths) -> ssl.SSLContext:
    context = ssl.create_default_context()
    _add(context, authorities)
    return context


@functools.lru_cache(maxsize=8)
def _parse(authorities: str | None) -> None:
    _add(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), authorities)


def _add(context: ssl.SSLContext, authorities: str | None) -> None:
    if authorities is not None:
        context.load_verify_locations(cadata=authorities)


def _read(file: str) -> str | None:
    return read_trusted(Path(file)).decode() if file else None


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turns what is wrong with the file into ConfigurationError."""
    try:
        yield
    except (ValueError, ssl.SSLError):
        raise ConfigurationError(f"{name} must name a file with certificates in PEM form") from None
    except OSError as error:
        raise ConfigurationError(f"{name} names a file that can't be read: {error.strerror}") from None
