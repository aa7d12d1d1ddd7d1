"""The operators' commands, run as they run them."""

import datetime as dt
import re
import tracemalloc
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from devstack.stack import Stack
from service.access.api_keys import KeyRepository
from service.bookkeeping.audit import Actor, AuditAction, AuditFilter, AuditLog
from tests.sql.databases import database_environ
from tests.support import processes
from tests.support.factories import Connection, list_actions
from tests.support.processes import Ended, Run

USER = uuid4()
JOB = uuid4()


@pytest.fixture
def environ(stack: Stack, database_url: str) -> dict[str, str]:
    urls = database_environ(stack, database_url) | {"CARRYOUT_PUBLIC_URL": "http://127.0.0.1:8000"}
    return stack.environ | urls


@pytest.fixture
def run(environ: dict[str, str]) -> Run:
    async def ended(*arguments: str, **settings: str) -> Ended:
        return await processes.run(environ | settings, *arguments)

    return ended


@pytest.fixture
async def trail(database: Connection) -> None:
    """Four events: two about USER, two of the system, the first of them two days old."""
    log = AuditLog()
    user = Actor("user", str(USER), ip="192.0.2.7", user_agent="\x1b[2J\x9b2J\x7fcurl", request_id="r1")
    await database.execute(
        "INSERT INTO carryout.export_audit (occurred_at, actor_type, action) "
        "VALUES (now() - interval '2 days', 'system', 'export:expired')"
    )
    await log.record(database, user, AuditAction.REQUESTED, user_id=USER, job_id=JOB, format_="csv", records=7)
    await log.record(database, user, AuditAction.DOWNLOADED, user_id=USER, job_id=uuid4(), outcome="redirected")
    await log.record(database, Actor("system"), AuditAction.FEATURE_CHANGED, subject="users:export", outcome="disabled")


class TestKeys:
    async def test_life_of_a_key(self, run: Run, database: Connection) -> None:
        created = await run("keys", "create", "nightly", "--scope", "users:export", "--expires-in-days", "30")
        assert created.status == 0
        text = created.out.strip()
        assert "it can't be shown again" in created.err
        (key,) = await KeyRepository().list_all(database)
        assert key.matches(text)
        assert key.expires_at is not None
        assert (key.expires_at - key.created_at).days == 30

        header, row = (await run("keys", "list")).table
        assert header == ["prefix", "name", "state", "scopes", "created", "expires", "last used"]
        assert row[:4] == [text.split("_")[1], "nightly", "active", "users:export"]
        assert row[6] == "-"

        revoked = await run("keys", "revoke", "nightly")
        assert (revoked.status, revoked.out) == (0, f"revoked nightly ({key.prefix})\n")
        assert (await run("keys", "list")).table[1][2] == "revoked"
        assert await list_actions(database) == ["keys:created", "keys:revoked"]

    async def test_a_new_key_is_audited_with_its_maker(self, run: Run) -> None:
        created = await run("keys", "create", "nightly job", "--scope", "users:export")
        event = msgspec.json.decode((await run("audit", "--json")).out)
        assert (event["actor_type"], event["actor"], event["action"]) == ("system", None, "keys:created")
        assert event["subject"] == f"{created.out.split('_')[1]} nightly job"
        assert re.fullmatch(r"carryout \(.+\)", event["user_agent"])

    async def test_json_lines(self, run: Run) -> None:
        assert (await run("keys", "list", "--json")).out == ""
        created = await run("keys", "create", "nightly", "--scope", "users:export")
        (line,) = (await run("keys", "list", "--json")).out.splitlines()
        key = msgspec.json.decode(line)
        assert key.pop("created_at").endswith("Z")
        assert key == {
            "prefix": created.out.split("_")[1],
            "name": "nightly",
            "state": "active",
            "scopes": ["users:export"],
            "expires_at": None,
            "last_used_at": None,
        }

    async def test_both_scopes(self, run: Run) -> None:
        await run("keys", "create", "both", "--scope", "users:export", "--scope", "users:export_full")
        assert (await run("keys", "list")).table[1][3] == "users:export,users:export_full"

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("create", "x"), "Missing option '--scope'"),
            (("create", "x", "--scope", "users:all"), "'users:all' is not one of 'users:export', 'users:export_full'"),
            (("create", "x", "--scope", "users:export", "--expires-in-days", "0"), "0 is not in the range 1<=x<=3650"),
            (("create", "", "--scope", "users:export"), "a key's name must be 1 to 100 printable characters"),
            (("create", "a\nb", "--scope", "users:export"), "a key's name must be 1 to 100 printable characters"),
        ],
    )
    async def test_wrong_arguments(
        self, run: Run, database: Connection, arguments: tuple[str, ...], sentence: str
    ) -> None:
        refused = await run("keys", *arguments)
        assert refused.status == 2
        assert sentence in refused.err
        assert await list_actions(database) == []

    async def test_names_in_use_and_unknown_ones(self, run: Run) -> None:
        await run("keys", "create", "nightly", "--scope", "users:export")
        twice = await run("keys", "create", "nightly", "--scope", "users:export")
        assert (twice.status, twice.out, twice.err) == (1, "", "carryout: There is a key called nightly already\n")
        unknown = await run("keys", "revoke", "weekly")
        assert (unknown.status, unknown.err) == (1, "carryout: There is no unrevoked key called weekly\n")


class TestFeatures:
    async def test_switching(self, run: Run, database: Connection) -> None:
        assert (await run("features", "disable", "users:export_full")).out == "disabled users:export_full\n"
        assert (await run("features", "enable", "users:export")).out == "enabled users:export\n"
        listed = await run("features", "list", CARRYOUT_FEATURES="-users:export_alive")
        assert listed.table == [
            ["name", "state", "source"],
            ["users:export", "on", "switched"],
            ["users:export_full", "off", "switched"],
            ["users:export_alive", "off", "default"],
            ["users:export_simple", "on", "default"],
            ["requests:desk", "on", "default"],
            ["lists:activity", "on", "default"],
            ["lists:users", "on", "default"],
        ]
        assert await list_actions(database) == ["features:changed", "features:changed"]

        lines = (await run("features", "list", "--json")).out.splitlines()
        assert [msgspec.json.decode(line) for line in lines][1:3] == [
            {"name": "users:export_full", "state": "off", "source": "switched"},
            {"name": "users:export_alive", "state": "on", "source": "default"},
        ]

    async def test_flags_and_scopes_of_lists(self, run: Run, database: Connection, tmp_path: Path) -> None:
        (tmp_path / "orders_2.sql").write_text("")
        lists = {"CARRYOUT_LISTS_DIR": str(tmp_path)}
        assert (await run("features", "disable", "lists:orders_2", **lists)).out == "disabled lists:orders_2\n"
        listed = await run("features", "list", CARRYOUT_FEATURES="lists:orders_2", **lists)
        assert listed.table[-2:] == [["requests:desk", "off", "default"], ["lists:orders_2", "off", "switched"]]
        assert (await run("keys", "create", "nightly", "--scope", "lists:orders_2", **lists)).status == 0
        assert await database.fetchval("SELECT scopes FROM carryout.api_keys") == ["lists:orders_2"]
        for command in (("features", "enable"), ("keys", "create", "weekly", "--scope")):
            unknown = await run(*command, "lists:orders", **lists)
            assert (unknown.status, unknown.err) == (
                1,
                "carryout: No list goes with lists:orders: CARRYOUT_LISTS_DIR has lists:orders_2\n",
            )

    async def test_unknown_names(self, run: Run, database: Connection) -> None:
        refused = await run("features", "enable", "users:everything")
        assert refused.status == 2
        assert "'users:everything' is not one of 'users:export'" in refused.err
        setting = await run("features", "list", CARRYOUT_FEATURES="users:everything")
        assert setting.status == 2
        assert setting.err.startswith(
            "carryout: CARRYOUT_FEATURES: users:everything is not a feature flag; choose from "
        )
        assert await list_actions(database) == []


@pytest.mark.usefixtures("trail")
class TestAudit:
    async def test_table(self, run: Run) -> None:
        header, *rows = (await run("audit")).table
        assert header == ["time", "actor", "action", "subject", "user", "job", "records", "outcome", "ip"]
        assert [row[2] for row in rows] == [
            "export:expired",
            "export:requested",
            "export:downloaded",
            "features:changed",
        ]
        assert rows[1][1:] == [
            f"user {USER}",
            "export:requested",
            "-",
            str(USER),
            str(JOB),
            "7",
            "-",
            "192.0.2.7",
        ]
        assert rows[3][1:] == ["system", "features:changed", "users:export", "-", "-", "-", "disabled", "-"]

    async def test_json_lines(self, run: Run) -> None:
        ended = await run("audit", "--json", "--job", str(JOB))
        event = msgspec.json.decode(ended.out)
        assert ended.out.count("\n") == 1
        assert not set("\x1b\x7f\x9b") & set(ended.out)
        assert event.pop("occurred_at").endswith("Z")
        assert event.pop("id") == 2
        assert event == {
            "actor_type": "user",
            "actor": str(USER),
            "action": "export:requested",
            "subject": None,
            "user_id": str(USER),
            "job_id": str(JOB),
            "format": "csv",
            "records": 7,
            "outcome": None,
            "ip": "192.0.2.7",
            "user_agent": "\x1b[2J\x9b2J\x7fcurl",
            "request_id": "r1",
        }

    @pytest.mark.slow
    async def test_a_long_trail_is_never_in_memory_as_a_whole(self, database: Connection) -> None:
        await database.execute(
            """INSERT INTO carryout.export_audit (actor_type, action, user_agent)
            SELECT 'system', 'export:expired', repeat('x', 300) FROM generate_series(1, 30000)"""
        )
        tracemalloc.start()
        ids = [event.id async for event in AuditLog().iterate_latest(database, AuditFilter(limit=30_000))]
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert ids == sorted(ids)
        assert len(ids) == 30_000
        assert peak_bytes < 10 * 1024 * 1024  # all of them are 50 MB

    @pytest.mark.parametrize(
        ("arguments", "actions"),
        [
            (("--user", str(USER)), ["export:requested", "export:downloaded"]),
            (("--user", str(uuid4())), []),
            (("--action", "features:changed"), ["features:changed"]),
            (("--request", "r1"), ["export:requested", "export:downloaded"]),
            (("--request", "r2"), []),
            (("--since", "24h"), ["export:requested", "export:downloaded", "features:changed"]),
            (("--since", "3d", "--limit", "2"), ["export:downloaded", "features:changed"]),
            (("--since", "3d", "--user", str(USER), "--limit", "1"), ["export:downloaded"]),
        ],
    )
    async def test_filters(self, run: Run, arguments: tuple[str, ...], actions: list[str]) -> None:
        ended = await run("audit", "--json", *arguments)
        assert [msgspec.json.decode(line)["action"] for line in ended.out.splitlines()] == actions

    @pytest.mark.parametrize(
        ("arguments", "status", "sentence"),
        [
            (("--user", "ada"), 1, "carryout: Not a user id of type uuid"),
            (("--job", "1"), 2, "'1' is not a valid UUID"),
            (("--action", "export:all"), 2, "'export:all' is not one of"),
            (("--since", "yesterday"), 2, "give a number with the unit s, m, h or d, for example 24h"),
            (("--limit", "0"), 2, "0 is not in the range x>=1"),
        ],
    )
    async def test_wrong_arguments(self, run: Run, arguments: tuple[str, ...], status: int, sentence: str) -> None:
        ended = await run("audit", *arguments)
        assert ended.status == status
        assert sentence in ended.err


class TestSettings:
    async def test_from_a_file(self, run: Run, environ: dict[str, str], tmp_path: Path) -> None:
        file = tmp_path / "env"
        file.write_text("".join(f"{name}={text}\n" for name, text in environ.items()))
        environ.clear()
        assert (await run("keys", "list", "--env-file", str(file))).table == [
            ["prefix", "name", "state", "scopes", "created", "expires", "last used"]
        ]

    async def test_a_database_without_the_schema(self, run: Run, stack: Stack) -> None:
        url = stack.admin_url
        refused = await run("keys", "create", "x", "--scope", "users:export", CARRYOUT_DATABASE_URL=url)
        assert (refused.status, refused.out) == (2, "")
        assert refused.err.endswith("run `carryout migrate`\n")


class TestPurge:
    async def test_deletes_what_is_older_and_says_who_did(self, run: Run, database: Connection) -> None:
        old = "INSERT INTO carryout.export_audit (actor_type, action, occurred_at) VALUES ('system', 'test:old', $1)"
        await database.execute(old, dt.datetime.now(dt.UTC) - dt.timedelta(days=60))
        for options, said in (
            (("--older-than", "61d"), "deleted 0 exports and 0 events\n"),
            (("--older-than", "40d", "--dry-run"), "would delete 0 exports and 1 events\n"),
            (("--older-than", "40d"), "deleted 0 exports and 1 events\n"),
        ):
            ended = await run("purge", *options)
            assert (ended.status, ended.out, ended.err) == (0, said, "")
        event = msgspec.json.decode((await run("audit", "--json")).out)
        assert (event["action"], event["subject"], event["records"]) == ("retention:purged", "events", 1)
        assert event["outcome"].startswith("before ")
        assert re.fullmatch(r"carryout \(.+\)", event["user_agent"])

    async def test_period_of_the_setting(self, run: Run) -> None:
        ended = await run("purge", CARRYOUT_RETENTION_SECONDS="2592000")
        assert (ended.status, ended.out) == (0, "deleted 0 exports and 0 events\n")

    async def test_no_period_and_one_too_short(self, run: Run) -> None:
        missing = await run("purge")
        assert missing.status == 2
        assert "use --older-than, or set CARRYOUT_RETENTION_SECONDS" in missing.err
        short = await run("purge", "--older-than", "29d")
        assert short.status == 2
        assert "--older-than must be at least 30d" in short.err
