"""Clients that other people's generators make of the published OpenAPI document: type-checked, and then used."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.serving import Served
from tests.conftest import Token
from tests.support.factories import Connection, create_user
from tests.support.forking import ROOT
from tests.support.provider import NODE

MODULES = ROOT / "tests" / "browser" / "provider" / "node_modules"
FORMATS = ("csv", "json", "xlsx")
PYTHON = """
import hashlib, json, os, sys
from carryout_client import AuthenticatedClient
from carryout_client.api.exports import create_export, delete_export, download_export, list_exports, show_export
from carryout_client.api.exports import show_sections, stream_export
from carryout_client.models import CompletedExport, CreateExport, ExportPage, ExportTooLarge, ExportView, Format
from carryout_client.models import ExportStatus, InvalidValue, Offer

client = AuthenticatedClient(base_url=os.environ["URL"], token=os.environ["TOKEN"])
found: dict[str, str] = {}
for name in sys.argv[1:]:
    created = create_export.sync(client=client, body=CreateExport(format_=Format(name)))
    assert isinstance(created, CompletedExport), created
    shown = show_export.sync(created.job_id, client=client)
    assert isinstance(shown, ExportView) and isinstance(shown.sha256, str), shown
    assert shown.status == ExportStatus.COMPLETED and shown.progress.records_done == created.record_count
    file = download_export.sync_detailed(created.job_id, client=client, prefer="no-redirect")
    assert file.status_code == 200
    assert hashlib.sha256(file.content).hexdigest() == shown.sha256
    assert delete_export.sync_detailed(created.job_id, client=client).status_code == 204
    found[name] = shown.sha256
page = list_exports.sync(client=client, limit=2)
assert isinstance(page, ExportPage) and len(page.exports) == 2 and page.next_, page
offer = show_sections.sync(client=client)
assert isinstance(offer, Offer) and [section.name for section in offer.sections] == ["user", "activity", "content"]
streamed = stream_export.sync_detailed(client=client, format_=Format.NDJSON)
assert streamed.content.endswith(b'"records":5}\\n'), streamed
refused = create_export.sync(client=client, body=CreateExport(format_=Format.CSV, sections=["orders"]))
assert isinstance(refused, InvalidValue), refused
assert refused.status == 422 and refused.type_ == "urn:carryout:problem:invalid-value"
assert not isinstance(refused, ExportTooLarge)
print(json.dumps(found))
"""
TYPESCRIPT = """
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

declare const process: { argv: string[]; env: Record<string, string> };
const client = createClient<paths>({
  baseUrl: process.env.URL, headers: { Authorization: `Bearer ${process.env.TOKEN}` },
});
function check(holds: unknown, what: unknown): asserts holds {
  if (!holds) throw new Error(JSON.stringify(what));
}
const digest = async (bytes: ArrayBuffer) =>
  [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))]
    .map((one) => one.toString(16).padStart(2, "0")).join("");

const found: Record<string, string | null> = {};
for (const name of process.argv.slice(2) as components["schemas"]["Format"][]) {
  const { data: created, error } = await client.POST("/api/export", { body: { format: name } });
  check(created && "record_count" in created, error ?? created);
  const path = { job_id: created.job_id };
  const { data: shown } = await client.GET("/api/export/{job_id}", { params: { path } });
  check(shown?.status === "completed" && shown.progress.records_done === created.record_count, shown);
  const { data: file } = await client.GET("/api/export/{job_id}/download", {
    params: { path, header: { Prefer: "no-redirect" } }, parseAs: "arrayBuffer",
  });
  check(file && (await digest(file)) === shown.sha256, "another digest");
  const { response } = await client.DELETE("/api/export/{job_id}", { params: { path } });
  check(response.status === 204, response.status);
  found[name] = shown.sha256;
}
const { data: page } = await client.GET("/api/export", { params: { query: { limit: 2 } } });
check(page?.exports.length === 2 && page.next, page);
const { error } = await client.POST("/api/export", { body: { format: "csv", sections: ["orders"] } });
check(error?.type === "urn:carryout:problem:invalid-value" && error.status === 422, error);
console.log(JSON.stringify(found));
"""
pytestmark = pytest.mark.timeout(600)  # mypy and tsc begin without a cache
TSC = ["--strict", "--module", "nodenext", "--target", "es2022", "--lib", "es2022,dom,dom.iterable"]


@pytest.fixture
async def environ(served: Served, token: Token, database: Connection) -> dict[str, str]:
    """The service, and a user of it."""
    return {"URL": served.url, "TOKEN": token(await create_user(database, activity=2, content=2))}


@pytest.fixture
async def document(api: httpx.AsyncClient, tmp_path: Path) -> Path:
    file = tmp_path / "openapi.json"
    file.write_bytes((await api.get("/openapi.json")).content)
    return file


async def run(*arguments: str | Path, folder: Path, **environ: str) -> str:
    """The output of a program that must succeed."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), str(Path(NODE).parent), os.environ["PATH"]])
    process = await asyncio.create_subprocess_exec(
        *arguments,
        cwd=folder,
        env=os.environ | {"PATH": paths} | environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def digests(database: Connection) -> dict[str, str]:
    """Those of the files that were made, by format."""
    rows = await database.fetch("SELECT format, sha256 FROM carryout.export_jobs WHERE status = 'completed'")
    return {row["format"]: row["sha256"].hex() for row in rows}


def operations(document: Path) -> set[str]:
    paths = json.loads(document.read_bytes())["paths"].values()
    return {operation["operationId"] for methods in paths for operation in methods.values()}


async def test_openapi_python_client(
    environ: dict[str, str], database: Connection, document: Path, tmp_path: Path
) -> None:
    package = tmp_path / "carryout_client"
    said = await run(
        *("openapi-python-client", "generate", "--path", document, "--meta", "none", "--output-path", package),
        "--fail-on-warning",
        folder=tmp_path,
    )
    made = {file.stem for file in package.glob("api/*/*.py")} - {"__init__"}
    assert made == operations(document), said
    (tmp_path / "use.py").write_text(PYTHON)
    # Without its client.py, which is the same for every document, and isn't strict.
    checked = ("use.py", "carryout_client/api", "carryout_client/models")
    strict = ("--strict", "--follow-imports=silent", "--cache-dir", tmp_path / "cache")
    await run("mypy", *strict, *checked, folder=tmp_path)
    found: dict[str, Any] = json.loads(await run(sys.executable, "use.py", *FORMATS, folder=tmp_path, **environ))
    assert found.keys() == set(FORMATS)
    assert found == await digests(database)


async def test_openapi_typescript(
    environ: dict[str, str], database: Connection, document: Path, tmp_path: Path
) -> None:
    (tmp_path / "node_modules").symlink_to(MODULES)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    await run(NODE, MODULES / "openapi-typescript" / "bin" / "cli.js", document, "-o", "api.d.ts", folder=tmp_path)
    declared = (tmp_path / "api.d.ts").read_text()
    assert all(f"\n    {name}: {{" in declared for name in operations(document))
    (tmp_path / "use.ts").write_text(TYPESCRIPT)
    await run(NODE, MODULES / "typescript" / "bin" / "tsc", *TSC, "use.ts", folder=tmp_path)
    found: dict[str, Any] = json.loads(await run(NODE, "use.js", *FORMATS, folder=tmp_path, **environ))
    assert found.keys() == set(FORMATS)
    assert found == await digests(database)
