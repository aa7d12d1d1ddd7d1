"""The client's sentences, in the language of the terminal."""

import ast
import asyncio
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

import client
from client.console import Console
from client.errors import ExitCode
from client.words import find_spoken, gettext, records, size
from guard.text import is_printable
from languages.words import CLIENT
from service.cli.commands import cli
from service.resources import Resources
from tests.api.serving import Served
from tests.client.conftest import Doors
from tests.client.test_exports import fail, queue
from tests.client.test_verification import FILES, archive_of, manifest_of
from tests.conftest import Token
from tests.languages.catalogues import TRANSLATED, forms, read
from tests.languages.pseudo import LONG, find_english, speaking
from tests.support import processes
from tests.support.factories import Connection, create_user

GERMAN = "de_DE.UTF-8"
SPEAKERS = {"say", "_say", "fail", "progress"}
# Names of the client, its options, and what isn't a sentence of its own.
UNTRANSLATED = re.compile(
    r"^carryout: |\bTo resume: .*|--[a-z-]+|-o\b|http://|\(request_id \w+\)|\bSHA-256|datapackage\.json|index\.html",
    re.MULTILINE,
)

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
def run(served: Served, doors: Doors, tmp_path: Path) -> Run:
    """Runs `carryout export` within this process, in a language."""

    async def ended(token: str, *options: str, language: str) -> Result:
        arguments = ["export", "--url", doors.api.url, "-o", str(tmp_path / "data"), *options]
        environ = {"LANG": language, "CARRYOUT_TOKEN": token}
        return await asyncio.to_thread(CliRunner().invoke, cli, arguments, env=environ)

    return ended


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """A package that differs from its manifest in each way that leaves it a ZIP."""
    changed = {
        "same.txt": b"same",
        "longer.txt": b"more than before",
        "other.txt": b"1",
        "locked.txt": b"x",
        "unlisted.txt": b"",
    }
    listed = {"same.txt": b"same", "longer.txt": b"", "other.txt": b"0", "locked.txt": b"x", "missing.txt": b""}
    manifest = manifest_of(listed)
    manifest["resources"].append(manifest["resources"][0])
    content = bytearray(archive_of(changed, manifest))
    entry = content.index(b"locked.txt", content.index(b"PK\x01\x02")) - 46
    content[entry + 8] |= 1
    path = tmp_path / "wrong.zip"
    path.write_bytes(content)
    return path


def verify(path: Path, language: str) -> Result:
    return CliRunner().invoke(cli, ["verify", str(path)], env={"LANG": language})


@pytest.mark.parametrize(
    ("environ", "spoken"),
    [
        ({}, "en"),
        ({"LANG": ""}, "en"),
        ({"LANG": "C"}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "tlh_KX.UTF-8"}, "en"),
        ({"LANG": "en_GB.UTF-8"}, "en"),
        ({"LANG": "de_AT.UTF-8"}, "de"),
        ({"LANG": "pl.UTF-8"}, "pl"),
        ({"LANG": "nl_NL@euro"}, "nl"),
        ({"LANG": "de_DE", "LC_MESSAGES": "it_IT"}, "it"),
        ({"LANG": "de_DE", "LC_MESSAGES": "it_IT", "LC_ALL": "fr_FR"}, "fr"),
        ({"LANG": "de_DE", "LC_ALL": "C"}, "en"),
        ({"LANG": "de_DE", "LC_TIME": "fr_FR"}, "de"),
        ({"LANG": "de_DE", "LANGUAGE": "zh_CN:es:it"}, "es"),
        ({"LANG": "de_DE", "LANGUAGE": "zh_CN"}, "en"),
        ({"LANG": "C", "LANGUAGE": "es"}, "en"),
        ({"LANGUAGE": "es"}, "en"),
    ],
)
def test_the_terminals_language(environ: dict[str, str], spoken: str) -> None:
    """As gettext's other programs choose it."""
    assert find_spoken(environ) == spoken


async def test_a_finished_export(run: Run, database: Connection, token: Token, tmp_path: Path) -> None:
    user_id = await create_user(database, activity=99, content=100, body_bytes=2_000)
    for language, said in [
        (GERMAN, r"data: 200 Datensätze, \d{3}\.\d{3} Byte, geprüft"),
        ("fr_FR.UTF-8", r"data : 200 enregistrements, \d{3} \d{3} octets, vérifié"),
        ("pl_PL.UTF-8", r"data: 200 rekordów, \d{3} \d{3} bajt\w*, sprawdzono"),
        ("C.UTF-8", r"data: 200 records, \d{3},\d{3} bytes, checked"),
        ("tlh_KX.UTF-8", r"data: 200 records, \d{3},\d{3} bytes, checked"),
    ]:
        made = await run(token(user_id), "--force", language=language)
        assert made.exit_code == ExitCode.OK, made.stderr
        assert re.fullmatch(said, made.stderr.splitlines()[-1].removeprefix(f"{tmp_path}/")), made.stderr


async def test_a_failed_one(run: Run, resources: Resources, database: Connection, token: Token) -> None:
    """The service's reason stays as it sent it."""
    user_id = await create_user(database)
    job_id = await queue(resources, user_id)
    await fail(database, job_id)
    failed = await run(token(user_id), "--job", job_id, language=GERMAN)
    assert failed.exit_code == ExitCode.EXPORT_FAILED
    assert failed.stderr == f"carryout: Der Export ist fehlgeschlagen: Out of luck (Job {job_id})\n"


async def test_a_refused_one(run: Run, tmp_path: Path) -> None:
    refused = await run("x", "--job", str(UUID(int=1)), language=GERMAN)
    assert refused.exit_code == ExitCode.NOT_AUTHORISED
    problem, how = refused.stderr.splitlines()
    assert problem.startswith("carryout: Missing or invalid token (request_id ")
    assert how.startswith("Fortsetzen mit: carryout export --job ")
    unnamed = await run("", language=GERMAN)
    assert unnamed.exit_code == ExitCode.USAGE
    assert unnamed.stderr.endswith("Error: Setzen Sie CARRYOUT_TOKEN, oder geben Sie --token-file an\n")
    (tmp_path / "data").touch()
    existing = await run("x", language=GERMAN)
    assert existing.stderr == f"carryout: {tmp_path / 'data'} gibt es schon; --force ersetzt die Datei\n"


async def test_a_verified_package(tmp_path: Path, wrong: Path) -> None:
    package = tmp_path / "data.zip"
    package.write_bytes(archive_of(FILES, manifest_of(FILES, missing=[{}, {}])))
    good = await processes.run({"LANG": GERMAN}, "verify", package)
    assert (good.status, good.out) == (ExitCode.OK, "")
    assert good.err.splitlines()[1:] == [
        f"{package}: 3 Dateien, 25.615 Byte, alles stimmt mit dem Manifest überein",
        "2 Anhänge konnten nicht aufgenommen werden; index.html nennt die Gründe",
    ]
    bad = await processes.run({"LANG": GERMAN}, "verify", "--quiet", wrong)
    assert bad.status == ExitCode.CHECKSUM
    assert bad.err == (
        f"carryout: {wrong} weicht von seiner datapackage.json ab: same.txt ist doppelt aufgeführt, "
        "und 5 weitere Abweichungen\n"
    )


async def test_help_stays_english() -> None:
    shown = [CliRunner().invoke(cli, ["export", "--help"], env={"LANG": language}).output for language in (GERMAN, "C")]
    assert shown[0] == shown[1]


def test_words_without_numbers_load_no_data_of_locales() -> None:
    """Most commands end, or wait for a server, before they show a number."""
    said = 'import sys, client.work as w; sys.exit(f\'{w.gettext("Waiting")}, {"babel" in sys.modules}\')'
    ended = subprocess.run(
        [sys.executable, "-c", said], env={"LANG": GERMAN}, capture_output=True, text=True, check=False
    )
    assert ended.stderr == "Warten, False\n"


@pytest.fixture
def pseudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with speaking(tmp_path / "locales", monkeypatch, LONG):
        yield


def assert_translated(ended: Result, *own: str) -> None:
    shown = UNTRANSLATED.sub(" ", ended.stderr)
    for text in own:
        shown = shown.replace(text, " ")
    assert "⟦" in shown
    assert not find_english(shown)


@pytest.mark.usefixtures("pseudo")
async def test_no_english_is_left_in_exports(
    run: Run, resources: Resources, database: Connection, token: Token, tmp_path: Path
) -> None:
    own = str(tmp_path / "data")
    user_id = await create_user(database, activity=20)
    for options in (["--since-last"], ["--live"], []):
        made = await run(token(user_id), *options, "--force", language=LONG.tag)
        assert made.exit_code == ExitCode.OK
        assert_translated(made, own)
    assert_translated(await run(token(user_id), language=LONG.tag), own)
    job_id = await queue(resources, user_id)
    other = await run(token(user_id), "--force", "--no-wait", language=LONG.tag)
    assert other.exit_code == ExitCode.IN_PROGRESS
    await fail(database, job_id)
    failed = await run(token(user_id), "--force", "--job", job_id, language=LONG.tag)
    for ended in (other, failed):
        assert_translated(ended, own, job_id, "Out of luck")


@pytest.mark.usefixtures("pseudo")
def test_no_english_is_left_in_verification(tmp_path: Path, wrong: Path) -> None:
    package = tmp_path / "data.zip"
    package.write_bytes(archive_of(FILES, manifest_of(FILES, missing=[{}])))
    assert_translated(verify(package, LONG.tag), str(package))
    bad = verify(wrong, LONG.tag)
    assert bad.stderr.count("⟧\n") >= 7
    assert_translated(bad, str(wrong), *re.findall(r"\w+\.txt", bad.stderr))


@pytest.mark.usefixtures("pseudo")
def test_no_english_is_left_in_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LANG", LONG.tag)
    for total in (None, 54_321):
        with Console(quiet=False).progress(gettext("Waiting"), records, total) as advance:
            advance(1)
    shown = capsys.readouterr().err
    assert "54,321" in shown
    assert not find_english(shown)


def test_every_sentence_goes_through_the_catalogues() -> None:
    """Those that say something, or raise an error, take no text that is written there."""
    sources = [path.read_text() for path in Path(client.__path__[0]).glob("*.py")]
    calls = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    sentences = [call.args[0] for call in calls if call.args and _speaks(call.func)]
    assert len(sentences) > 50
    assert not [ast.unparse(said) for said in sentences if isinstance(said, ast.Constant | ast.JoinedStr)]


def _speaks(called: ast.expr) -> bool:
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in SPEAKERS or (name.endswith("Error") and name != "ValueError")


@pytest.mark.parametrize("tag", TRANSLATED)
def test_no_terminal_escapes_the_words(tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", tag)
    sentences = [text for message in read(CLIENT, tag) for text in forms(message.string)]
    assert not [text for text in [*sentences[1:], size(1_234_567)] if not is_printable(text)]
