"""The account for PostgreSQL, which refuses to run as root: `nobody`, with a folder that this account can reach."""

import os
import pwd
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from devstack.process import Account
from guard.files import read_foreign
from service.errors import ConfigurationError

HOME_PREFIX: Final = "carryout-postgres-"
OWNER_FILE: Final = "link"


def choose_account(home: Path) -> Account | None:
    """The account for PostgreSQL; None is the current one. An existing home keeps the account that owns it."""
    if os.geteuid() != 0:
        return None
    with suppress(FileNotFoundError):
        owner = home.stat()
        if owner.st_uid != 0:
            return Account(owner.st_uid, owner.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise ConfigurationError(
            "PostgreSQL doesn't run as root, and the account nobody doesn't exist: create it, or use another account"
        ) from None
    return Account(nobody.pw_uid, nobody.pw_gid)


def open_home(link: Path, account: Account | None) -> Path:
    """The folder at `link`, made if missing; `account` owns it.

    If that account can't reach it, no parent's mode is changed: the folder is created in the system's folder for
    temporary files, and `link` becomes a symbolic link to it.
    """
    if link.is_symlink() and not link.exists():
        link.unlink()  # its target was cleaned up
    if not link.exists():
        if account is None or is_reachable(link.parent):
            link.mkdir(mode=0o700)
            give(link, account)
        else:
            _remove_orphans(account)
            link.symlink_to(_make_distant_home(link, account))
    return link.resolve()


def reach_binaries(binaries: Path, home: Path, account: Account | None) -> Path:
    """`site-packages/PACKAGE/INSTALL/bin`, or its copy in `home` where `account` can't reach the original.

    The shared libraries are in `PACKAGE.libs` or in the package, at relative paths, so both are copied.
    """
    if account is None or is_reachable(binaries):
        return binaries
    package = binaries.parents[1]
    copy, unfinished = home / "packages", home / "packages.new"
    reachable = copy / binaries.relative_to(package.parent)
    if not reachable.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(copy, ignore_errors=True)
        unfinished.mkdir()  # fails on a link that the account made
        for folder in package.parent.glob(f"{package.name}*"):
            other_versions = shutil.ignore_patterns("pginstall")
            shutil.copytree(folder, unfinished / folder.name, symlinks=True, ignore=other_versions)
        unfinished.rename(copy)
    return reachable


def choose_temporary_folder() -> Path:
    """A temporary folder that every account can reach. Raises ConfigurationError if there is none."""
    for folder in _temporary_folders():
        if is_reachable(folder) and os.access(folder, os.W_OK):
            return folder
    raise ConfigurationError(
        "PostgreSQL doesn't run as root, and other accounts can't reach any temporary folder: set TMPDIR"
    )


def give(path: Path, account: Account | None) -> None:
    if account is not None:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def is_reachable(folder: Path) -> bool:
    """Whether any account may pass through the folder and all above it."""
    folder = folder.resolve()
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (folder, *folder.parents))


def _make_distant_home(link: Path, account: Account) -> Path:
    home = Path(tempfile.mkdtemp(prefix=HOME_PREFIX, dir=choose_temporary_folder()))
    (home / OWNER_FILE).write_text(str(link.absolute()))
    give(home, account)
    return home


def _temporary_folders() -> list[Path]:
    """The first one survives a reboot."""
    return [path for path in (Path("/var/tmp"), Path(tempfile.gettempdir())) if path.is_dir()]  # noqa: S108 (mkdtemp)


def _remove_orphans(account: Account) -> None:
    """Remove homes of data folders that are gone or use another home; no other code would remove them."""
    for home in (home for parent in _temporary_folders() for home in parent.glob(HOME_PREFIX + "*")):
        with suppress(OSError, ValueError):  # ValueError: its content isn't a path
            if home.lstat().st_uid == account.uid and _is_orphan(home, _read_owner(home)):
                shutil.rmtree(home)


def _read_owner(home: Path) -> Path:
    """The data folder of a home. The account owns the file and may have replaced it."""
    return Path(read_foreign(home / OWNER_FILE).decode())


def _is_orphan(home: Path, link: Path) -> bool:
    """A home with a missing link in an existing folder isn't an orphan: the link may be about to be created."""
    return not link.parent.exists() or (link.exists() and link.resolve() != home.resolve())
