"""Prometheus' own tool (Debian's package `prometheus`) reads the alert rules and the metrics."""

import asyncio
import subprocess
from http import HTTPStatus
from pathlib import Path

import httpx

from tests.api.problems import bearer
from tests.conftest import Token
from tests.support.factories import Connection, create_user

ALERTS = Path("deploy/prometheus/alerts.yaml")


def promtool(*arguments: str | Path, given: str = "") -> str:
    """The output of promtool, which must accept its input."""
    ended = subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_alert_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", ALERTS)


async def test_metrics(api: httpx.AsyncClient, token: Token, database: Connection) -> None:
    made = await api.post("/api/export", json={"format": "csv"}, headers=bearer(token(await create_user(database))))
    assert made.status_code == HTTPStatus.CREATED
    exposed = (await api.get("/metrics")).text
    assert await asyncio.to_thread(promtool, "check", "metrics", given=exposed) == ""
