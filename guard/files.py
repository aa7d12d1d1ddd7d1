"""Files in folders that other accounts may write to. A file planted there is neither written, followed nor trusted."""

import errno
import os
import stat
from itertools import pairwise
from pathlib import Path
from typing import Final

# Opening a pipe must not block, and opening a terminal must not make it the controlling one.
FLAGS: Final = os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
PRIVATE: Final = 0o600
MAX_READ_BYTES: Final = 1024 * 1024
MEND: Final = "remove it, or choose another name"


class UnsafeFileError(OSError):
    """Another account could read, write or replace the file. `strerror` says why and what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EPERM, reason)


def open_private(path: Path) -> int:
    """A descriptor to read and write a file that only its owner can read. Existing content is kept.

    Raises OSError: UnsafeFileError unless it is a regular file, owned by this account, without further hard links.
    """
    try:
        return _checked(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | FLAGS, PRIVATE), is_new=True)
    except FileExistsError:
        return _checked(_open_existing(path), is_new=False)


def is_still_there(path: Path, descriptor: int) -> bool:
    """Whether the path still names the open file."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def replace_file(path: Path, content: bytes, *, mode: int = PRIVATE) -> None:
    """Replace the file atomically. A symbolic link is replaced, never followed."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FLAGS, mode), "wb") as file:
        file.write(content)
    fresh.replace(path)


def read_foreign(path: Path) -> bytes:
    """The beginning of a file that another account owns. Raises OSError for a symbolic link. A pipe reads as empty."""
    with os.fdopen(os.open(path, os.O_RDONLY | FLAGS), "rb") as file:
        return file.read(MAX_READ_BYTES) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""


def read_trusted(path: Path, *, named: bool = True) -> bytes:
    """The content of a file that the caller named, such as settings or a key.

    Links and pipes are followed, because Kubernetes and shells make them. Raises OSError: UnsafeFileError if every
    account may write the file or replace it, or if it is too long.

    A file that was found in a folder is not `named`: it may be a link, but not a pipe, which could block the reader.
    """
    waiting = 0 if named else os.O_NONBLOCK
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC | waiting), "rb") as file:
        found = os.fstat(file.fileno())
        if not named and not stat.S_ISREG(found.st_mode):
            raise UnsafeFileError(f"it is not a regular file; {MEND}")
        if stat.S_ISREG(found.st_mode):
            _require_kept_path(path)
            _require_kept_path(path.resolve())
        if stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_IWOTH:
            raise UnsafeFileError("every account may write it: take that right away with chmod o-w")
        content = file.read(MAX_READ_BYTES + 1)
    if len(content) > MAX_READ_BYTES:
        raise UnsafeFileError("it is longer than 1 MiB")
    return content


def is_readable_by_all(path: Path) -> bool:
    """Whether every account may read the file, and reach it through the folders that it lies in."""
    resolved = path.resolve()
    if not stat.S_ISREG(mode := resolved.stat().st_mode) or not mode & stat.S_IROTH:
        return False
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in resolved.parents)


def require_kept_folder(folder: Path) -> None:
    """Raise UnsafeFileError if every account may replace a file that this account puts into the folder."""
    for path in (folder, folder.resolve()):
        _require_kept(path, os.geteuid())
        _require_kept_path(path)


def require_own_folder(folder: Path) -> None:
    """Raise UnsafeFileError if another account owns the folder, or may write to it or replace it."""
    found = folder.stat()
    if {found.st_uid, folder.lstat().st_uid} != {os.geteuid()}:
        raise UnsafeFileError("it belongs to another account; choose another one")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnsafeFileError("other accounts may write to it: take that right away with chmod go-w")
    _require_kept_path(folder)
    _require_kept_path(folder.resolve())


def _require_kept_path(path: Path) -> None:
    """Raise UnsafeFileError if every account may replace the file, or a folder on the way to it.

    An account that may write to a folder may replace what is in it, except in a sticky folder what belongs to others;
    but the sticky folder's owner may. Kubernetes mounts its secrets as folders of such a mode, but read-only.
    """
    for entry, folder in pairwise((path.absolute(), *path.absolute().parents)):
        _require_kept(folder, entry.lstat().st_uid)


def _require_kept(folder: Path, owner: int) -> None:
    """Raise UnsafeFileError if every account may replace what `owner` has in the folder."""
    found = folder.stat()
    if not found.st_mode & stat.S_IWOTH or os.statvfs(folder).f_flag & os.ST_RDONLY:
        return
    if not found.st_mode & stat.S_ISVTX or not {found.st_uid, owner} <= {0, os.geteuid()}:
        raise UnsafeFileError(
            f"every account may write to its folder {folder}: take that right away with chmod o-w, or move it"
        )


def _open_existing(path: Path) -> int:
    """Open the file, or create it if another process removed it meanwhile."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | FLAGS, PRIVATE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafeFileError(f"it is a symbolic link; {MEND}") from None
        if error.errno == errno.ENXIO:  # a socket
            raise UnsafeFileError(f"it is not a regular file; {MEND}") from None
        raise


def _checked(descriptor: int, *, is_new: bool) -> int:
    try:
        _require_private(descriptor, is_new=is_new)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_private(descriptor: int, *, is_new: bool) -> None:
    """The owner of a new file isn't checked, because network file systems may map it to another account."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise UnsafeFileError(f"it is not a regular file; {MEND}")
    if not is_new and found.st_uid != os.geteuid():
        raise UnsafeFileError(f"it belongs to another account; {MEND}")
    if found.st_nlink > 1:
        raise UnsafeFileError(f"it has another name, too, a hard link; {MEND}")
    if found.st_mode & ~stat.S_IFREG != PRIVATE:
        os.fchmod(descriptor, PRIVATE)
    if os.fstat(descriptor).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UnsafeFileError(
            "other accounts may read it, and this file system can't change that; choose another folder"
        )
