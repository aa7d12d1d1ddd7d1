"""A list of 1,000,000 users takes the memory of one of 10,000."""

from pathlib import Path

import pytest

from devstack.stack import Stack
from tests.conftest import Report
from tests.load.serving import Api, open_api
from tests.support.factories import Connection
from tests.support.operators import create_key, create_users

PATH = "/api/v1/users/export-full"
ENCODINGS = ("identity", "zstd", "gzip")
MARGIN = 1.1


@pytest.mark.timeout(600)
async def test_memory_does_not_know_the_length(
    stack: Stack, database: Connection, database_url: str, tmp_path: Path, report: Report
) -> None:
    headers = {"X-API-Key": await create_key(database)}
    peaks: dict[int, float] = {}
    for count in (10_000, 1_000_000):
        await database.execute("TRUNCATE public.users CASCADE")
        await create_users(database, count)
        await database.execute("VACUUM ANALYZE public.users")
        (folder := tmp_path / str(count)).mkdir()
        async with open_api(stack, database_url, folder) as api:
            idle = api.resident_mib()
            report("")
            for encoding in ENCODINGS:
                size = await _read(api, headers | {"Accept-Encoding": encoding})
                report(f"{count:,} users as {encoding}: {size / 2**20:.1f} MiB sent, {api.peak_mib():.1f} MiB held")
            peaks[count] = api.peak_mib()
            report(f"(idle: {idle:.1f} MiB)")
    assert peaks[1_000_000] < MARGIN * peaks[10_000]


async def _read(api: Api, headers: dict[str, str]) -> int:
    size = 0
    async with api.client.stream("GET", PATH, headers=headers) as response:
        assert response.status_code == 200
        async for part in response.aiter_raw():
            size += len(part)
    return size
