"""Fixtures for tests that begin with an export."""

from collections.abc import Awaitable, Mapping
from typing import Protocol
from uuid import UUID

import httpx
import pytest

from service.user_ids import UserId
from tests.api.problems import bearer
from tests.conftest import Token

CSV = {"format": "csv"}
JSON = {"format": "json"}
ASYNC = {"Prefer": "respond-async"}
UNKNOWN_ID = UUID("01234567-89ab-4def-8123-456789abcdef")
VIEW = {
    "job_id",
    "status",
    "format",
    "record_count",
    "created_at",
    "completed_at",
    "expires_at",
    "size_bytes",
    "sha256",
    "error_message",
    "progress",
    "estimated_completion",
    "schema_sha256",
}
"""The members of every export shown, but for `download_url`, which goes with its file."""


class Create(Protocol):
    def __call__(
        self, user_id: UserId, body: object = ..., headers: Mapping[str, str] = ...
    ) -> Awaitable[httpx.Response]: ...


@pytest.fixture
def create(api: httpx.AsyncClient, token: Token) -> Create:
    async def post(user_id: UserId, body: object = CSV, headers: Mapping[str, str] = {}) -> httpx.Response:
        return await api.post("/api/export", json=body, headers={**bearer(token(user_id)), **headers})

    return post
