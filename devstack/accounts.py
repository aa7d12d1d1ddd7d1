"""PostgreSQL refuses to run as root: then it runs as `nobody`, in a folder that account can reach."""

import os
import pwd
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from devstack.process import Account
from service.errors import ConfigurationError

HOME_PREFIX: Final = "carryout-postgres-"
OWNER_FILE: Final = "link"


def choose_account(home: Path) -> Account | None:
    """Whom PostgreSQL runs as: None is ourselves. A home that exists stays with the account that owns it."""
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
            "PostgreSQL doesn't run as root, and there is no account nobody to run it as"
        ) from None
    return Account(nobody.pw_uid, nobody.pw_gid)


def open_home(link: Path, account: Account | None) -> Path:
    """The folder at `link`, made if missing; `account` owns it.

    Where that account couldn't reach it, no parent's mode is changed: the folder is made in the system's folder for
    temporary files, and `link` becomes a symbolic link to it.
    """
    if link.is_symlink() and not link.exists():
        link.unlink()  # what it led to was cleaned away
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

    Shared libraries lie in `PACKAGE.libs` or in the package, and are found by relative paths: all is copied.
    """
    if account is None or is_reachable(binaries):
        return binaries
    package = binaries.parents[1]
    copy, unfinished = home / "packages", home / "packages.new"
    reachable = copy / binaries.relative_to(package.parent)
    if not reachable.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(copy, ignore_errors=True)
        for folder in package.parent.glob(f"{package.name}*"):
            other_versions = shutil.ignore_patterns("pginstall")
            shutil.copytree(folder, unfinished / folder.name, symlinks=True, ignore=other_versions)
        unfinished.rename(copy)
    return reachable


def choose_temporary_folder() -> Path:
    """One that every account can reach. Raises ConfigurationError if there is none."""
    for folder in _temporary_folders():
        if is_reachable(folder) and os.access(folder, os.W_OK):
            return folder
    raise ConfigurationError("PostgreSQL doesn't run as root, and no temporary folder can be reached by others")


def give(path: Path, account: Account | None) -> None:
    if account is not None:
        os.chown(path, account.uid, account.gid)


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
    """The first survives a restart of the machine."""
    return [path for path in (Path("/var/tmp"), Path(tempfile.gettempdir())) if path.is_dir()]  # noqa: S108 (mkdtemp)


def _remove_orphans(account: Account) -> None:
    """Remove the homes whose data folder is gone or has another one; nobody would ever find them."""
    for home in (home for parent in _temporary_folders() for home in parent.glob(HOME_PREFIX + "*")):
        with suppress(OSError):
            if home.lstat().st_uid == account.uid and _is_orphan(home, Path((home / OWNER_FILE).read_text())):
                shutil.rmtree(home)


def _is_orphan(home: Path, link: Path) -> bool:
    """A missing link in a folder that exists is none: it may be about to be made."""
    return not link.parent.exists() or (link.exists() and link.resolve() != home.resolve())
