"""The endpoints that Kubernetes, Prometheus and operators ask, on every process."""

import httpx
import pytest

from tests.fleet.fleet import APIS, WORKERS, Fleet, until


async def test_alive_and_ready(client: httpx.AsyncClient) -> None:
    async def find_ready() -> httpx.Response | None:
        """A server may be failing over just now."""
        answer = await client.get("/readyz")
        return answer if answer.status_code == 200 else None

    for _ in APIS:
        assert (await client.get("/livez")).json() == {"status": "alive"}
        ready = await until(find_ready)
        assert ready.json()["status"] == "ready"
        assert ready.json()["checks"].keys() >= {"postgresql", "redis", "s3"}
        assert set(ready.json()["checks"].values()) == {"ok"}


async def test_metrics_of_every_process(fleet: Fleet, client: httpx.AsyncClient) -> None:
    ports = [(fleet.run_dir / f"{name}.port").read_text().strip() for name in (*APIS, *WORKERS)]
    for port in ports:
        response = await client.get(f"http://127.0.0.1:{port}/metrics")
        assert response.status_code == 200
        assert "carryout_exports_total" in response.text


async def test_openapi_names_every_call(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1.")
    calls = {(method, path) for path, item in document["paths"].items() for method in item if method != "parameters"}
    assert calls >= {
        ("post", "/api/export"),
        ("get", "/api/export"),
        ("get", "/api/export/{job_id}"),
        ("delete", "/api/export/{job_id}"),
        ("get", "/api/export/{job_id}/download"),
        ("get", "/api/export/stream"),
        ("get", "/api/v1/users/export"),
        ("get", "/api/v1/users/export-full"),
        ("get", "/api/v1/users/export-alive"),
        ("get", "/api/v1/users/export-simple"),
        ("get", "/livez"),
        ("get", "/readyz"),
        ("get", "/metrics"),
    }


@pytest.mark.parametrize("path", ["/docs", "/"])
async def test_pages(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert response.headers["content-security-policy"].startswith("default-src 'none'")


async def test_logs_are_json_lines_with_the_request_id(fleet: Fleet, client: httpx.AsyncClient) -> None:
    """That nothing secret is in them is looked at after the whole run (see leaks.py)."""
    person = await fleet.create_person()
    for number in range(2):
        headers = person.headers | {"X-Request-ID": f"logged.{number}"}
        await client.post("/api/export", json={"format": "csv"}, headers=headers)

    async def are_logged() -> bool:
        lines = [line for name in APIS for line in fleet.read_log(name)]
        assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
        return {"logged.0", "logged.1"} <= {line["request_id"] for line in lines if line["event"] == "request"}

    await until(are_logged)
