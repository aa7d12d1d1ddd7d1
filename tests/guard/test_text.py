"""One mechanism for all that others wrote; PostgreSQL itself says whether a name stays the same name."""

import ast
import json
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from guard.terminal import show_traceback
from guard.text import (
    KEYWORDS,
    MAX_CHARACTERS,
    is_printable,
    printable,
    printable_json,
    quote_identifier,
    unquote_identifier,
)
from service.errors import ConfigurationError
from tests.guard.names import HOSTILE
from tests.support.factories import Connection

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("guard", "service", "worker", "client", "onboarding", "devstack")
# The console erases its bar, and `echo_json` writes lines that are escaped as JSON.
WRITERS = {"guard/terminal.py", "guard/records.py", "client/console.py"}


@pytest.fixture(scope="module")
async def server(server_url: str) -> AsyncIterator[Connection]:
    """For questions alone: these tests change nothing and need no database of their own."""
    connection = await asyncpg.connect(server_url)
    yield connection
    await connection.close()


@pytest.mark.parametrize("text", HOSTILE)
def test_shown_text_is_one_printable_line(text: str) -> None:
    shown = printable(text)
    assert is_printable(shown)
    assert printable(shown) == shown
    assert is_printable(text) is (shown == text)


def test_a_long_text_is_cut_however_it_is_escaped() -> None:
    for character in ("x", "\x1b", "\U000e0041"):
        shown = printable(character * 100_000)
        assert len(shown) == MAX_CHARACTERS
        assert shown.endswith("…")
    assert printable("x" * MAX_CHARACTERS) == "x" * MAX_CHARACTERS


def test_an_escape_tells_the_character() -> None:
    assert printable("a\x1b\n\x9b\u202e\udc80\U000e0041") == r"a\x1b\n\x9b\u202e\udc80\U000e0041"


def test_errors_are_printable_and_bounded() -> None:
    error = ConfigurationError("\x1b[2J" + "y" * 10_000, suggestion="\u202e")
    assert error.detail == str(error)
    assert is_printable(error.detail)
    assert len(error.detail) == MAX_CHARACTERS
    assert error.fields == {"suggestion": r"\u202e"}


@pytest.mark.parametrize("text", HOSTILE)
def test_json_stays_the_same_document(text: str) -> None:
    document = json.dumps({text: text}, ensure_ascii=False)
    assert printable_json(document).isprintable()
    assert json.loads(printable_json(document)) == {text: text}


@pytest.mark.parametrize("name", HOSTILE)
async def test_postgresql_reads_the_same_name_back(server: Connection, name: str) -> None:
    quoted = quote_identifier(name)
    assert is_printable(quoted)
    statement = await server.prepare(f"SELECT 1 AS {quoted} -- {quoted}")
    assert [attribute.name for attribute in statement.get_attributes()] == [name]


@pytest.mark.parametrize("name", HOSTILE)
async def test_names_are_read_as_postgresql_writes_them(server: Connection, name: str) -> None:
    assert unquote_identifier(await server.fetchval("SELECT quote_ident($1)", name)) == name


async def test_every_keyword_of_the_server_is_quoted(server: Connection) -> None:
    rows = await server.fetch("SELECT word FROM pg_get_keywords() WHERE catcode <> 'U'")
    assert {row["word"] for row in rows} <= KEYWORDS


def test_commands_print_in_one_way() -> None:
    """Found by the code's syntax, not by hand: no other module writes to a terminal."""
    found = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "click.echo", "click.secho"}
    }
    assert found == WRITERS


def test_a_traceback_moves_no_cursor_either(capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError("\x1b[2J\x9b2J")
    show_traceback(ValueError, error, None)
    assert capsys.readouterr().err.splitlines()[-1] == r"ValueError: \x1b[2J\x9b2J"
