"""Downloads a file of known size and checksum, and resumes after each broken connection."""

import hashlib
import re
from typing import NamedTuple

import aiohttp
from yarl import URL

from client.console import Advance
from client.errors import ChecksumError, IncompleteError
from client.http import follow
from client.outputs import Output
from client.retries import Retry
from client.words import gettext, size

CONTENT_RANGE = re.compile(r"bytes (\d+)-")


class RemoteFile(NamedTuple):
    """`link` needs no credentials; `sha256` is hexadecimal."""

    link: URL
    size_bytes: int
    sha256: str


class Download:
    """Resumes where the output ends, if the server supports ranges.

    Each request begins at the link again, because the URL it redirects to is valid for minutes only.
    """

    def __init__(
        self, session: aiohttp.ClientSession, file: RemoteFile, output: Output, retry: Retry, advance: Advance
    ) -> None:
        self._session = session
        self._file = file
        self._output = output
        self._retry = retry
        self._advance = advance
        self._etag = ""
        self._sha256 = hashlib.sha256()

    async def run(self) -> None:
        """Raises IncompleteError when the retry budget is used up, and ChecksumError."""
        went_before = self._output.size_bytes
        for piece in self._output.pieces():
            self._sha256.update(piece)
        await self._fetch()
        if went_before and not self._is_right():  # the bytes of an earlier run belong to another file
            self._restart()
            await self._fetch()
        if not self._is_right():
            self._output.discard()
            raise ChecksumError(gettext("The download is not the export: its SHA-256 differs"))
        self._output.finish()

    def _is_right(self) -> bool:
        return self._sha256.hexdigest() == self._file.sha256

    async def _fetch(self) -> None:
        while self._output.size_bytes < self._file.size_bytes:
            try:
                await self._go_on()
            except IncompleteError as error:
                await self._retry.pause(error, self._output.size_bytes)

    async def _go_on(self) -> None:
        async with follow(self._session, self._file.link, self._headers()) as response:
            self._place(response)
            async for chunk in response.content.iter_any():
                self._take(chunk)
        if self._output.size_bytes < self._file.size_bytes:
            raise IncompleteError(
                gettext("The server ended the file after %(size)s", size=size(self._output.size_bytes))
            )

    def _take(self, chunk: bytes) -> None:
        if self._output.size_bytes + len(chunk) > self._file.size_bytes:
            self._output.discard()
            longer = gettext(
                "The download is not the export: it is longer than %(size)s", size=size(self._file.size_bytes)
            )
            raise ChecksumError(longer)
        self._output.write(chunk)
        self._sha256.update(chunk)
        self._advance(self._output.size_bytes)

    def _headers(self) -> dict[str, str]:
        """Ranges count bytes of the file, so the answer must not be compressed."""
        headers = {"Accept-Encoding": "identity"}
        if self._output.size_bytes:
            headers["Range"] = f"bytes={self._output.size_bytes}-"
            if self._etag.startswith('"'):  # If-Range doesn't allow a weak one
                headers["If-Range"] = self._etag
        return headers

    def _place(self, response: aiohttp.ClientResponse) -> None:
        """Make the answer's first byte the output's next."""
        # Not by the status: rclone's S3 sends a range with 200.
        range_ = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        etag = response.headers.get("ETag", "")
        if range_ is None:
            self._restart()
        elif int(range_[1]) != self._output.size_bytes or self._etag not in {"", etag}:
            self._restart()
            raise IncompleteError(gettext("The server sent another range than requested"))
        self._etag = etag

    def _restart(self) -> None:
        self._output.keep(0)
        self._sha256 = hashlib.sha256()
        self._etag = ""
