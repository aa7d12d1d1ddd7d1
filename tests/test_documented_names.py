"""Each command, setting, metric, alert, event and identifier that a page names exists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest
import yaml

from service.access.api_keys import Scope
from service.access.flags import Flag
from service.backends import failures
from service.bookkeeping.audit import AuditAction
from service.cli.commands import cli
from service.settings import CLIENT_CREDENTIALS, FILE_SUFFIX, PREFIX, Settings
from service.telemetry.metrics import Metrics

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = [path for folder in ("service", "worker", "client", "onboarding", "sql") for path in (ROOT / folder).rglob("*")]
PYTHON = [path.read_text() for path in CODE if path.suffix == ".py"]
SQL = [path.read_text() for path in CODE if path.suffix == ".sql"]
WORDS = {word for text in (*PYTHON, *SQL) for word in re.findall(r"\w+", text)}
TESTS = {
    name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
}
LITERALS = {
    node.value
    for text in PYTHON
    for node in ast.walk(ast.parse(text))
    if isinstance(node, ast.Constant) and isinstance(node.value, str)
}
BLOCK = re.compile(r"^ *```.*?\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
IN_LINE = re.compile(r"`([^`]+?)`")
COMMAND = re.compile(r"(?:^ *|bin/|\(|-- )carryout ((?:[a-z]|--)[^|;#&()`]*)")
SETTING = re.compile(rf"{PREFIX}[A-Z0-9_]+[A-Z0-9]")
METRIC = re.compile(r"\bcarryout_[a-z_]+")
# The names of roles, which begin like a metric's.
ROLE = re.compile(r"carryout_(owner|service|reader)\w*")
ALERT = re.compile(r"\bCarryout[A-Z]\w+")
AUDITED = re.compile(r"(?:export|users|lists|keys|features):[a-z_]+")
IDENTIFIER = re.compile(r"[a-z]+(?:_[a-z]+)+")
# Those of PostgreSQL, redis-py, nginx, providers and Prometheus' own client.
FOREIGN = {
    *("max_connections", "superuser_reserved_connections", "max_standby_streaming_delay", "pg_read_all_stats"),
    *("pg_advisory_lock", "to_char", "sentinel_username", "error_log", "preferred_username", "sync_detailed"),
    "moto_server",
    "process_resident_memory_bytes",
}
# Its tables are an example.
EXAMPLES = ROOT / "docs" / "operators.md"
# It stands for any; a Service of Kubernetes called so would make the next; the last is of a store called so.
ANY_SETTING = {"CARRYOUT_NAME", "CARRYOUT_NAME_FILE", "CARRYOUT_API_PORT", "CARRYOUT_FILE_STORE_UPLOADS_ENDPOINT_URL"}

SETTINGS = {
    (PREFIX + name + suffix).upper()
    for name in (*(field.name for field in msgspec.structs.fields(Settings)), *CLIENT_CREDENTIALS)
    for suffix in ("", FILE_SUFFIX)
}
METRICS = set(Metrics()._registry._names_to_collectors)
ALERTS = {
    rule["alert"]
    for group in yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def in_line(page: Path) -> list[str]:
    return [code.replace("\n", " ") for code in IN_LINE.findall(BLOCK.sub("", page.read_text()))]


def commands(page: Path) -> Iterator[list[str]]:
    """The words behind `carryout`, up to what a shell takes for itself."""
    blocks = [line for block in BLOCK.findall(page.read_text()) for line in block.splitlines()]
    for code in (*blocks, *in_line(page)):
        for found in COMMAND.findall(code):
            yield found.split()


@each_page
def test_commands_and_their_options(page: Path) -> None:
    for words in commands(page):
        command: click.Command = cli
        options = set[str]()
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in options | {"--help", "--version"}, words
            elif isinstance(command, click.Group) and word not in {"…", "COMMAND"}:
                found = command.get_command(click.Context(command), word)
                assert found, f"carryout {' '.join(words)}"
                command = found
                options |= {option for given in command.params for option in given.opts + given.secondary_opts}


def test_commands_are_found() -> None:
    assert {words[0] for page in PAGES for words in commands(page)} >= {"serve", "worker", "reconcile", "exports"}


@each_page
def test_targets_of_make(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = (*BLOCK.findall(page.read_text()), *in_line(page))
    assert {target for code in shown for target in re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)} <= targets


@each_page
def test_settings(page: Path) -> None:
    assert set(SETTING.findall(page.read_text())) <= SETTINGS | ANY_SETTING


@each_page
def test_metrics(page: Path) -> None:
    """`carryout_queue_…` stands for those that begin so."""
    named = {name for name in METRIC.findall(page.read_text()) if not ROLE.fullmatch(name)}
    begun = {name for name in named if name.endswith("_") and any(known.startswith(name) for known in METRICS)}
    assert named - begun <= METRICS


@each_page
def test_alerts(page: Path) -> None:
    assert set(ALERT.findall(page.read_text())) <= ALERTS


@each_page
def test_audit_events_scopes_and_flags(page: Path) -> None:
    named = {code for code in in_line(page) if AUDITED.fullmatch(code)}
    assert named <= {*AuditAction, *Scope, *Flag}


@pytest.mark.parametrize("page", [page for page in PAGES if page != EXAMPLES], ids=lambda page: page.name)
def test_identifiers(page: Path) -> None:
    named = {code for code in in_line(page) if IDENTIFIER.fullmatch(code) and not ROLE.fullmatch(code)}
    assert named - WORDS - METRICS - TESTS - FOREIGN == set()


def test_causes_of_outages() -> None:
    """Each begins or ends the words of one."""
    kinds, _ = failures._redis_and_s3()
    told = {words for _, words in (*failures.POSTGRESQL, *kinds)} | {*failures.S3_CODES.values(), failures.NO_BUCKET}
    told |= {*failures.CERTIFICATES.values(), failures.UNVERIFIED}
    text = (ROOT / "docs" / "operations.md").read_text().partition("## Outages in the log")[2]
    rows = text.partition("| cause | then |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    named = {code.strip("… ") for row in rows for code in IN_LINE.findall(row.split("|")[1])}
    causes = {code for code in named if not re.fullmatch(r"[0-9A-Z]{5}", code)} - {"All connections are in use"}
    assert len(causes) > len(rows)
    assert {code for code in causes if not any(code in words for words in told)} == set()


def test_log_events() -> None:
    """The table of outages names events that begin and that end them."""
    text = (ROOT / "docs" / "operations.md").read_text()
    _, _, table = text.partition("| event | meaning | ends with |\n")
    rows = [row.split("|") for row in table.partition("\n\n")[0].splitlines()]
    named = {code for row in rows for code in re.findall(r"`(\w+)`", row[1] + row[3])}
    assert len(named) > len(rows)
    assert named <= LITERALS
