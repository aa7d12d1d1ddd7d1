"""FILE.part and FILE."""

import os
from pathlib import Path

import pytest

from client.errors import OutputError
from client.outputs import open_output, part_path


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


def test_what_is_no_ordinary_file_stays(path: Path, tmp_path: Path) -> None:
    os.mkfifo(path)
    link, loose = tmp_path / "link", tmp_path / "loose"
    link.symlink_to(path)
    loose.symlink_to(tmp_path / "nothing")
    for place in (path, link, loose, Path()):
        for force in (False, True):
            with pytest.raises(OutputError, match="no ordinary file"):
                write(place, force=force)
    assert path.is_fifo()
    assert link.readlink() == path
    assert sorted(tmp_path.iterdir()) == [path, link, loose]


def test_nor_is_one_that_came_meanwhile(path: Path) -> None:
    with open_output(path, force=False, resume=False) as output:
        output.write(b"new")
        path.write_bytes(b"old")
        with pytest.raises(OutputError, match="is there by now"):
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


def test_what_was_left_is_taken_up_only_to_resume(path: Path) -> None:
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
    with pytest.raises(OutputError, match=r"data\.csv\.part can't be written"):
        write(path)
    assert victim.read_bytes() == b"precious"
