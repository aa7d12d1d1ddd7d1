"""Debian's nginx with the file that `deploy/` ships, before the API processes of a fleet."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from devstack.ports import ask, keep_port
from service.settings import SQL_DIR

SHIPPED = SQL_DIR.parent / "deploy" / "nginx" / "carryout.conf"
NGINX = Path("/usr/sbin/nginx")
AROUND = """
daemon off;
pid {folder}/nginx.pid;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{shipped}
}}
"""
READING_SECONDS = 1.0  # until the workers of the earlier configuration accept nothing more


class Nginx:
    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self.folder = folder
        self._port = keep_port(folder / "nginx.port")
        self._ports = list(ports)
        self._process: asyncio.subprocess.Process | None = None
        self.url = f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        self._write(self._ports)
        self._process = await asyncio.create_subprocess_exec(
            *(NGINX, "-c", self.folder / "nginx.conf", "-p", self.folder, "-e", self.folder / "nginx.error.log")
        )
        async with asyncio.timeout(30):
            while not (await ask(self._port, b"GET /livez HTTP/1.0\r\n\r\n")).startswith(b"HTTP/"):
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        if self._process:
            self._process.terminate()
            await self._process.wait()

    @asynccontextmanager
    async def without(self, port: int) -> AsyncIterator[None]:
        """Send no request to this process, as an operator does before a restart."""
        await self._read([other for other in self._ports if other != port])
        yield
        await self._read(self._ports)

    async def _read(self, ports: Sequence[int]) -> None:
        self._write(ports)
        assert self._process
        self._process.send_signal(signal.SIGHUP)
        await asyncio.sleep(READING_SECONDS)

    def _write(self, ports: Sequence[int]) -> None:
        servers = "\n".join(f"    server 127.0.0.1:{port};" for port in ports)
        text = re.sub(r"(upstream carryout \{\n).*?\n\}", rf"\g<1>{servers}\n}}", SHIPPED.read_text(), flags=re.DOTALL)
        text = text.replace("listen 8080;", f"listen 127.0.0.1:{self._port};")
        text = text.replace("/var/log/nginx", str(self.folder))
        (self.folder / "nginx.conf").write_text(AROUND.format(folder=self.folder, shipped=text))
