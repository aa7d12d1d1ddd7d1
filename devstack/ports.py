"""Ports of 127.0.0.1, and requests to them."""

import asyncio
import secrets
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

# Below the ephemeral ranges of Linux and macOS: no outgoing connection takes a server's port while it is down.
PORTS: Final = range(15_000, 32_000)


def keep_port(record: Path) -> int:
    """The port in the file `record`. If it has none or that port is in use, a free one, which is recorded."""
    with suppress(FileNotFoundError, ValueError):
        port = int(record.read_text())
        if is_port_free(port):
            return port
    port = next(port for port in iter(lambda: secrets.choice(PORTS), None) if is_port_free(port))
    record.write_text(f"{port}\n")
    return port


def is_port_free(port: int) -> bool:
    with socket.socket() as listener:
        # As servers do, so that connections of a server that just stopped don't count.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def ask(port: int, request: bytes) -> bytes:
    """The first line of the response to `request`; empty without a response."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return b""
    try:
        writer.write(request)
        return await reader.readline()
    except OSError:
        return b""
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
