"""deploy/compose.yaml fits the settings, the commands, the routes and the roles' rights. No Docker is needed."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
import yaml

from devstack.sample import READER
from devstack.stack import Stack
from service.api.app import ROUTES
from service.cli.commands import COMMANDS
from service.settings import Settings, from_env
from tests.deploy.manifests import DEPLOY, ROOT
from tests.deploy.test_image import PROJECT
from tests.deploy.test_manifests import CLOSE_SECONDS, FIELDS
from tests.sql.databases import open_database
from tests.support.processes import open_api, open_worker, run
from tests.test_settings import SECRET
from worker.main import CLEAN_UP_SECONDS

COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("migrate", "api", "worker")
VARIABLE = re.compile(r"\$\{(\w+):\?[^}]+\}")


def environ(service: str) -> dict[str, str]:
    """As Compose gives it to a container, with the variables set that it asks for."""
    given: dict[str, str] = SERVICES[service]["environment"]
    return {name: VARIABLE.sub(SECRET, text) for name, text in given.items()}


def settings(service: str) -> Settings:
    return from_env(environ(service))


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("service", OURS)
def test_settings_are_ours_and_taken(service: str) -> None:
    assert environ(service).keys() <= FIELDS.keys()
    assert settings(service).download_mode == "proxy"


def test_no_secret_of_users_is_in_the_file() -> None:
    for service in OURS:
        for name in ("CARRYOUT_LINK_SECRETS", "CARRYOUT_JWT_SECRET"):
            assert VARIABLE.fullmatch(SERVICES[service]["environment"][name])


@pytest.mark.parametrize("service", OURS)
def test_what_a_url_names_is_a_service(service: str) -> None:
    names = ("database_url", "source_database_url", "redis_url", "s3_endpoint_url", "smtp_url")
    hosts = {urlsplit(getattr(settings(service), name)).hostname for name in names}
    assert hosts == SERVICES.keys() - set(OURS)


def test_commands_exist() -> None:
    assert {SERVICES[service]["command"][0] for service in OURS} <= COMMANDS.keys()


def test_migrating_and_serving_are_roles_of_their_own() -> None:
    assert {service for service in OURS if "CARRYOUT_MIGRATION_DATABASE_URL" in environ(service)} == {"migrate"}
    migrating = settings("migrate")
    owner = urlsplit(migrating.migration_database_url).username
    users = {urlsplit(settings(service).database_url).username for service in OURS}
    sources = {urlsplit(settings(service).source_database_url).username for service in OURS}
    assert len(users) == len(sources) == 1
    assert len(users | sources | {owner}) == 3
    assert {settings(service).schema_owner for service in OURS} == {owner}


@pytest.mark.parametrize("service", ["api", "worker"])
def test_nothing_serves_before_the_migration(service: str) -> None:
    assert SERVICES[service]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert SERVICES["migrate"]["depends_on"]["postgres"] == {"condition": "service_healthy"}
    assert "healthcheck" in SERVICES["postgres"]
    assert SERVICES[service]["depends_on"].keys() <= SERVICES.keys()


@pytest.mark.parametrize("service", ["api", "worker"])
def test_checks_ask_routes_where_they_are(service: str) -> None:
    (url,) = re.findall(r'"(http://[^"]+)"', SERVICES[service]["healthcheck"]["test"][-1])
    assert urlsplit(url).path in {route.path for route in ROUTES}
    port = SERVICES["api"]["command"][-1] if service == "api" else settings("worker").worker_metrics_port
    assert urlsplit(url).port == int(port)


def test_an_end_is_given_its_time() -> None:
    api, worker = settings("api"), settings("worker")
    assert seconds(SERVICES["api"]["stop_grace_period"]) == (
        api.drain_seconds + api.shutdown_grace_seconds + CLOSE_SECONDS
    )
    assert seconds(SERVICES["worker"]["stop_grace_period"]) == (
        worker.worker_grace_seconds + 2 * CLEAN_UP_SECONDS + CLOSE_SECONDS
    )


def test_ports_are_this_machines_alone() -> None:
    for service in SERVICES.values():
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))
    public_port = urlsplit(settings("api").public_url).port
    assert SERVICES["api"]["ports"] == [f"127.0.0.1:{public_port}:{SERVICES['api']['command'][-1]}"]


def test_containers_may_do_little() -> None:
    for service in OURS:
        assert SERVICES[service]["read_only"] is True
        assert SERVICES[service]["cap_drop"] == ["ALL"]
        assert SERVICES[service]["security_opt"] == ["no-new-privileges:true"]
    assert SERVICES["worker"]["tmpfs"] == ["/tmp"]


def test_images_are_versions_that_are_tested() -> None:
    lock = (ROOT / "requirements" / "dev.lock").read_text()
    tags = {name: service["image"].rpartition(":")[2] for name, service in SERVICES.items()}
    assert {tags[service] for service in OURS} == {PROJECT["version"]}
    assert f"\nrclone-bin=={tags['s3']} " in lock
    assert f"\nvalkeylite=={tags['valkey']}." in lock
    assert tags["postgres"] == "18"
    assert all(re.search(r"\d", tag) for tag in tags.values())


def test_the_bucket_is_made_with_the_keys() -> None:
    given = settings("api")
    assert f"/data/{given.s3_bucket} " in SERVICES["s3"]["command"][0]
    assert SERVICES["s3"]["environment"]["RCLONE_AUTH_KEY"] == (
        f'"{given.s3_access_key_id},{given.s3_secret_access_key}"'
    )
    assert f":{urlsplit(given.s3_endpoint_url).port} " in SERVICES["s3"]["command"][0]


def test_volumes_are_named_or_files_here() -> None:
    sources = [volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    for source in sources:
        assert source in COMPOSE["volumes"] or (DEPLOY / source).is_file()
    assert set(COMPOSE["volumes"]) <= set(sources)
    build = SERVICES["api"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


@pytest.fixture
async def initialized_url(stack: Stack) -> AsyncIterator[str]:
    """A database after PostgreSQL's image has run its files; the roles are gone afterwards."""
    async with open_database(stack.admin_url) as url:
        for path in _initializing():
            await _execute(url, path.read_text())
        yield url
        for role in ("carryout_serve", "carryout_migrate"):
            await _execute(url, f"DROP OWNED BY {role} CASCADE")
            await _execute(url, f"DROP ROLE {role}")
        # The server's role, whose password the sample's grants have changed to the compose file's.
        await _execute(url, f"ALTER ROLE {READER} PASSWORD '{stack.reader_password}'")


async def _execute(url: str, sql: str) -> None:
    """In a session of its own, as psql runs a file: what the one before set for the database holds in it."""
    connection = await asyncpg.connect(url)
    await connection.execute(sql)
    await connection.close()


def _initializing() -> list[Path]:
    """In their order; without the rows, which take seconds."""
    files = {}
    for volume in SERVICES["postgres"]["volumes"]:
        source, target, *_ = volume.split(":")
        if target.startswith("/docker-entrypoint-initdb.d/") and not source.endswith("/data.sql"):
            files[target] = DEPLOY / source
    return [files[target] for target in sorted(files)]


async def test_the_roles_rights_suffice(stack: Stack, initialized_url: str, tmp_path: Path) -> None:
    def here(service: str) -> dict[str, str]:
        """Its settings, with the test's servers in the place of the containers."""
        elsewhere = ("CARRYOUT_REDIS_URL", "CARRYOUT_SMTP_URL", *(name for name in FIELDS if "_S3_" in name))
        given = environ(service) | {name: stack.environ[name] for name in elsewhere if name in stack.environ}
        host = urlsplit(initialized_url).netloc.rpartition("@")[2]
        names = ("CARRYOUT_DATABASE_URL", "CARRYOUT_MIGRATION_DATABASE_URL", "CARRYOUT_SOURCE_DATABASE_URL")
        for name in given.keys() & set(names):
            credentials = urlsplit(given[name]).netloc.rpartition("@")[0]
            given[name] = urlsplit(initialized_url)._replace(netloc=f"{credentials}@{host}").geturl()
        return given

    migration = await run(here("migrate"), *SERVICES["migrate"]["command"])
    assert (migration.status, migration.err) == (0, "")
    async with (
        open_api(here("api"), tmp_path) as port,
        open_worker(here("worker"), tmp_path),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client,
    ):
        assert (await client.get("/readyz")).status_code == 200
        connection = await asyncpg.connect(initialized_url)
        user_id = await connection.fetchval(
            "INSERT INTO public.users (email, name, password_hash) VALUES ('a@example.com', 'A', 'x') RETURNING id"
        )
        await connection.close()
        token = (await run(here("api"), "token", str(user_id))).out.strip()
        headers = {"Authorization": f"Bearer {token}", "Prefer": "respond-async"}
        created = await client.post("/api/export", json={"format": "csv"}, headers=headers)
        assert created.status_code == 202, created.text
        view = created.json()
        while view["status"] not in {"completed", "failed"}:
            view = (await client.get(f"/api/export/{view['job_id']}", headers=headers)).json()
        assert view["status"] == "completed", (tmp_path / "worker.log").read_text()
    for name in ("api", "worker"):
        log = (tmp_path / f"{name}.log").read_text()
        assert "permission denied" not in log
