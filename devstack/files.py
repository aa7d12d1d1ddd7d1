"""The embedded stack's installed binaries, and its data folder."""

import fcntl
import importlib.metadata
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guard.files import open_private, require_own_folder
from service.errors import ConfigurationError


def find_binary(distribution: str, path_end: str) -> Path:
    """The file of `distribution` with a path ending in `path_end`. Raises ConfigurationError if it isn't installed."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix().endswith(path_end):
            return Path(str(file.locate())).resolve()
    raise ConfigurationError(f"The embedded servers need the package {distribution}: install carryout[devstack]")


def try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Create and lock `folder` for this process. Raises ConfigurationError if another process holds the lock.

    An account that may write to it could replace the secrets and the servers' settings.
    """
    try:
        # Other accounts may traverse it, not list it: a server that runs as another account has its data below.
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        require_own_folder(folder)
        lock = os.fdopen(open_private(folder / "lock"), "r+b")
    except OSError as error:
        raise ConfigurationError(f"The data folder {folder} can't be used: {error.strerror}") from error
    with lock:
        if not try_lock(lock.fileno()):
            raise ConfigurationError(f"The data folder {folder} is in use by another process; choose another one")
        yield
