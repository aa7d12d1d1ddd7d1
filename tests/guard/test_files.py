"""Folders that others may write to: what is there already is neither followed, filled nor believed."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

from devstack.files import own_folder
from guard.files import UnsafeFileError, read_foreign, read_trusted, replace_file
from service.cli.options import read_env_file
from service.errors import ConfigurationError
from tests.support import processes


class Precious(NamedTuple):
    victim: Path
    link: Path


@pytest.fixture
def precious(tmp_path: Path) -> Precious:
    """A file, and a link to it that was put where ours is to go."""
    victim, link = tmp_path / "victim", tmp_path / "ours"
    victim.write_bytes(b"precious")
    link.symlink_to(victim)
    return Precious(victim, link)


def test_a_link_is_replaced_and_not_followed(precious: Precious) -> None:
    replace_file(precious.link, b"ours")
    assert precious.link.read_bytes() == b"ours"
    assert not precious.link.is_symlink()
    assert precious.link.stat().st_mode & 0o777 == 0o600
    assert precious.victim.read_bytes() == b"precious"


def test_nor_is_one_in_the_way_of_the_fresh_file(precious: Precious) -> None:
    (precious.link.parent / "ours.new").symlink_to(precious.victim)
    replace_file(precious.link, b"ours")
    assert precious.victim.read_bytes() == b"precious"


def test_a_foreign_file_is_read_as_a_file_alone(precious: Precious, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert read_foreign(tmp_path / "pipe") == b""
    assert read_foreign(precious.victim) == b"precious"
    with pytest.raises(OSError, match="symbolic links"):
        read_foreign(precious.link)


def test_a_file_writable_by_every_account_is_refused(precious: Precious) -> None:
    assert read_trusted(precious.link) == b"precious"
    precious.victim.chmod(0o666)
    with pytest.raises(UnsafeFileError, match="chmod o-w"):
        read_trusted(precious.link)
    with pytest.raises(ConfigurationError, match=r"--env-file: .*ours can't be read: every account may write it"):
        read_env_file(precious.link)


@pytest.mark.parametrize(("mode", "owner"), [(0o777, 0), (0o777, 4242), (0o1777, 4242)])
def test_nor_is_one_that_every_account_may_exchange(tmp_path: Path, mode: int, owner: int) -> None:
    if owner and os.geteuid():  # only root gives files away
        owner, mode = os.geteuid(), 0o777
    folder = tmp_path / "open"
    folder.mkdir()
    file, link = folder / "env", tmp_path / "link"
    file.write_text("CARRYOUT_X=1")
    if owner:
        os.chown(file, owner, owner)
    link.symlink_to(file)
    folder.chmod(mode)
    for path in (file, link):
        with pytest.raises(UnsafeFileError, match=r"write to its folder .*open: .*chmod o-w"):
            read_trusted(path)
    folder.chmod(0o755)
    assert read_trusted(file) == b"CARRYOUT_X=1"


def test_one_of_ours_in_the_temporary_folder_is(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("CARRYOUT_X=1")
    tmp_path.chmod(0o1777)
    assert read_trusted(tmp_path / "env") == b"CARRYOUT_X=1"


def test_a_pipe_among_the_datasets_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "orders.sql"
    os.mkfifo(pipe)
    reading = (
        "import sys; from onboarding.comments import read_comments, FilePath; read_comments(FilePath(sys.argv[1]))"
    )
    ended = subprocess.run([sys.executable, "-c", reading, str(pipe)], capture_output=True, timeout=60, check=False)
    assert b"orders.sql: it can't be read: it is not a regular file" in ended.stderr


def test_settings_that_every_account_may_read_are_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Path(tempfile.mkdtemp(dir="/tmp")) / "env"  # the way to tmp_path is this account's alone
    try:
        settings.write_text("CARRYOUT_X=1\n")
        for folder_mode, mode, warned in ((0o755, 0o644, True), (0o755, 0o640, False), (0o700, 0o644, False)):
            settings.parent.chmod(folder_mode)
            settings.chmod(mode)
            assert read_env_file(settings) == {"CARRYOUT_X": "1"}
            said = f"Warning: every account may read {settings}, which may hold secrets: chmod o-r\n"
            assert capsys.readouterr().err == (said if warned else "")
    finally:
        shutil.rmtree(settings.parent)


def test_an_endless_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="longer than 1 MiB"):
        read_env_file(Path("/dev/zero"))
    (tmp_path / "env").write_bytes(b"CARRYOUT_X=\xff")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        read_env_file(tmp_path / "env")


def test_a_setting_ends_with_its_line_alone(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("CARRYOUT_A=1\u2028CARRYOUT_B=2\nCARRYOUT_C=3\n")
    assert read_env_file(tmp_path / "env") == {"CARRYOUT_A": "1\u2028CARRYOUT_B=2", "CARRYOUT_C": "3"}


async def test_a_token_that_others_may_write_is_not_sent(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("abc")
    token.chmod(0o666)
    ended = await processes.run(
        {}, "export", "--url", "http://127.0.0.1:1", "-o", str(tmp_path / "x"), "--token-file", str(token)
    )
    assert ended.status == 2
    assert "every account may write it: take that right away with chmod o-w" in ended.err


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o722])
def test_a_data_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ConfigurationError, match=r"other accounts may write to it: .*chmod go-w"), own_folder(folder):
        pass
    assert not list(folder.iterdir())
    folder.chmod(0o711)
    with own_folder(folder):
        assert (folder / "lock").exists()


@pytest.mark.parametrize(("mode", "owner"), [(0o777, 0), (0o1777, 4242)])
def test_so_is_what_lies_in_a_folder_that_others_may_replace(tmp_path: Path, mode: int, owner: int) -> None:
    if owner and os.geteuid():  # only root gives folders away
        owner, mode = os.geteuid(), 0o777
    parent = tmp_path / "open"
    folder = parent / "data"
    folder.mkdir(parents=True)
    (folder / "env").write_text("CARRYOUT_X=1")
    parent.chmod(mode)
    os.chown(parent, owner or -1, -1)
    with pytest.raises(ConfigurationError, match=r"its folder .*/open: .*chmod o-w"), own_folder(folder):
        pass
    with pytest.raises(UnsafeFileError, match=r"its folder .*/open: .*chmod o-w"):
        read_trusted(folder / "env")
    os.chown(parent, os.geteuid(), -1)
    parent.chmod(0o1777)
    assert read_trusted(folder / "env") == b"CARRYOUT_X=1"
    with own_folder(folder):
        pass


def test_a_planted_lock_does_not_empty_another_file(precious: Precious, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o711)
    (folder / "lock").symlink_to(precious.victim)
    with pytest.raises(ConfigurationError, match="it is a symbolic link"), own_folder(folder):
        pass
    assert precious.victim.read_bytes() == b"precious"
