"""From the proposal `-- file:` of `init` to a package that has the file."""

import io
import zipfile
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest

from service.backends.s3 import open_client
from service.file_stores import FileStore
from service.resources import Resources
from service.settings import Settings
from tests.api.problems import bearer
from tests.conftest import PUBLIC_URL, Token, on_database
from tests.onboarding.conftest import Application
from tests.support.factories import Connection, create_user
from worker.running import run_export

SCAN = bytes(range(256)) * 300
PROPOSAL = "-- -- file: storage_key from uploads as filename"


@pytest.fixture
def prefix() -> str:
    return f"scans-{uuid4().hex}/"


@pytest.fixture
async def settings(
    common_settings: Settings, database_url: str, database: Connection, tmp_path: Path, prefix: str
) -> Settings:
    """The datasets are those of `init`, with its proposal taken as it stands."""
    await database.execute(
        "CREATE TABLE public.scans (id bigint PRIMARY KEY, user_id uuid NOT NULL REFERENCES public.users (id),"
        " storage_key text NOT NULL, filename text NOT NULL)"
    )
    application = Application(database_url, database, tmp_path / "datasets")
    await application.initialize()
    application.replace("scans.sql", PROPOSAL, PROPOSAL.removeprefix("-- "))
    application.replace(
        "scans.sql", "-- storage_key,  -- undecided: may be written by staff, or work as a key", "storage_key,"
    )
    return msgspec.structs.replace(
        on_database(common_settings, database_url),
        source_database_url=database_url,
        datasets_dir=str(application.directory),
        file_stores=(FileStore(name="uploads", bucket="carryout", prefix=prefix, endpoint_url=""),),
    )


async def test_a_package_has_the_file(
    api: httpx.AsyncClient, token: Token, database: Connection, resources: Resources, prefix: str
) -> None:
    user_id = await create_user(database)
    await database.execute(
        "INSERT INTO public.scans VALUES (1, $1, $2, 'passport.png')", user_id, f"{prefix}scan-of-ada"
    )
    async with open_client(resources.settings, resources.settings.s3_endpoint_url, name="") as s3:
        await s3.put_object(Bucket="carryout", Key=f"{prefix}scan-of-ada", Body=SCAN)
    user = bearer(token(user_id))
    accepted = await api.post("/api/export", json={"format": "zip"}, headers=user)

    await run_export(resources, UUID(accepted.json()["job_id"]))

    shown = (await api.get(accepted.headers["location"], headers=user)).json()
    assert shown["files"] == {"included": 1, "missing": 0}
    file = await api.get(shown["download_url"].removeprefix(PUBLIC_URL), follow_redirects=True)
    with zipfile.ZipFile(io.BytesIO(file.content)) as archive:
        assert archive.read("files/scans/1-passport.png") == SCAN
