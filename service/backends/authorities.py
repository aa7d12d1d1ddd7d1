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


def add_authorities(context: ssl.SSLContext, ca_file: str) -> None:
    """Trust those of the file, too. Raises ConfigurationError."""
    if not ca_file:
        return
    try:
        context.load_verify_locations(cadata=read_trusted(Path(ca_file)).decode())
    except (ValueError, ssl.SSLError):
        raise ConfigurationError("CARRYOUT_CA_FILE must name a file with certificates in PEM form") from None
    except OSError as error:
        raise ConfigurationError(f"CARRYOUT_CA_FILE names a file that can't be read: {error.strerror}") from None
