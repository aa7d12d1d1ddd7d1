"""The documentation's steps about the trail, the logs and the roles work as they are written."""

import re
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import pytest
from structlog.testing import capture_logs

from devstack.stack import Stack
from service.backends.database import check_schema, connect
from tests.sql.databases import owner_url, serving_url
from tests.support.factories import Connection

ROOT = Path(__file__).parent.parent
GDPR = (ROOT / "docs" / "gdpr.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
EVENT = "INSERT INTO carryout.export_audit (actor_type, action, user_id) VALUES ('system', 'export:expired', $1)"
ENDED_FILE = """
INSERT INTO carryout.export_jobs (user_id, format, queued, estimated_records, status, completed_at, file_url,
  size_bytes, sha256, record_count, expires_at)
VALUES (gen_random_uuid(), 'csv', true, 1, 'completed', now(), 's3://EARLIER-BUCKET/key', 1, sha256(''), 1, now())
"""


def sql_in(page: str) -> str:
    """Its only block of SQL."""
    (block,) = re.findall(r"^ *```sql\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)
    return str(block)


async def test_deleting_a_users_rows_is_the_owners(stack: Stack, database: Connection, database_url: str) -> None:
    users = [uuid4(), uuid4()]
    for user_id in users:
        await database.execute(EVENT, user_id)
    deletion = sql_in(GDPR).replace("'ID'", f"'{users[0]}'")
    async with connect(serving_url(stack, database_url)) as serving:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for table export_audit"):
            await serving.execute(deletion)
    assert await database.fetchval("SELECT count(*) FROM carryout.export_audit") == 2

    async with connect(owner_url(stack, database_url)) as owner:
        await owner.execute(deletion)
        await check_schema(owner, user_id_type="uuid")

    assert await database.fetchval("SELECT user_id FROM carryout.export_audit") == users[1]


async def test_files_of_an_earlier_bucket_are_the_serving_roles_to_tick_off(
    stack: Stack, database: Connection, database_url: str
) -> None:
    await database.execute(ENDED_FILE)
    async with connect(serving_url(stack, database_url)) as serving:
        await serving.execute(sql_in(OPERATIONS))
    assert await database.fetchval("SELECT file_deleted_at IS NOT NULL FROM carryout.export_jobs")
    assert await database.fetchval("SELECT count(*) FROM carryout.export_audit WHERE action = 'export:expired'") == 1


@pytest.mark.parametrize(("page", "start"), [("docs/gdpr.md", "| logs |"), ("README.md", "start with one sentence")])
async def test_logs_hold_the_address_that_the_pages_name(api: httpx.AsyncClient, page: str, start: str) -> None:
    with capture_logs() as lines:
        await api.get("/livez")
    (line,) = [line for line in lines if line["event"] == "request"]
    said = (ROOT / page).read_text().partition(start)[2].partition("\n\n")[0]
    assert line["client_ip"] == "127.0.0.1"
    assert "IP address" in said
