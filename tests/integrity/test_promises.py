"""Each promise of the README names tests and a metric that exist, each defence of SECURITY.md tests that exist."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.resources import Resources

ROOT = Path(__file__).parent.parent.parent
CODE = re.compile(r"`([^`]+)`")
PATH = re.compile(r"(?:tests|bench|service|sql|docs)/[\w./-]*")


def read_rows(document: str, header: str) -> list[list[str]]:
    _, found, rest = (ROOT / document).read_text().partition(f"{header}\n")
    assert found
    lines = rest.partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


PROMISES = read_rows("README.md", "| promise | held by | watched by |")
SURROUNDINGS = read_rows("docs/compatibility.md", "| what comes | what it answers | held by |")
DEFENCES = read_rows("SECURITY.md", "| against | defence | held by |")


@pytest.mark.parametrize("row", PROMISES, ids=lambda row: row[0][:40])
def test_a_promise_has_tests(row: list[str]) -> None:
    paths = CODE.findall(row[1])
    assert paths
    assert all((ROOT / path).exists() for path in paths)


@pytest.mark.parametrize("row", SURROUNDINGS, ids=lambda row: row[0][:40])
def test_an_answer_to_the_surroundings_has_tests(row: list[str]) -> None:
    """Each cell is a file with its tests, or several such."""
    for group in row[2].split("; "):
        path, *names = CODE.findall(group)
        defined = re.findall(r"def (test_\w+)", (ROOT / path).read_text())
        assert names
        assert set(names) <= set(defined)


@pytest.mark.parametrize("row", DEFENCES, ids=lambda row: row[0][:40])
def test_a_defence_has_tests(row: list[str]) -> None:
    paths = CODE.findall(row[2])
    assert paths
    assert all((ROOT / path).exists() for path in paths)


async def test_each_promise_has_a_metric(resources: Resources) -> None:
    content, _ = await resources.metrics.render(resources.database, "")
    families = list(text_string_to_metric_families(content.decode()))
    known = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert len(PROMISES) == 11
    for row in PROMISES:
        named = CODE.findall(row[2])
        assert named
        assert set(named) <= known


@pytest.mark.parametrize("document", ["README.md", "SECURITY.md", "ARCHITECTURE.md"])
def test_linked_files_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    missing = [path for path in [*links, *PATH.findall(text)] if not (ROOT / path).exists()]
    assert missing == []
