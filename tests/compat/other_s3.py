"""S3 as other programs serve it: moto, which many applications' tests run, and SeaweedFS."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx

from devstack.ports import ask, keep_port
from devstack.process import ChildProcess, Command
from devstack.servers import CLEAN_ENVIRON

ACCESS_KEY: Final = "carryout"
SECRET_KEY: Final = "carryout-secret-key"
PROGRAMS: Final = Path(sys.executable).parent


@asynccontextmanager
async def open_moto(folder: Path) -> AsyncIterator[str]:
    """Its URL. It takes any keys."""
    port = keep_port(folder / "moto.port")
    process = ChildProcess("moto", folder)
    command: Command = [sys.executable, PROGRAMS / "moto_server", "-H", "127.0.0.1", "-p", str(port)]

    async def answers() -> bool:
        return b" 200 " in await ask(port, b"GET /moto-api/ HTTP/1.0\r\n\r\n")

    try:
        await process.start(command, CLEAN_ENVIRON, answers=answers)
        yield f"http://127.0.0.1:{port}"
    finally:
        await process.stop()


@asynccontextmanager
async def open_seaweedfs(folder: Path) -> AsyncIterator[str]:
    """Its URL; only one pair of keys is known."""
    ports = {name: keep_port(folder / f"seaweedfs-{name}.port") for name in PORTS}
    config = folder / "seaweedfs.json"
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    identity = {"name": "carryout", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
    config.write_text(json.dumps({"identities": [identity]}))
    (folder / "seaweedfs").mkdir()
    command: Command = [PROGRAMS / "weed", "server", f"-dir={folder / 'seaweedfs'}", "-ip=127.0.0.1"]
    command += ["-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.config={config}", "-master.telemetry=false"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", f"-filer.localSocket={folder / 'filer.sock'}"]
    command += [f"-s3.localSocket={folder / 's3.sock'}"]
    command += ["-master.volumeSizeLimitMB=64", "-volume.max=8", *(f"-{name}={port}" for name, port in ports.items())]
    process = ChildProcess("seaweedfs", folder)
    url = f"http://127.0.0.1:{ports['s3.port']}"

    async def answers() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(f"{url}/status")).is_success
        except httpx.HTTPError:
            return False

    try:
        await process.start(command, CLEAN_ENVIRON | {"HOME": str(folder)}, answers=answers)
        yield url
    finally:
        await process.stop()


PORTS: Final = tuple(f"{server}.port{kind}" for server in ("master", "volume", "filer", "s3") for kind in ("", ".grpc"))
