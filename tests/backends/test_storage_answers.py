"""A storage that answers what S3 never does: other servers' pages, redirects, endless and useless answers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest

from devstack.stack import Stack
from service.backends.s3_session import MAX_ANSWER_BYTES
from service.backends.storage import PART_BYTES, ObjectStorage, OpenUpload, open_storage
from service.errors import OutageError, UnavailableError
from service.settings import Settings, from_env

CSV = "text/csv; charset=utf-8"
Open = Callable[[bytes], Awaitable[ObjectStorage]]
Call = Callable[[ObjectStorage], Awaitable[object]]


async def chunks_of(size: int) -> AsyncIterator[bytes]:
    yield b"x" * size


async def read(storage: ObjectStorage, byte_range: tuple[int, int] | None = None) -> bytes:
    async with storage.open_download("key", byte_range) as chunks:
        return b"".join([chunk async for chunk in chunks])


def answer(body: bytes = b"", status: str = "200 OK", *fields: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}", "Connection: close"])
    return f"{head}\r\n\r\n".encode() + body


def error(document: bytes) -> bytes:
    return answer(document, "400 Bad Request")


PAGE = answer(b"<html><body>Sign in to the network</body></html>", "200 OK", "Content-Type: text/html")
CALLS: dict[str, Call] = {
    "put": lambda storage: storage.upload("key", chunks_of(1), content_type=CSV),
    "upload": lambda storage: storage.upload("key", chunks_of(PART_BYTES), content_type=CSV),
    "delete": lambda storage: storage.delete("key"),
    "download": read,
    "list": lambda storage: anext(storage.list_keys("")),
    "list uploads": lambda storage: anext(storage.list_uploads("")),
    "abort": lambda storage: storage.abort_upload(OpenUpload("key", "upload")),
}
ERRORS = {
    "no XML": error(b"no XML"),
    "no code": error(b"<Error></Error>"),
    "two codes": error(b"<Error><Code>A</Code><Code>B</Code></Error>"),
    "a code of elements": error(b"<Error><Code><a>1</a></Code></Error>"),
    "deep": error(b"<Error>" + b"<a>" * 50_000 + b"</a>" * 50_000 + b"</Error>"),
    "large": error(b"<Error>" + b" " * MAX_ANSWER_BYTES + b"</Error>"),
}
USELESS = {
    "list without keys": ("list", answer(b"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>")),
    "list with a wrong size": (
        "list",
        answer(b"<ListBucketResult><Contents><Key>a</Key><Size>x</Size></Contents></ListBucketResult>"),
    ),
    "uploads without ids": (
        "list uploads",
        answer(b"<ListMultipartUploadsResult><Upload><Key>a</Key></Upload></ListMultipartUploadsResult>"),
    ),
    "object with a wrong date": ("download", answer(b"x", "200 OK", "Last-Modified: yesterday")),
    "page for a stored object": ("put", PAGE),
    "page for a begun upload": ("upload", PAGE),
}


@pytest.fixture(scope="session")
def settings(stack: Stack) -> Settings:
    return from_env(stack.environ | {"CARRYOUT_PUBLIC_URL": "http://localhost"})


@asynccontextmanager
async def serving(reply: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """The URL of a server that reads a request's head, and then calls `reply`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await reply(writer)
        except (OSError, EOFError):
            pass  # the client has seen enough
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.fixture
async def open_answering(settings: Settings) -> AsyncIterator[Open]:
    """Opens a storage that gives this answer to every request."""
    async with AsyncExitStack() as stack:

        async def open_it(content: bytes) -> ObjectStorage:
            async def reply(writer: asyncio.StreamWriter) -> None:
                writer.write(content)
                await writer.drain()

            url = await stack.enter_async_context(serving(reply))
            return await stack.enter_async_context(open_storage(msgspec.structs.replace(settings, s3_endpoint_url=url)))

        yield open_it


@pytest.mark.parametrize("document", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_unreadable_error_is_handled(open_answering: Open, call: Call, document: bytes) -> None:
    with pytest.raises(UnavailableError):
        await call(await open_answering(document))


@pytest.mark.parametrize(("call", "useless"), USELESS.values(), ids=USELESS)
async def test_answer_that_is_not_from_s3_is_an_outage(open_answering: Open, call: str, useless: bytes) -> None:
    with pytest.raises(OutageError):
        await CALLS[call](await open_answering(useless))


async def test_endless_answer_is_not_kept(settings: Settings) -> None:
    written = 0

    async def reply(writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        while True:
            writer.write(b"x" * 2**20)
            await writer.drain()
            written += 2**20

    async with (
        serving(reply) as url,
        open_storage(msgspec.structs.replace(settings, s3_endpoint_url=url)) as storage,
    ):
        with pytest.raises(OutageError):
            await storage.delete("key")
    assert written < 16 * MAX_ANSWER_BYTES  # three tries, and what the kernel holds


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_redirects_are_not_followed(open_answering: Open, call: Call, status: str) -> None:
    """Otherwise a storage could have any server asked from inside the network, and pass on what it answers."""
    asked = False

    async def reply(writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked = True
        writer.write(answer(b"secret", "200 OK", 'ETag: "a"'))

    async with serving(reply) as inner:
        with pytest.raises(UnavailableError):
            await call(await open_answering(answer(b"", status, f"Location: {inner}/")))
    assert not asked


@pytest.mark.parametrize(
    "field", ["X-None: none", "Content-Range: bytes 0-2/10", "Content-Range: bytes 4-60/100", "Content-Range: x"]
)
async def test_another_range_is_refused(open_answering: Open, field: str) -> None:
    with pytest.raises(UnavailableError, match="other bytes"):
        await read(await open_answering(answer(b"abc", "206 Partial Content", field)), (4, 6))
