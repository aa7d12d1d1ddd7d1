"""Cuts a download when the permission for it ends."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

CHECK_SECONDS = 2.0


async def while_permitted(
    chunks: AsyncGenerator[bytes, None], require: Callable[[], Awaitable[None]]
) -> AsyncGenerator[bytes, None]:
    """Yield `chunks` until `require` raises, which cuts the download: a client may read for hours.

    `require` is called before a chunk is yielded, at most once in CHECK_SECONDS.
    """
    checked_at = time.monotonic()
    async with aclosing(chunks):
        async for chunk in chunks:
            if time.monotonic() - checked_at >= CHECK_SECONDS:
                await require()
                checked_at = time.monotonic()
            yield chunk
