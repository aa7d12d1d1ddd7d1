"""Requests that are answered with what is wrong with them, and leave no trace."""

from collections.abc import AsyncIterator, Awaitable
from typing import Protocol

import httpx
import pytest

from tests.api.conftest import CSV, UNKNOWN_ID
from tests.api.problems import bearer, read_problem
from tests.conftest import Token


class Post(Protocol):
    def __call__(
        self, body: bytes | AsyncIterator[bytes], content_type: str | None = ...
    ) -> Awaitable[httpx.Response]: ...


class TestRefusedBodies:
    @pytest.fixture
    def post(self, idle_api: httpx.AsyncClient, token: Token) -> Post:
        async def post(
            body: bytes | AsyncIterator[bytes], content_type: str | None = "application/json"
        ) -> httpx.Response:
            headers = {**bearer(token(UNKNOWN_ID)), **({"Content-Type": content_type} if content_type else {})}
            return await idle_api.post("/api/export", content=body, headers=headers)

        return post

    @pytest.mark.parametrize(
        ("body", "status", "named"),
        [
            (b"", 400, "empty"),
            (b"{", 400, "JSON"),
            (b'{"format":"csv"}{}', 400, "JSON"),
            (b'{"format":"csv","format":"json"}', 400, "duplicate"),
            (b'{"format":"\xff"}', 400, "JSON"),
            (b'{"format":NaN}', 400, "JSON"),
            (b"[" * 8_000, 400, "JSON"),
            (b"[]", 422, "object"),
            (b"null", 422, "object"),
            (b"{}", 422, "format"),
            (b'{"format":"xml"}', 422, """'xml' - at `$.format`: send {"format":"csv"} or {"format":"json"}"""),
            (b'{"format":"CSV"}', 422, "format"),
            (b'{"format":["csv"]}', 422, "format"),
            (b'{"format":"csv","columns":["password_hash"]}', 422, "columns"),
        ],
    )
    async def test_says_what_is_wrong(self, post: Post, body: bytes, status: int, named: str) -> None:
        assert named in read_problem(await post(body), status)["detail"]

    @pytest.mark.parametrize(
        "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
    )
    async def test_must_be_declared_as_json(self, post: Post, content_type: str | None) -> None:
        problem = read_problem(await post(b'{"format":"csv"}', content_type), 415)
        assert "application/json" in problem["detail"]

    async def test_a_charset_may_be_declared(self, post: Post) -> None:
        read_problem(await post(b"{}", "application/json; charset=utf-8"), 422)

    async def test_too_large_as_declared(self, post: Post) -> None:
        assert "16384" in read_problem(await post(b" " * 16_385), 413)["detail"]

    async def test_too_large_in_chunks(self, post: Post) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(17):
                yield b" " * 1_024

        read_problem(await post(chunks()), 413)

    async def test_the_largest_is_read(self, post: Post) -> None:
        read_problem(await post(b'{"format":"xml"}'.ljust(16_384)), 422)


class TestRefusedRequests:
    @pytest.mark.parametrize(
        "authorization",
        [None, "Bearer", "Basic dXNlcjpwYXNz", "Bearer not-a-token", "Bearer a.b.c", "Token x"],
    )
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", "/api/export"),
            ("GET", "/api/export"),
            ("GET", "/api/export/stream?format=csv"),
            ("GET", f"/api/export/{UNKNOWN_ID}"),
            ("DELETE", f"/api/export/{UNKNOWN_ID}"),
            ("GET", f"/api/export/{UNKNOWN_ID}/download"),
        ],
    )
    async def test_a_missing_or_invalid_token(
        self, idle_api: httpx.AsyncClient, method: str, path: str, authorization: str | None
    ) -> None:
        headers = {"Authorization": authorization} if authorization else {}
        response = await idle_api.request(method, path, headers=headers)
        read_problem(response, 401)
        assert response.headers["www-authenticate"].startswith("Bearer")

    async def test_a_user_the_application_does_not_have(self, idle_api: httpx.AsyncClient, token: Token) -> None:
        response = await idle_api.post("/api/export", json=CSV, headers=bearer(token(UNKNOWN_ID)))
        assert read_problem(response, 404)["detail"] == "No such user"

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("PUT", "/api/export", {"GET", "HEAD", "POST"}),
            ("DELETE", "/api/export", {"GET", "HEAD", "POST"}),
            ("POST", f"/api/export/{UNKNOWN_ID}", {"GET", "HEAD", "DELETE"}),
            ("POST", f"/api/export/{UNKNOWN_ID}/download", {"GET", "HEAD"}),
            ("POST", "/livez", {"GET", "HEAD"}),
        ],
    )
    async def test_wrong_method(self, idle_api: httpx.AsyncClient, method: str, path: str, allowed: set[str]) -> None:
        response = await idle_api.request(method, path)
        problem = read_problem(response, 405)
        assert set(response.headers["allow"].split(", ")) == allowed
        assert problem["detail"] == f"Method not allowed; this address supports {response.headers['allow']}"

    @pytest.mark.parametrize(
        "path", ["/assets", "/api", "/api/exports", "/api/export/", f"/api/export/{UNKNOWN_ID}/file"]
    )
    async def test_unknown_path(self, idle_api: httpx.AsyncClient, path: str) -> None:
        read_problem(await idle_api.get(path, headers={"Host": "evil.example"}), 404)

    async def test_unknown_query_parameter(self, idle_api: httpx.AsyncClient, token: Token) -> None:
        response = await idle_api.post("/api/export?from=2026-01-01", json=CSV, headers=bearer(token(UNKNOWN_ID)))
        assert "from" in read_problem(response, 400)["detail"]

    @pytest.mark.parametrize("key", ["", "a b", "é", "k" * 256])
    async def test_must_be_visible_ascii(self, idle_api: httpx.AsyncClient, token: Token, key: str) -> None:
        headers = httpx.Headers({**bearer(token(UNKNOWN_ID)), "Idempotency-Key": key}, encoding="utf-8")
        problem = read_problem(await idle_api.post("/api/export", json=CSV, headers=headers), 400)
        assert "Idempotency-Key" in problem["detail"]
