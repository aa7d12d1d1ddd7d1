"""Every system can unpack the paths of attachments, also if users have chosen hostile names."""

import ntpath
import sys
from pathlib import PurePosixPath, PureWindowsPath

import hypothesis
import pytest
from hypothesis import strategies as st

from service.documents.package.names import attachment_path, safe_name

# Windows, macOS and Linux agree on these: bytes of a name, and characters of a path from some folder on.
MAX_NAME_BYTES = 255
MAX_PATH_CHARACTERS = 200
FORBIDDEN = set('<>:"/\\|?*') | {chr(number) for number in range(32)}


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("cat.jpg", "cat.jpg"),
        ("My cat (2).JPG", "My cat (2).JPG"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("C:\\photos\\cat.jpg", "cat.jpg"),
        ("a:b*c?.txt", "a_b_c_.txt"),
        ("\u202egpj.exe", "_gpj.exe"),
        ("line\r\nbreak\x00.txt", "line__break_.txt"),
        ("trailing. . ", "trailing"),
        (".hidden", "hidden"),
        ("..", "file"),
        ("", "file"),
        ("/", "file"),
        ("名前.jpg", "名前.jpg"),
        ("हिन्दी.txt", "हिन्दी.txt"),
        ("Cafe\u0301.txt", "Café.txt"),
        ("a" * 300 + ".jpeg", "a" * 115 + ".jpeg"),
        ("名" * 300, "名" * 40),
        ("archive." + "x" * 300, "archive." + "x" * 112),
        ("<script>alert(1)</script>.svg", "script_.svg"),
    ],
)
def test_names(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def is_reserved(path: str) -> bool:
    """Whether Windows keeps the name, as of a device, for itself."""
    if sys.version_info >= (3, 13):
        return ntpath.isreserved(path)
    return PureWindowsPath(path).is_reserved()


@hypothesis.settings(max_examples=500)
@hypothesis.given(names=st.lists(st.text(max_size=400), min_size=1, max_size=20))
@hypothesis.example(names=["a.jpg", "A.JPG", "a.jpg", "CON", "nul.txt", "2-a.jpg"])
def test_paths_are_safe_and_unique(names: list[str]) -> None:
    paths = [attachment_path("photos", row, number, name) for row, name in enumerate(names, 1) for number in (0, 1)]
    assert len({path.casefold() for path in paths}) == len(paths)
    for path in paths:
        folder, section, name = PurePosixPath(path).parts
        assert (folder, section) == ("files", "photos")
        assert not FORBIDDEN & set(name)
        assert name == name.rstrip(" .")
        assert len(name.encode()) <= MAX_NAME_BYTES
        assert len(path) <= MAX_PATH_CHARACTERS
        assert not is_reserved(path)
        assert len(PureWindowsPath(path).parts) == 3
