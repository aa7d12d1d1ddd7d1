"""Debian's nginx before the API, and a wire between the two that can be cut."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from devstack.ports import keep_port

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
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version {version};
        }}
    }}
}}
"""


class Wire:
    """Passes everything on to the API; of an answer only `limit` bytes, if there is one, and then it breaks."""

    def __init__(self, host: str, port: int) -> None:
        self.limit: int | None = None
        self.answered = 0
        self._target = (host, port)

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream = await asyncio.open_connection(*self._target)
        asking = asyncio.create_task(_pass_on(reader, upstream))
        try:
            self.answered = 0
            while chunk := await upstream_reader.read(2**16):
                left = len(chunk) if self.limit is None else self.limit - self.answered
                writer.write(chunk[:left])
                await writer.drain()
                self.answered += len(chunk)
                if left < len(chunk):
                    break
        finally:
            asking.cancel()
            upstream.transport.abort()
            writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(2**16):
        writer.write(chunk)
        await writer.drain()


@asynccontextmanager
async def open_wire(host: str, port: int) -> AsyncIterator[tuple[Wire, int]]:
    wire = Wire(host, port)

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await wire.join(reader, writer)

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    async with server:
        yield wire, server.sockets[0].getsockname()[1]


@asynccontextmanager
async def open_nginx(folder: Path, upstream: int, version: str) -> AsyncIterator[str]:
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    port = keep_port(folder / "nginx.port")
    configuration = folder / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, port=port, upstream=upstream, version=version))
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
