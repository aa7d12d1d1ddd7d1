"""Exports of what is new: nothing that commits late is missed between two snapshots."""

import datetime as dt
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from uuid import UUID

import asyncpg
import hypothesis
import pytest
from hypothesis import strategies as st

from devstack.servers import Postgres
from service.backends.database import Pool, connect, open_pool
from service.documents.datasets import Dataset
from service.documents.selection import select_datasets
from service.documents.snapshots import open_dated_snapshot
from service.export_spec import ExportSpec
from service.formats import Format
from service.resources import Resources
from tests.support.factories import Connection

WRITERS = 3
PARTS = 5  # which several processes can share
HISTORIES = 200  # of each part
Step = tuple[str, int]
ADD_USERS = """
INSERT INTO public.users (email, name, password_hash)
SELECT n || '@example.com', 'Ada', '' FROM generate_series(1, $1::int) AS n RETURNING id
"""
INSERT = "INSERT INTO public.activity (user_id, kind) VALUES ($1, 'login')"


def generate_histories() -> list[list[Step]]:
    """Steps of writers, each in a transaction of its own or none, and the first export between them."""
    step = st.tuples(st.sampled_from(["begin", "insert", "insert", "commit", "roll back"]), st.integers(0, WRITERS - 1))
    found: list[list[Step]] = []

    @hypothesis.settings(max_examples=HISTORIES, database=None, deadline=None, phases=[hypothesis.Phase.generate])
    @hypothesis.given(st.lists(step, min_size=1, max_size=8), st.lists(step, max_size=8))
    def collect(before: list[Step], after: list[Step]) -> None:
        found.append([*before, ("export", 0), *after])

    collect()
    return found


@pytest.fixture
async def writers(database_url: str) -> AsyncIterator[list[Connection]]:
    opened = [await asyncpg.connect(database_url) for _ in range(WRITERS)]
    yield opened
    for connection in opened:
        await connection.close()


async def take(
    pool: Pool, datasets: tuple[Dataset, ...], user_id: UUID, since: dt.datetime | None = None
) -> tuple[set[int], dt.datetime]:
    """The ids that a document has of rows dated `since` then, and the time from which others may be dated."""
    _, activity = select_datasets(datasets, ExportSpec(user_id, Format.JSON, ("activity",), start=since))
    async with open_dated_snapshot(pool, 10, overlap_seconds=0, margin_seconds=0) as snapshot:
        assert snapshot.changes_from
        found = [await snapshot.connection.fetch(query.dataset.sql, *query.arguments) for query in activity.queries]
    return {row["id"] for rows in found for row in rows}, snapshot.changes_from


class History:
    def __init__(self, pool: Pool, datasets: tuple[Dataset, ...], writers: Sequence[Connection], user_id: UUID) -> None:
        self.take = partial(take, pool, datasets, user_id)
        self.writers = writers
        self.user_id = user_id
        self.first: set[int] = set()
        self.changes_from: dt.datetime | None = None

    async def take_step(self, step: Step) -> None:
        name, number = step
        writer = self.writers[number]
        if name == "export":
            self.first, self.changes_from = await self.take()
        elif name == "insert":
            await writer.execute(INSERT, self.user_id)
        elif name == "begin" and not writer.is_in_transaction():
            await writer.execute("BEGIN")
        elif name == "commit" and writer.is_in_transaction():
            await writer.execute("COMMIT")
        elif name == "roll back" and writer.is_in_transaction():
            await writer.execute("ROLLBACK")

    async def finish(self) -> None:
        """Some of the transactions stay open across the second export, and are in a third one."""
        known = set(self.first)
        since = self.changes_from
        for commits in (False, True):
            if commits:
                for writer in self.writers:
                    await writer.execute("COMMIT" if writer.is_in_transaction() else "SELECT")
            newer, since = await self.take(since)
            known |= newer
            everything, _ = await self.take()
            assert known == everything


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.slow
async def test_no_row_is_lost(
    database: Connection, pool: Pool, datasets: tuple[Dataset, ...], writers: list[Connection], part: int
) -> None:
    histories = generate_histories()
    for steps, user in zip(histories, await database.fetch(ADD_USERS, len(histories)), strict=True):
        history = History(pool, datasets, writers, user["id"])
        for step in steps:
            await history.take_step(step)
        await history.finish()
    assert len(histories) >= HISTORIES


@pytest.fixture
async def preparing_url(tmp_path: Path) -> AsyncIterator[str]:
    """URL of a server that lets transactions be prepared, which takes a restart."""
    server = Postgres(tmp_path / "postgres", tmp_path, password="preparing")
    await server.start()
    try:
        async with connect(server.url) as connection:
            await connection.execute("ALTER SYSTEM SET max_prepared_transactions = 5")
        await server.stop()
        await server.start()
        yield server.url
    finally:
        await server.stop()


async def test_prepared_transactions_are_waited_for(preparing_url: str) -> None:
    async with (
        connect(preparing_url) as writer,
        open_pool(preparing_url, size=1, application_name="reader", own_search_path=True) as reader,
    ):
        await writer.execute("CREATE TABLE public.rows (at timestamptz DEFAULT now())")
        await writer.execute("BEGIN")
        await writer.execute("INSERT INTO public.rows DEFAULT VALUES")
        await writer.execute("PREPARE TRANSACTION 'held'")
        starts = []
        for _ in range(2):
            async with open_dated_snapshot(reader, 10, overlap_seconds=0.5, margin_seconds=0) as snapshot:
                assert await snapshot.connection.fetchval("SELECT count(*) FROM public.rows") == 0
                assert snapshot.changes_from
                starts.append(snapshot.changes_from)
        await writer.execute("COMMIT PREPARED 'held'")
        assert await writer.fetchval("SELECT bool_and(at >= ALL ($1::timestamptz[])) FROM public.rows", starts)
        async with open_dated_snapshot(reader, 10, overlap_seconds=0.5, margin_seconds=0) as snapshot:
            assert snapshot.changes_from
            assert snapshot.changes_from > starts[-1] + dt.timedelta(seconds=0.1)


async def test_role_that_sees_no_others_goes_back_by_the_overlap(database: Connection, resources: Resources) -> None:
    await database.execute("SELECT")  # a session of another role
    before = dt.datetime.now(dt.UTC)
    async with open_dated_snapshot(resources.source, 10, overlap_seconds=3_600) as snapshot:
        assert snapshot.changes_from
        assert before - dt.timedelta(hours=1, minutes=1) < snapshot.changes_from < before - dt.timedelta(minutes=59)
