"""Debian's nginx before the API, and a wire between the two that can be cut."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from devstack.ports import keep_port
from tests.conftest import PUBLIC_PATH
from tests.support.wires import Connection, Proxy

CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;  # below that it writes whole links
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    large_client_header_buffers 4 32k;  # 8k by default: a token may have 16,384 characters
    server {{
        listen 127.0.0.1:{port};
        proxy_http_version {version};
        location / {{
            proxy_pass {upstream};
        }}
        location = /metrics {{
            return 403;
        }}
        location {prefix}/ {{
            proxy_pass {upstream}/;
        }}
    }}
}}
"""


class Wire(Proxy):
    """Passes everything on to the API; of an answer only `limit` bytes, if there is one, and then it breaks."""

    limit: int | None = None
    answered = 0

    def connect(self, client: asyncio.StreamWriter) -> Connection:
        self.answered = 0
        return _Connection(client, self)


class _Connection(Connection):
    def __init__(self, client: asyncio.StreamWriter, wire: Wire) -> None:
        super().__init__(client)
        self._wire = wire

    async def answer(self, chunk: bytes) -> bytes:
        wire = self._wire
        left = len(chunk) if wire.limit is None else wire.limit - wire.answered
        wire.answered += len(chunk)
        if left >= len(chunk):
            return chunk
        self._client.write(chunk[:left])
        return b""


@asynccontextmanager
async def open_nginx(folder: Path, upstream: str, version: str) -> AsyncIterator[str]:
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    port = keep_port(folder / "nginx.port")
    configuration = folder / "nginx.conf"
    configuration.write_text(
        CONFIGURATION.format(folder=folder, port=port, upstream=upstream, version=version, prefix=PUBLIC_PATH)
    )
    process = await asyncio.create_subprocess_exec(
        *(binary, "-c", configuration, "-p", folder, "-e", folder / "error.log"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(30):
            while not await _listens(port):
                assert process.returncode is None, (folder / "error.log").read_text()
                await asyncio.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
