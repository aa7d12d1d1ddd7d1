"""The shape of every error that a client gets."""

from typing import Any

import httpx

from tests.support.documents import read_strictly

MEMBERS = {"type", "title", "status", "detail", "status_code", "request_id"}


def read_problem(response: httpx.Response, status: int, *fields: str) -> dict[str, Any]:
    """The body, once everything is checked that all problems share; `fields` are the further members it has."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    problem: dict[str, Any] = read_strictly(response.content)
    assert problem.keys() == MEMBERS | set(fields)
    assert problem["status"] == problem["status_code"] == status
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["title"]
    assert problem["detail"]
    return problem


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def without_request_id(response: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """All that a client sees of a response, but for what names the request and its time."""
    headers = {name: value for name, value in response.headers.items() if name not in {"x-request-id", "date"}}
    request_id = response.headers["x-request-id"].encode()
    return response.status_code, headers, response.content.replace(request_id, b"")
