"""The page: all it needs comes from here, and its policy allows nothing else."""

import re
from importlib.resources import files
from pathlib import Path

import httpx
import pytest

from service.api.docs import ASSETS_DIR
from tests.api.problems import read_problem

ADDRESSES = re.compile(r'(?:src|href)="([^"]+)"|url: "([^"]+)"')


async def test_loads_nothing_from_elsewhere(idle_api: httpx.AsyncClient) -> None:
    page = await idle_api.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    script = await idle_api.get("/docs/docs.js")
    addresses = [first or second for first, second in ADDRESSES.findall(page.text + script.text)]
    paths = {str(page.url.join(address).path) for address in addresses if address != "data:,"}
    styles, scripts = {"/docs/swagger-ui.css", "/docs/docs.css"}, {"/docs/swagger-ui-bundle.js", "/docs/docs.js"}
    assert paths == styles | scripts | {"/openapi.json"}
    for path in paths:
        assert (await idle_api.get(path)).status_code == 200


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("docs.js", "text/javascript; charset=utf-8"),
        ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
        ("swagger-ui.css", "text/css; charset=utf-8"),
    ],
)
async def test_assets_are_fetched_once(idle_api: httpx.AsyncClient, name: str, media_type: str) -> None:
    asset = await idle_api.get(f"/docs/{name}")
    assert asset.content == (ASSETS_DIR / name).read_bytes()
    assert asset.headers["content-type"] == media_type
    again = await idle_api.get(f"/docs/{name}", headers={"If-None-Match": asset.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(("accepted", "encoding"), [("gzip", "gzip"), ("gzip, zstd", "zstd"), ("identity", None)])
async def test_leave_compressed(idle_api: httpx.AsyncClient, accepted: str, encoding: str | None) -> None:
    for path in ("/docs/swagger-ui-bundle.js", "/openapi.json", "/"):
        async with idle_api.stream("GET", path, headers={"Accept-Encoding": accepted}) as answer:
            raw = b"".join([part async for part in answer.aiter_raw()])
        plain = await idle_api.get(path, headers={"Accept-Encoding": "identity"})
        assert answer.headers.get("content-encoding") == encoding
        assert answer.headers["vary"] == plain.headers["vary"]
        assert answer.headers["vary"].split(", ")[0] == "Accept-Encoding"
        assert int(answer.headers["content-length"]) == len(raw)
        assert (len(raw) < len(plain.content) / 2) == (encoding is not None)
        assert (answer.headers["etag"] == plain.headers["etag"]) == (encoding is None)
        same = {"Accept-Encoding": accepted, "If-None-Match": answer.headers["etag"]}
        assert (await idle_api.get(path, headers=same)).status_code == 304
        assert (await idle_api.get(path, headers=same | {"Accept-Encoding": "br"})).status_code == (
            200 if encoding else 304
        )


async def test_conditions(idle_api: httpx.AsyncClient) -> None:
    for path in ("/docs", "/openapi.json", "/", "/assets/page.js"):
        assert (await idle_api.get(path, headers={"If-None-Match": "*"})).status_code == 304
        read_problem(await idle_api.get(path, headers={"If-Match": '"other"'}), 412)
        assert (await idle_api.get(path, headers={"If-Match": "*"})).status_code == 200


async def test_allows_no_inline_script_and_no_opener(idle_api: httpx.AsyncClient) -> None:
    headers = (await idle_api.get("/docs")).headers
    assert headers["cross-origin-opener-policy"] == "same-origin"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert "http" not in policy


@pytest.mark.parametrize("name", ["app.py", "swagger-ui.LICENSE", "..%2fdocs.py", "%2e%2e/docs.py", ""])
async def test_shows_no_other_file(idle_api: httpx.AsyncClient, name: str) -> None:
    read_problem(await idle_api.get(f"/docs/{name}"), 400 if "%" in name else 404)


def test_licences_come_along() -> None:
    assets = Path(str(files("service.api"))) / "assets"
    assert "Apache License" in (assets / "swagger-ui.LICENSE").read_text()
    assert "SmartBear" in (assets / "swagger-ui.NOTICE").read_text()
    assert (assets / "swagger-ui-bundle.js.LICENSE.txt").stat().st_size
