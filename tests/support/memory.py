"""Databases of tests in memory: on a disk, the 300 files of each cost several times the CPU, within the kernel."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from devstack.accounts import choose_account, choose_temporary_folder, give

MEMORY: Final = Path("/dev/shm")
NEEDED_BYTES: Final = 4 << 30
PREFIX: Final = "carryout-tests-"


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every account can reach, on a disk if the memory's own is small, as in many containers."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= NEEDED_BYTES
    if roomy:
        _remove_leftovers()
    parent = MEMORY if roomy else choose_temporary_folder()
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir=parent) as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@contextmanager
def keep_database_in_memory(data_dir: Path) -> Iterator[Path]:
    """For a stack in `data_dir`, whose logs stay there."""
    with open_folder() as folder:
        home = folder / "postgres"
        home.mkdir(mode=0o700)
        give(home, choose_account(home))
        (data_dir / "postgres").symlink_to(home)
        yield data_dir


def _remove_leftovers() -> None:
    """Those of killed runs would take memory until the machine restarts."""
    for folder in MEMORY.glob(f"{PREFIX}*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        if folder.stat().st_uid == os.geteuid() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)
