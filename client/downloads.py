"""A file of known size and checksum, fetched in as many pieces as the network makes of it."""

import hashlib
from http import HTTPStatus

import aiohttp
from yarl import URL

from client.console import Advance
from client.errors import ChecksumError, IncompleteError
from client.http import follow
from client.outputs import Output
from client.retries import Retry


class Download:
    """Goes on where the output ends, as far as the server lets it.

    Begins each piece at the link, which needs no credentials: what it redirects to lives for minutes only.
    """

    def __init__(
        self, session: aiohttp.ClientSession, link: URL, output: Output, retry: Retry, advance: Advance
    ) -> None:
        self._session = session
        self._link = link
        self._output = output
        self._retry = retry
        self._advance = advance
        self._etag = ""
        self._sha256 = hashlib.sha256()

    async def run(self, size_bytes: int, sha256: str) -> None:
        """Raises IncompleteError after all tries, and ChecksumError."""
        went_before = self._output.size_bytes
        for piece in self._output.pieces():
            self._sha256.update(piece)
        await self._fetch(size_bytes)
        if went_before and self._sha256.hexdigest() != sha256:  # what an earlier run left belongs to something else
            self._restart()
            await self._fetch(size_bytes)
        if self._sha256.hexdigest() != sha256:
            self._output.discard()
            raise ChecksumError(f"{self._output.size_bytes} bytes arrived that aren't the export's: SHA-256 differs")
        self._output.finish()

    async def _fetch(self, size_bytes: int) -> None:
        while self._output.size_bytes < size_bytes:
            try:
                await self._go_on()
            except IncompleteError as error:
                await self._retry.pause(error, self._output.size_bytes)

    async def _go_on(self) -> None:
        async with follow(self._session, self._link, self._headers()) as response:
            self._place(response)
            async for chunk in response.content.iter_any():
                self._output.write(chunk)
                self._sha256.update(chunk)
                self._advance(self._output.size_bytes)

    def _headers(self) -> dict[str, str]:
        """Bytes count: those of the file, not of a compressed form."""
        headers = {"Accept-Encoding": "identity"}
        if self._output.size_bytes:
            headers["Range"] = f"bytes={self._output.size_bytes}-"
            if self._etag.startswith('"'):  # a weak one holds for no range
                headers["If-Range"] = self._etag
        return headers

    def _place(self, response: aiohttp.ClientResponse) -> None:
        """See to it that the answer's first byte is the output's next."""
        etag = response.headers.get("ETag", "")
        begins = response.headers.get("Content-Range", "").startswith(f"bytes {self._output.size_bytes}-")
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            self._restart()
        elif not begins or self._etag not in {"", etag}:
            self._restart()
            raise IncompleteError("The server went on with other bytes than asked for")
        self._etag = etag

    def _restart(self) -> None:
        self._output.keep(0)
        self._sha256 = hashlib.sha256()
        self._etag = ""
