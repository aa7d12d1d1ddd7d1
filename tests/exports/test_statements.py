"""The number of statements that an export costs PostgreSQL: each is a round trip, and a part of the CPU of both."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import NamedTuple
from uuid import UUID

import msgspec
import pytest

from service.backends.database import QUERIES
from service.bookkeeping.exports import Export, ExportStatus
from service.documents.encoders import create_encoder
from service.export_spec import ExportSpec
from service.exports.attempts import open_user_document
from service.formats import Format
from service.resources import Resources, open_resources
from service.settings import Settings
from tests.conftest import PATIENCE_SECONDS
from tests.support.exports import start_export
from tests.support.factories import Connection, create_user, create_user_with
from tests.support.statements import Sent, StatementProxy
from worker import lease
from worker.running import run_export


class Watched(NamedTuple):
    """Resources that reach both databases by way of proxies, which count to `sent`."""

    resources: Resources
    sent: Sent

    @property
    def queries(self) -> list[str]:
        """Those of exports: each process also looks for changed feature flags, every few seconds."""
        return [query for query in self.sent.queries if query != QUERIES["list_feature_flags"]]


@pytest.fixture
async def watched(settings: Settings) -> AsyncIterator[Watched]:
    sent = Sent()
    async with (
        StatementProxy(settings.database_url, sent).open() as own,
        StatementProxy(settings.source_database_url, sent).open() as source,
        open_resources(
            msgspec.structs.replace(settings, database_url=own.url, source_database_url=source.url)
        ) as resources,
    ):
        yield Watched(resources, sent)


async def test_a_small_export_takes_eleven(watched: Watched, database: Connection) -> None:
    export = await _count(watched, database, records=400, queued=False)
    assert export.status is ExportStatus.COMPLETED
    assert len(watched.queries) <= 11, watched.queries


async def test_accepting_an_export_takes_seven(watched: Watched, database: Connection) -> None:
    export = await _count(watched, database, records=400, queued=True)
    assert export.status is ExportStatus.PENDING
    assert len(watched.queries) <= 7, watched.queries


async def test_a_worker_takes_eleven(watched: Watched, database: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", PATIENCE_SECONDS)  # each costs statements, too
    export = await _count(watched, database, records=400, queued=True)
    watched.sent.clear()
    await run_export(watched.resources, export.id)
    assert await database.fetchval("SELECT status FROM carryout.export_jobs WHERE id = $1", export.id) == "completed"
    assert len(watched.queries) <= 11, watched.queries


async def test_many_records_take_no_more_to_count(watched: Watched, database: Connection) -> None:
    await _count(watched, database, records=5_000, queued=True)
    assert len(watched.queries) <= 7, watched.queries


async def test_the_first_chunk_of_a_stream_takes_six(watched: Watched, database: Connection) -> None:
    """BEGIN, the lock, the survey, whether a table was exchanged, and two fetches, one of them for the next chunk."""
    await _begin_stream(watched, await create_user_with(database, 2_000))
    sent = await _begin_stream(watched, await create_user_with(database, 2_000))
    assert len(sent) <= 6, sent


async def test_wide_records_are_read_by_cursors(watched: Watched, database: Connection) -> None:
    """So little is in memory at once, however wide they are."""
    user_id = await create_user(database, content=3, body_bytes=10_000)
    export = await start_export(watched.resources, user_id, queued=False)
    assert export.record_count == 4
    assert any("generate_series" in query for query in watched.queries)


async def _begin_stream(watched: Watched, user_id: UUID) -> list[str]:
    watched.sent.clear()
    async with (
        open_user_document(watched.resources, ExportSpec(user_id, Format.CSV), exclusive=True) as document,
        aclosing(document.chunks(create_encoder(Format.CSV))) as chunks,
    ):
        await anext(chunks)
        return watched.queries


async def _count(watched: Watched, database: Connection, *, records: int, queued: bool) -> Export:
    """A second export of a new user: with the first, asyncpg looks up types."""
    await start_export(watched.resources, await create_user_with(database, 3), queued=False)
    user_id = await create_user_with(database, records)
    watched.sent.clear()
    return await start_export(watched.resources, user_id, queued=queued)
