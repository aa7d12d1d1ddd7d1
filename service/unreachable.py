"""Why a server can't be reached, in the same words whichever library was refused: no address, no credentials."""

import socket
import ssl
from typing import Final, TypeAlias

Failures: TypeAlias = tuple[tuple[type[Exception], str], ...]

UNREACHABLE: Final = "can't be reached"
NO_ANSWER: Final = "didn't answer in time"
OS_FAILURES: Final[Failures] = (
    (TimeoutError, NO_ANSWER),
    (socket.gaierror, f"{UNREACHABLE}: its host is unknown"),
    (ConnectionRefusedError, f"{UNREACHABLE}: nothing listens there"),
    (FileNotFoundError, f"{UNREACHABLE}: a file or socket that its URL names is missing"),
    (ssl.SSLCertVerificationError, f"{UNREACHABLE}: its certificate can't be verified"),
    (ssl.SSLError, f"{UNREACHABLE} by TLS"),
    (ConnectionError, f"{UNREACHABLE}: it closed the connection (do both sides speak TLS?)"),
    (OSError, UNREACHABLE),
)


def find_words(failures: Failures, error: BaseException) -> str | None:
    """Those of the first kind that fits: what follows the server's name in a sentence."""
    return next((words for kind, words in failures if isinstance(error, kind)), None)


def describe_unreachable(error: BaseException | None) -> str:
    """What a library's own error means, by the OSError that led to it."""
    words = UNREACHABLE
    while error is not None:
        words = find_words(OS_FAILURES, error) or words
        error = error.__cause__ or error.__context__
    return words
