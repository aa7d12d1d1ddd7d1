"""The processes run as the manifests start them: with their arguments and settings, and with nothing else around."""

import asyncio
import contextlib
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx

from devstack.ports import keep_port
from devstack.roles import make_roles
from devstack.sample import SAMPLE_DIR, grant_reader
from devstack.stack import Stack
from service.backends.database import MIGRATION_URL, connect
from tests.deploy.manifests import Manifest, Manifests, container, secret_values, secrets_of
from tests.sql.databases import database_environ, open_database, owner_url

COMMAND = Path(sys.executable).parent / "carryout"
PATIENCE_SECONDS = 60.0


async def test_a_release(stack: Stack, manifests: Manifests, tmp_path: Path) -> None:
    ports = {name: str(keep_port(tmp_path / f"{name}.port")) for name in ("8000", "8001")}
    async with _new_database(stack) as url, AsyncExitStack() as running:
        environ = _environ(stack, manifests) | {
            **database_environ(stack, url),
            "CARRYOUT_WORKER_METRICS_PORT": ports["8001"],
        }

        async def start(workload: Manifest) -> Process:
            arguments = [ports.get(argument, argument) for argument in container(workload)["args"]]
            log = (tmp_path / workload["metadata"]["name"]).open("wb")
            own = {MIGRATION_URL: owner_url(stack, url)} if "carryout-migration" in secrets_of(workload) else {}
            process = await asyncio.create_subprocess_exec(
                COMMAND, *arguments, env=environ | own, cwd="/", stdout=log, stderr=log
            )
            running.callback(log.close)
            running.push_async_callback(_kill, process)
            return process

        migration = await start(manifests.get("Job", "carryout-migrate"))
        assert await asyncio.wait_for(migration.wait(), PATIENCE_SECONDS) == 0
        started = [(deployment, await start(deployment)) for deployment in manifests.of("Deployment")]
        for deployment, process in started:
            for port, path in _probes(deployment):
                await _until_ok(process, f"http://127.0.0.1:{ports[port]}{path}")


def _probes(deployment: Manifest) -> set[tuple[str, str]]:
    """Ports and paths."""
    numbers = {port["name"]: str(port["containerPort"]) for port in container(deployment)["ports"]}
    requests = [probe["httpGet"] for name, probe in container(deployment).items() if name.endswith("Probe")]
    return {(numbers[request["port"]], request["path"]) for request in requests}


def _environ(stack: Stack, manifests: Manifests) -> dict[str, str]:
    """The manifests' settings, their secrets as the test's servers want them, and where those are instead of AWS."""
    secrets = {name: stack.environ[name] for name in secret_values().keys() & stack.environ.keys()}
    here = {name: stack.environ[name] for name in ("CARRYOUT_S3_ENDPOINT_URL", "CARRYOUT_S3_BUCKET")}
    return manifests.settings | secrets | here


@asynccontextmanager
async def _new_database(stack: Stack) -> AsyncIterator[str]:
    """With the application's tables, and none of Carryout's: its roles, as an administrator makes them."""
    async with open_database(stack.admin_url) as url:
        async with connect(url) as application:
            await application.execute((SAMPLE_DIR / "schema.sql").read_text())
        await grant_reader(url, stack.reader_password)
        await make_roles(url, stack.role_urls)
        yield url


async def _until_ok(process: Process, url: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS), httpx.AsyncClient(trust_env=False) as client:
        while process.returncode is None:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(url)).status_code == 200:
                    return
            await asyncio.sleep(0.05)
    raise AssertionError(f"The process of {url} ended with {process.returncode}")


async def _kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
