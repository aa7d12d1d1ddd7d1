"""Prometheus' own tool (Debian's package `prometheus`) reads the alert rules and the metrics."""

import asyncio
import re
import subprocess
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest

from tests.api.problems import bearer
from tests.conftest import Token
from tests.support.factories import Connection, create_user

ALERTS = Path("deploy/prometheus/alerts.yaml")
CASES = Path("tests/compat/alerts")


def promtool(*arguments: str | Path, given: str = "") -> str:
    """The output of promtool, which must accept its input."""
    ended = subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_alert_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", ALERTS)


def test_each_alert_has_a_file_of_when_it_fires_and_when_not() -> None:
    files = {path.stem: path.read_text() for path in CASES.glob("*.yaml")}
    assert sorted(files) == sorted(re.findall(r"- alert: (\w+)", ALERTS.read_text()))
    for name, text in files.items():
        assert text.count("exp_annotations:") == 1, name
        assert text.count("exp_alerts: []") > 0, name
        assert set(re.findall(r"alertname: (\w+)", text)) == {name}


@pytest.mark.parametrize("path", sorted(CASES.glob("*.yaml")), ids=lambda path: path.stem)
def test_an_alert_fires_when_it_should(path: Path) -> None:
    promtool("test", "rules", path)


async def test_metrics(api: httpx.AsyncClient, token: Token, database: Connection) -> None:
    made = await api.post("/api/export", json={"format": "csv"}, headers=bearer(token(await create_user(database))))
    assert made.status_code == HTTPStatus.CREATED
    exposed = (await api.get("/metrics")).text
    assert await asyncio.to_thread(promtool, "check", "metrics", given=exposed) == ""
