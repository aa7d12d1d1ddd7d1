"""What the embedded stack finds installed and keeps on disk."""

import fcntl
import importlib.metadata
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import ConfigurationError


def find_binary(distribution: str, path_end: str) -> Path:
    """The installed file of `distribution` whose path ends so. Raises ConfigurationError if it isn't installed."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix().endswith(path_end):
            return Path(str(file.locate())).resolve()
    raise ConfigurationError(f"The embedded servers need the package {distribution}: install carryout[devstack]")


def write_private(path: Path, content: bytes) -> None:
    """Replace the file in one step; only its owner can read it, from its first byte on."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    fresh.replace(path)


def try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Make `folder` and keep it to this process. Raises ConfigurationError if another one has it."""
    try:
        # Others may pass through, not look around: a server that runs as another account keeps its data below.
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        lock = (folder / "lock").open("wb")
    except OSError as error:
        raise ConfigurationError(f"The data folder {folder} can't be used: {error.strerror}") from error
    with lock:
        if not try_lock(lock.fileno()):
            raise ConfigurationError(f"The data folder {folder} is in use by another process; choose another one")
        yield
