"""Many at once, and every one gets what is theirs alone; and what is theirs to get is decided by the dataset's text."""

import asyncio
import re
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from devstack.stack import Stack
from service.bookkeeping.exports import Export
from service.documents.csv_encoder import CsvEncoder
from service.documents.datasets import load_datasets
from service.errors import ConfigurationError
from service.exports import files
from service.formats import Format
from service.mails.sending import send_due_mails
from service.resources import Resources
from service.settings import Settings
from tests.sql.sources import FORBIDDEN
from tests.support.documents import make_document, read_csv
from tests.support.exports import start_export
from tests.support.factories import CANARY, Connection, create_user
from worker.expiry import expire_files
from worker.running import run_export

USERS = 200
TAG = re.compile(r"tag-\d{4}-tag")
_INSERT_TAGGED = """
WITH tagged AS (
  INSERT INTO public.users (email, name, password_hash)
  SELECT format('tag-%s-tag@%s.example.com', number, $2::text), 'Tag tag-' || number || '-tag', $3
  FROM (SELECT to_char(n, 'FM0000') AS number FROM generate_series(1, $1::int) AS n) AS numbers
  RETURNING id, substr(email, 1, 12) AS tag
), did AS (
  INSERT INTO public.activity (user_id, kind, detail)
  SELECT id, tag, jsonb_build_object('tag', tag) FROM tagged, generate_series(1, 3)
), wrote AS (
  INSERT INTO public.content (user_id, title, body) SELECT id, tag, tag FROM tagged, generate_series(1, 3)
)
SELECT id, tag FROM tagged
"""


async def _export(resources: Resources, user_id: UUID, *, queued: bool) -> Export:
    export = await start_export(resources, user_id, Format.JSON if user_id.int % 2 else Format.CSV, queued=queued)
    if queued:
        await run_export(resources, export.id)
    async with resources.connection() as connection:
        return await files.get_file(resources, connection, export.id)


async def _read(resources: Resources, export: Export) -> str:
    async with resources.storage.open_download(files.key_of(export)) as chunks:
        return b"".join([chunk async for chunk in chunks]).decode()


class TestSideBySide:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        """All wait for a connection, and none in vain."""
        return msgspec.structs.replace(settings, acquire_timeout_seconds=60.0, lease_seconds=120.0)

    async def test_two_hundred(self, resources: Resources, database: Connection, stack: Stack) -> None:
        domain = f"d{database.get_server_pid()}"
        owners = {row["id"]: row["tag"] for row in await database.fetch(_INSERT_TAGGED, USERS, domain, CANARY)}
        assert len(set(owners.values())) == USERS
        exports = await asyncio.gather(
            *(_export(resources, user_id, queued=number % 2 == 0) for number, user_id in enumerate(owners))
        )
        assert len({export.file_url for export in exports}) == USERS
        for export in exports:
            document = await _read(resources, export)
            assert set(TAG.findall(document)) == {owners[export.user_id]}
            assert CANARY not in document
        while await send_due_mails(resources, limit=25):
            pass
        mails = [mail for mail in self._mails(stack) if f"@{domain}." in mail]
        assert len(mails) == USERS // 2
        jobs = {str(export.id): owners[export.user_id] for export in exports}
        for mail in mails:
            named = {job for job in jobs if job in mail}
            assert {jobs[job] for job in named} == set(TAG.findall(mail))
            assert len(named) == 1

    @staticmethod
    def _mails(stack: Stack) -> list[str]:
        """With their envelopes, and their lines unfolded."""
        assert stack.mail_sink
        return [path.read_text().replace("=\n", "") for path in stack.mail_sink.mails()]


class TestDatasets:
    """A column that the application adds later isn't exported before an operator writes it into a dataset."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "profile.sql").write_text("SELECT id, email, called FROM public.people WHERE id = $1")
        return tmp_path

    @pytest.fixture(autouse=True)
    async def _view(self, database: Connection) -> None:
        await database.execute("CREATE VIEW public.people AS SELECT id, email, name AS called FROM public.users")

    async def test_a_new_column_stays_where_it_is(self, resources: Resources, database: Connection) -> None:
        user_id = await create_user(database)
        before = await make_document(resources.source, resources.datasets, user_id, CsvEncoder())
        await database.execute(f"ALTER TABLE public.users ADD COLUMN national_id text DEFAULT '{CANARY}'")
        after = await make_document(resources.source, resources.datasets, user_id, CsvEncoder())
        assert read_csv(after.decode()) == read_csv(before.decode())

    async def test_a_view_that_grows_gives_no_more(self, database: Connection, folder: Path) -> None:
        await database.execute(
            "CREATE OR REPLACE VIEW public.people AS SELECT id, email, name AS called, password_hash FROM public.users"
        )
        (profile,) = await load_datasets(database, folder, user_id_type="uuid", forbidden=FORBIDDEN)
        assert [column.name for column in profile.columns] == ["id", "email", "called"]

    async def test_a_view_that_gives_a_secret_another_name_is_refused_at_the_next_start(
        self, database: Connection, folder: Path
    ) -> None:
        await load_datasets(database, folder, user_id_type="uuid", forbidden=FORBIDDEN)
        await database.execute(
            "CREATE OR REPLACE VIEW public.people AS SELECT id, email, password_hash AS called FROM public.users"
        )
        with pytest.raises(ConfigurationError, match="it reads password_hash, which is forbidden"):
            await load_datasets(database, folder, user_id_type="uuid", forbidden=FORBIDDEN)

    async def test_a_column_that_becomes_forbidden_is_refused_at_the_next_start(
        self, database: Connection, folder: Path
    ) -> None:
        await database.execute("ALTER TABLE public.users RENAME COLUMN name TO name_secret")
        with pytest.raises(ConfigurationError, match="it reads name_secret, which is forbidden"):
            await load_datasets(database, folder, user_id_type="uuid", forbidden=FORBIDDEN)


class TestExpiry:
    async def test_bytes_are_gone_with_the_first_repair_after_the_end(
        self, resources: Resources, database: Connection
    ) -> None:
        export = await _export(resources, await create_user(database), queued=False)
        await database.execute("UPDATE carryout.export_jobs SET expires_at = now() + interval '1 hour'")
        await expire_files(resources)
        assert await self._keys(resources, export) == {files.key_of(export)}
        await database.execute("UPDATE carryout.export_jobs SET expires_at = now()")
        await expire_files(resources)
        assert await self._keys(resources, export) == set()

    @staticmethod
    async def _keys(resources: Resources, export: Export) -> set[str]:
        return {key async for page in resources.storage.list_keys(f"exports/{export.id}/") for key in page}
