"""The API under attack: what is thrown at it, byte by byte, and what it answers."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from service.resources import Resources
from tests.api.serving import Served

STATUS = re.compile(rb"(?:HTTP/1\.1 100 Continue\r\n\r\n)?HTTP/1\.[01] (\d{3}) ")
AT_ONCE = 16
ANSWER_SECONDS = 60.0

Raw = bytes | str


@dataclass
class Siege:
    """`link` is the path and query of a completed export's signed link, `key` an API key with every scope."""

    served: Served
    resources: Resources
    user_id: UUID
    token: str
    link: str
    key: str
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def bearer(self) -> str:
        return f"Authorization: Bearer {self.token}"

    @property
    def api_key(self) -> str:
        return f"X-API-Key: {self.key}"

    async def send(self, *lines: Raw, body: bytes = b"") -> bytes:
        """The whole answer to one request, its lines as they are; it must have a status, and none of ours to blame."""
        async with asyncio.timeout(ANSWER_SECONDS):
            raw = await self.served.exchange(*(_latin1(line) for line in lines), body=body)
        self.count(raw, lines)
        return raw

    async def send_all(self, requests: Iterable[tuple[Raw, ...]]) -> list[int]:
        """The statuses of many, some at a time."""
        slots = asyncio.Semaphore(AT_ONCE)

        async def send(lines: tuple[Raw, ...]) -> int:
            async with slots:
                return status_of(await self.send(*lines))

        return list(await asyncio.gather(*map(send, requests)))

    def count(self, raw: bytes, sent: object) -> None:
        assert STATUS.match(raw), f"no answer to {sent!r}: {raw[:100]!r}"
        self.statuses[status_of(raw)] += 1
        assert status_of(raw) < 500, f"{raw[:500]!r} answers {sent!r}"

    def summary(self) -> str:
        failed = sum(count for status, count in self.statuses.items() if status >= 500)
        return (
            f"{self.statuses.total()} hostile requests: {failed} answered 5xx ({dict(sorted(self.statuses.items()))})"
        )


def status_of(raw: bytes) -> int:
    found = STATUS.match(raw)
    assert found
    return int(found[1])


def _latin1(line: Raw) -> bytes:
    return line.encode("latin-1") if isinstance(line, str) else line
