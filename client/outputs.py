"""Where a document goes: FILE, by way of FILE.part, or standard output."""

import fcntl
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from client.errors import OutputError, RefusedError

STANDARD_OUTPUT = "-"
PIECE_BYTES = 1024 * 1024


class Output(Protocol):
    """Bytes in order; `size_bytes` is how many there are by now."""

    size_bytes: int

    def write(self, chunk: bytes) -> None: ...

    def pieces(self) -> Iterator[bytes]:
        """What an earlier run left."""

    def keep(self, size_bytes: int) -> None:
        """Forget all but the first bytes. Raises RefusedError where they are gone for good."""

    def discard(self) -> None:
        """What there is will never be of use; let it disappear as far as it can."""

    def finish(self) -> None:
        """The document is complete and right."""


class StandardOutput:
    def __init__(self) -> None:
        self.size_bytes = 0

    def write(self, chunk: bytes) -> None:
        self.size_bytes += len(chunk)
        while chunk:
            chunk = chunk[os.write(sys.stdout.fileno(), chunk) :]

    def pieces(self) -> Iterator[bytes]:
        return iter(())

    def keep(self, size_bytes: int) -> None:
        if size_bytes < self.size_bytes:
            raise RefusedError("The download would have to begin again, but its beginning is written already")

    def discard(self) -> None:
        pass

    def finish(self) -> None:
        pass


class PartFile:
    """FILE.part, which `finish` makes FILE in one step. Nobody but its owner may read it: it is personal data."""

    def __init__(self, path: Path, part: io.BufferedRandom, *, force: bool) -> None:
        self.size_bytes = part.seek(0, os.SEEK_END)
        self._path = path
        self._part = part
        self._force = force

    def write(self, chunk: bytes) -> None:
        self._part.write(chunk)
        self.size_bytes += len(chunk)

    def pieces(self) -> Iterator[bytes]:
        self._part.seek(0)
        while piece := self._part.read(PIECE_BYTES):
            yield piece

    def keep(self, size_bytes: int) -> None:
        self._part.seek(size_bytes)
        self._part.truncate()
        self.size_bytes = size_bytes

    def discard(self) -> None:
        self.keep(0)

    def finish(self) -> None:
        self._part.flush()
        os.fsync(self._part.fileno())  # the name must not outlive a crash that the bytes don't
        if self._force:
            part_path(self._path).replace(self._path)
        else:
            _rename_to_new(part_path(self._path), self._path)


@contextmanager
def open_output(path: Path, *, force: bool, resume: bool) -> Iterator[Output]:
    """`resume` goes on with what is in FILE.part. Raises OutputError.

    What was written stays in FILE.part whatever happens; an empty one doesn't.
    """
    if str(path) == STANDARD_OUTPUT:
        yield StandardOutput()
        return
    _refuse_existing(path, force=force)
    with _open_locked(part_path(path)) as part:
        _refuse_existing(path, force=force)  # whoever had the lock may just have finished it
        if not resume:
            part.truncate()
        output = PartFile(path, part, force=force)
        try:
            yield output
        finally:
            if not output.size_bytes:
                part_path(path).unlink(missing_ok=True)


def part_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _refuse_existing(path: Path, *, force: bool) -> None:
    """A rename would put a file in the place of a pipe, a device or a link: `/dev/stdout` may be any of these."""
    there = path.exists() or path.is_symlink()
    if there and (path.is_symlink() or not path.is_file()):
        raise OutputError(f"{path} is no ordinary file; for standard output give -o -")
    if there and not force:
        raise OutputError(f"{path} is there already; --force replaces it")


def _open_locked(path: Path) -> io.BufferedRandom:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        raise OutputError(f"There is no folder {path.parent}") from None
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror}") from None
    part = os.fdopen(descriptor, "r+b")
    try:
        fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        part.close()
        raise OutputError(f"{path} is being written by another process") from None
    return part


def _rename_to_new(source: Path, target: Path) -> None:
    """Raises OutputError if `target` has come to be meanwhile. A rename would replace it."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise OutputError(f"{target} is there by now; {source} is complete") from None
    except OSError:  # a file system without links
        _refuse_existing(target, force=False)
        source.replace(target)
    else:
        source.unlink()
