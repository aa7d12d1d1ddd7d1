"""The certificate authorities that a connection trusts: the machine's, and those of CARRYOUT_CA_FILE."""

import ssl
from pathlib import Path

from guard.files import read_trusted
from service.errors import ConfigurationError


def create_tls_context(ca_file: str) -> ssl.SSLContext:
    """For a client that checks a server's certificate and its name. Raises ConfigurationError."""
    context = ssl.create_default_context()
    add_authorities(context, ca_file)
    return context


def require_authorities(file: str, name: str) -> None:
    """Raises ConfigurationError, with the setting's `name`, for a file that a library would fail at later."""
    add_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), file, name)


def add_authorities(context: ssl.SSLContext, ca_file: str, name: str = "CARRYOUT_CA_FILE") -> None:
    """Trust those of the file, too, if one is given. Raises ConfigurationError."""
    if not ca_file:
        return
    try:
        context.load_verify_locations(cadata=read_trusted(Path(ca_file)).decode())
    except (ValueError, ssl.SSLError):
        raise ConfigurationError(f"{name} must name a file with certificates in PEM form") from None
    except OSError as error:
        raise ConfigurationError(f"{name} names a file that can't be read: {error.strerror}") from None
