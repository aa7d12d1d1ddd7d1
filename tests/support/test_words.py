from pathlib import Path

import pytest

from tests.support.words import find_hits

HIT = {
    "A file that nobody reads.": ["vague_actor"],
    "Whoever asks, whatever for": ["vague_actor", "vague_actor"],
    '    """What a request wants."""': ["headless_sentence"],
    "# Who opens a link is told so": ["headless_sentence"],
    "It ends. Of those two, one stays": ["headless_sentence"],
    "This is no URL": ["is_no"],
}
PERMITTED = [
    'nobody = pwd.getpwnam("nobody")',
    "os.chown(folder, nobody.pw_uid, nobody.pw_gid)",
    "What does a worker do?",
    "The list of what is left",
    "The worker is no longer there",
]


@pytest.mark.parametrize("line", HIT)
def test_a_hit(line: str) -> None:
    assert [hit.rule for hit in find_hits(Path("x.py"), line)] == HIT[line]


@pytest.mark.parametrize("line", PERMITTED)
def test_what_is_permitted(line: str) -> None:
    assert list(find_hits(Path("x.py"), line)) == []
