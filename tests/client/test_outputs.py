"""FILE.part and FILE."""

import os
import socket
from pathlib import Path

import pytest

from client.errors import OutputError
from client.outputs import open_output, part_path
from guard.files import UnsafeFileError, open_private


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.csv"


def write(path: Path, *, force: bool = False) -> None:
    with open_output(path, force=force, resume=False) as output:
        output.write(b"new")
        output.finish()


def test_file_appears_with_its_end_and_for_its_owner_alone(path: Path) -> None:
    with open_output(path, force=False, resume=False) as output:
        output.write(b"new")
        assert not path.exists()
        output.finish()
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert not part_path(path).exists()


def test_a_file_is_replaced_by_force_alone(path: Path) -> None:
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="--force"):
        write(path)
    assert path.read_bytes() == b"old"
    assert not part_path(path).exists()
    write(path, force=True)
    assert path.read_bytes() == b"new"


def test_a_pipe_link_or_folder_is_not_replaced(path: Path, tmp_path: Path) -> None:
    os.mkfifo(path)
    link, loose = tmp_path / "link", tmp_path / "loose"
    link.symlink_to(path)
    loose.symlink_to(tmp_path / "nothing")
    for place in (path, link, loose, Path()):
        for force in (False, True):
            with pytest.raises(OutputError, match="not a regular file"):
                write(place, force=force)
    assert path.is_fifo()
    assert link.readlink() == path
    assert sorted(tmp_path.iterdir()) == [path, link, loose]


def test_a_file_that_appears_meanwhile_is_not_replaced(path: Path) -> None:
    with open_output(path, force=False, resume=False) as output:
        output.write(b"new")
        path.write_bytes(b"old")
        with pytest.raises(OutputError, match="exists by now"):
            output.finish()
    assert path.read_bytes() == b"old"
    assert part_path(path).read_bytes() == b"new"


def test_two_never_write_at_once(path: Path) -> None:
    with open_output(path, force=False, resume=False) as output:
        output.write(b"new")
        with pytest.raises(OutputError, match="another process"):
            write(path)
        output.finish()
    assert path.read_bytes() == b"new"


def test_an_earlier_part_is_continued_only_with_resume(path: Path) -> None:
    part_path(path).write_bytes(b"left")
    with open_output(path, force=False, resume=True) as output:
        assert b"".join(output.pieces()) == b"left"
        output.write(b" over")
    assert part_path(path).read_bytes() == b"left over"
    write(path)
    assert path.read_bytes() == b"new"


def test_nothing_leaves_nothing(path: Path) -> None:
    with open_output(path, force=False, resume=False):
        pass
    assert list(path.parent.iterdir()) == []


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    part_path(path).symlink_to(victim)
    with pytest.raises(OutputError, match=r"data\.csv\.part can't be written: it is a symbolic link; remove it"):
        write(path)
    assert victim.read_bytes() == b"precious"


def test_a_hard_link_is_not_filled(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    part_path(path).hardlink_to(victim)
    for resume in (False, True):
        with (
            pytest.raises(OutputError, match=r"it has another name, too, a hard link; remove it"),
            open_output(path, force=False, resume=resume),
        ):
            pass
    assert victim.read_bytes() == b"precious"


def test_a_pipe_neither_holds_us_up_nor_gets_a_byte(path: Path) -> None:
    os.mkfifo(part_path(path))
    with pytest.raises(OutputError, match="it is not a regular file; remove it"):
        write(path)
    with socket.socket(socket.AF_UNIX) as listener:
        part_path(path).unlink()
        listener.bind(str(part_path(path)))
        with pytest.raises(OutputError, match="it is not a regular file; remove it"):
            write(path)


def test_a_file_of_another_account_is_not_filled(path: Path) -> None:
    """Made beforehand and open to all: its maker would read, or hold it open and read later."""
    if os.geteuid() == 0:
        part_path(path).write_bytes(b"")
        part_path(path).chmod(0o666)
        os.chown(part_path(path), 65534, 65534)
        foreign = part_path(path)
    else:
        foreign = Path("/dev/null")
    with pytest.raises(UnsafeFileError, match=r"belongs to another account|not a regular file"):
        open_private(foreign)
    if os.geteuid() == 0:
        with pytest.raises(OutputError, match="it belongs to another account; remove it"):
            write(path)
        assert foreign.read_bytes() == b""


def test_an_earlier_part_is_made_private_before_the_first_byte(path: Path) -> None:
    part_path(path).write_bytes(b"left")
    part_path(path).chmod(0o644)
    with open_output(path, force=False, resume=True) as output:
        assert part_path(path).stat().st_mode & 0o777 == 0o600
        output.finish()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_part_that_was_exchanged_never_becomes_the_file(path: Path) -> None:
    with open_output(path, force=True, resume=False) as output:
        output.write(b"new")
        part_path(path).unlink()
        part_path(path).write_bytes(b"planted")
        with pytest.raises(OutputError, match="was moved or replaced by another process"):
            output.finish()
    assert not path.exists()
