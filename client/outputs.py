"""The outputs: FILE, written through FILE.part, or standard output."""

import fcntl
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from client.errors import OutputError, RefusedError
from client.words import gettext
from guard.files import is_still_there, open_private

STANDARD_OUTPUT = "-"
PIECE_BYTES = 1024 * 1024


class Output(Protocol):
    """A sink for bytes in order; `size_bytes` is the number written so far."""

    size_bytes: int

    def write(self, chunk: bytes) -> None: ...

    def pieces(self) -> Iterator[bytes]:
        """The bytes of an earlier run."""

    def keep(self, size_bytes: int) -> None:
        """Truncate to `size_bytes`. Raises RefusedError if the bytes are already sent."""

    def discard(self) -> None:
        """Drop the bytes if possible, because they are useless."""

    def finish(self) -> None:
        """Publish the output: the document is complete and verified."""


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
            sentence = gettext("The download must restart, but its first bytes are already written to standard output")
            raise RefusedError(sentence)

    def discard(self) -> None:
        pass

    def finish(self) -> None:
        pass


class PartFile:
    """FILE.part, which `finish` renames to FILE. Only its owner may read it, because it holds personal data."""

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
        _require_still_there(part_path(self._path), self._part)
        if self._force:
            part_path(self._path).replace(self._path)
        else:
            _rename_to_new(part_path(self._path), self._path)


@contextmanager
def open_output(path: Path, *, force: bool, resume: bool) -> Iterator[Output]:
    """`resume` keeps the contents of FILE.part. Raises OutputError.

    On any error the written bytes stay in FILE.part; an empty FILE.part is removed.
    """
    if str(path) == STANDARD_OUTPUT:
        yield StandardOutput()
        return
    _refuse_existing(path, force=force)
    with _open_locked(part_path(path)) as part:
        _refuse_existing(path, force=force)  # the previous holder of the lock may have finished FILE
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
    """A rename would replace a pipe, a device or a link; `/dev/stdout` may be any of these."""
    there = path.exists() or path.is_symlink()
    if there and (path.is_symlink() or not path.is_file()):
        raise OutputError(gettext("%(path)s is not a regular file; use -o - for standard output", path=path))
    if there and not force:
        raise OutputError(gettext("%(path)s already exists; --force replaces it", path=path))


def _open_locked(path: Path) -> io.BufferedRandom:
    try:
        descriptor = open_private(path)
    except (FileNotFoundError, NotADirectoryError):
        raise OutputError(gettext("The folder %(path)s doesn't exist", path=path.parent)) from None
    except OSError as error:
        sentence = gettext("%(path)s can't be written: %(reason)s", path=path, reason=error.strerror)
        raise OutputError(sentence) from None
    part = os.fdopen(descriptor, "r+b")
    try:
        fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        part.close()
        raise OutputError(gettext("%(path)s is being written by another process", path=path)) from None
    try:
        _require_still_there(path, part)
    except OutputError:
        part.close()
        raise
    return part


def _require_still_there(path: Path, part: io.BufferedRandom) -> None:
    """An account that may write to the folder can replace FILE.part, and FILE must not become that file."""
    if not is_still_there(path, part.fileno()):
        sentence = gettext(
            "%(path)s was moved or replaced by another process; use a folder that only you can write to", path=path
        )
        raise OutputError(sentence)


def _rename_to_new(source: Path, target: Path) -> None:
    """Raises OutputError if `target` exists by now, because a rename would replace it."""
    try:
        os.link(source, target)
    except FileExistsError:
        sentence = gettext("%(path)s exists by now; the complete file is %(source)s", path=target, source=source)
        raise OutputError(sentence) from None
    except OSError:  # the file system has no hard links
        _refuse_existing(target, force=False)
        source.replace(target)
    else:
        source.unlink()
