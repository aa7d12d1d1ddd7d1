"""A store of files whose answers a test chooses, object by object: what real S3 servers do, on demand."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

from aiohttp import web

OVER = web.AppKey("over", asyncio.Event)
Answer: TypeAlias = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


class ScriptedStore:
    """`objects` by key, as they are now; `answers` by key instead of the usual ones; `asked`: each method and key.

    `down` answers everything with its status.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str]] = []
        self.down: int | None = None
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        key = request.match_info.get("key", "")
        self.asked.append((request.method, key))
        if self.down:
            return refusal(self.down, "ServiceUnavailable")
        if "list-type" in request.query:
            return web.Response(text="<ListBucketResult/>", content_type="application/xml")
        content = self.objects.get(key, b"")
        if key in self.answers:
            return await self.answers[key](request, content)
        if key not in self.objects:
            return refusal(404, "NoSuchKey")
        return await whole(request, content)


def etag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def refusal(status: int, code: str) -> web.Response:
    return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>", content_type="application/xml")


def refusing(status: int, code: str, *, method: str = "") -> Answer:
    """Refuse each request, or those of one method."""

    async def answer(request: web.Request, content: bytes) -> web.StreamResponse:
        if method in {"", request.method}:
            return refusal(status, code)
        return await whole(request, content)

    return answer


async def whole(
    request: web.Request,
    content: bytes,
    *,
    etag: str = "",
    cut_at: int | None = None,
    until: asyncio.Event | None = None,
) -> web.StreamResponse:
    """As S3 does, with ranges and If-Match; `cut_at`: there the connection is broken off, `until` then."""
    etag = etag or etag_of(content)
    if request.headers.get("If-Match", etag) != etag:
        return refusal(412, "PreconditionFailed")
    start = int(request.headers["Range"].removeprefix("bytes=").rstrip("-")) if "Range" in request.headers else 0
    if start and start >= len(content):
        return refusal(416, "InvalidRange")
    response = web.StreamResponse(status=206 if start else 200, headers={"ETag": etag})
    response.content_length = len(content) - start
    if start:
        response.headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    await response.write(content[start:cut_at])
    if until:
        await until.wait()
    if cut_at is not None:
        assert request.transport
        request.transport.close()
    return response


async def hanging(request: web.Request, _content: bytes) -> web.StreamResponse:
    """No answer at all, until the test is over."""
    await request.app[OVER].wait()
    return refusal(503, "ServiceUnavailable")


async def hanging_body(request: web.Request, content: bytes) -> web.StreamResponse:
    """Half of what is asked for, and then silence."""
    if request.method == "HEAD":
        return await whole(request, content)
    return await whole(request, content, cut_at=len(content) // 2, until=request.app[OVER])


def breaking_off(times: int, *, then: Answer = whole) -> Answer:
    """Half of what is asked for, so many times; then another answer."""
    left = times

    async def answer(request: web.Request, content: bytes) -> web.StreamResponse:
        nonlocal left
        if request.method == "HEAD":
            return await whole(request, content)
        if left:
            left -= 1
            return await whole(request, content, cut_at=len(content) // 2)
        return await then(request, content)

    return answer


@asynccontextmanager
async def open_scripted_store() -> AsyncIterator[ScriptedStore]:
    store = ScriptedStore()
    app = web.Application()
    app[OVER] = asyncio.Event()
    app.router.add_route("*", "/{bucket}", store.handle)
    app.router.add_route("*", "/{bucket}/{key:.*}", store.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    store.url = f"http://{host}:{port}"
    try:
        yield store
    finally:
        app[OVER].set()
        await runner.cleanup()
