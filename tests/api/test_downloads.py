"""The link and what it gives."""

import asyncio
import hashlib
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx
import msgspec
import pytest

from service import exporting
from service.api.app import create_app
from service.bootstrap import Resources, open_resources
from service.settings import Settings
from tests.api.conftest import ASYNC, JSON, UNKNOWN_ID, Create
from tests.api.problems import bearer, read_problem
from tests.api.serving import serve
from tests.conftest import PUBLIC_URL, Token, patient_client
from tests.factories import Connection, create_user, list_actions, list_audit, refuse_audit

OTHER_SECRET = "another secret for links, long enough"
HOSTILE = {
    "Host": "evil.example",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "gopher",
    "X-Forwarded-Prefix": "/evil",
    "Forwarded": "host=evil.example;proto=gopher",
}
TAMPERINGS = [
    ("expires=1", "expires=2"),
    ("expires=1", "expires=01"),
    ("expires=", "expired="),
    ("signature=", "signature=A"),
    ("signature=", "signature=%00"),
    ("signature=", "signature=&x="),
    ("/download", "/download/"),
]
RANGES = [
    ("bytes=0-99", slice(0, 100)),
    ("bytes=0-0", slice(0, 1)),
    ("bytes=100-199", slice(100, 200)),
    ("bytes=100-", slice(100, None)),
    ("bytes=-50", slice(-50, None)),
    ("bytes=-999999", slice(0, None)),
    ("bytes=100-999999", slice(100, None)),
]
IGNORED_RANGES = ["bytes=5-2", "bytes=0-1,5-6", "items=0-1", "bytes=a-b", "bytes=0-1x"]


class File(NamedTuple):
    """A completed export: `link` is the signed path, `path` that of the export; the facts are those of its view."""

    user_id: UUID
    job_id: str
    path: str
    link: str
    sha256: str
    size_bytes: int


@pytest.fixture
async def file(api: httpx.AsyncClient, create: Create, database: Connection, token: Token) -> File:
    user_id = await create_user(database, activity=20, content=20)
    path = (await create(user_id)).headers["location"]
    view = (await api.get(path, headers=bearer(token(user_id)))).json()
    link = view["download_url"].removeprefix(PUBLIC_URL)
    return File(user_id, view["job_id"], path, link, view["sha256"], view["size_bytes"])


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class TestRedirect:
    async def test_link_needs_no_credentials(self, api: httpx.AsyncClient, file: File) -> None:
        redirect = await api.get(file.link)
        assert (redirect.status_code, redirect.content) == (302, b"")
        assert redirect.headers["cache-control"] == "private, no-store"
        assert redirect.headers["referrer-policy"] == "no-referrer"
        async with httpx.AsyncClient(trust_env=False) as plain:
            answer = await plain.get(redirect.headers["location"])
        assert answer.status_code == 200
        assert (sha256(answer.content), len(answer.content)) == (file.sha256, file.size_bytes)
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert answer.headers["content-disposition"].startswith('attachment; filename="export-')

    async def test_url_is_minted_for_each_click(self, api: httpx.AsyncClient, file: File, resources: Resources) -> None:
        location = urlsplit((await api.get(file.link)).headers["location"])
        query = parse_qs(location.query)
        assert int(query["X-Amz-Expires"][0]) <= 300
        assert f"{location.scheme}://{location.netloc}" == resources.settings.s3_public_url
        assert (await api.get(file.link)).status_code == 302

    async def test_a_click_at_the_end_is_in_time(
        self, api: httpx.AsyncClient, file: File, database: Connection, token: Token
    ) -> None:
        await database.execute("UPDATE carryout.export_jobs SET expires_at = now() + interval '9 seconds'")
        redirect = await api.get(f"{file.path}/download", headers=bearer(token(file.user_id)))
        assert parse_qs(urlsplit(redirect.headers["location"]).query)["X-Amz-Expires"] == ["10"]

    async def test_owner_needs_no_link(self, api: httpx.AsyncClient, file: File, token: Token) -> None:
        redirect = await api.get(f"{file.path}/download", headers=bearer(token(file.user_id)))
        async with httpx.AsyncClient(trust_env=False) as plain:
            answer = await plain.get(redirect.headers["location"])
        assert sha256(answer.content) == file.sha256

    async def test_each_download_is_audited(
        self, api: httpx.AsyncClient, file: File, database: Connection, token: Token
    ) -> None:
        await api.get(file.link)
        await api.get(f"{file.path}/download", headers=bearer(token(file.user_id)))
        *_, by_link, by_owner = await list_audit(database)
        for event in (by_link, by_owner):
            assert (event["action"], event["outcome"]) == ("export:downloaded", "redirected")
            assert (str(event["job_id"]), event["user_id"], event["records"]) == (file.job_id, file.user_id, 41)
        assert (by_link["actor_type"], by_link["actor"]) == ("link", None)
        assert (by_owner["actor_type"], by_owner["actor"]) == ("user", str(file.user_id))

    async def test_head_uses_nothing_up(self, api: httpx.AsyncClient, file: File, database: Connection) -> None:
        before = await list_actions(database)
        for _ in range(3):
            response = await api.head(file.link)
            assert (response.status_code, response.headers["content-length"]) == (200, str(file.size_bytes))
            assert "location" not in response.headers
        assert await list_actions(database) == before
        assert (await api.get(file.link)).status_code == 302

    async def test_no_download_without_its_event(
        self, api: httpx.AsyncClient, file: File, database: Connection
    ) -> None:
        await refuse_audit(database, "export:downloaded")
        response = await api.get(file.link)
        read_problem(response, 500)
        assert "location" not in response.headers


class TestLink:
    async def test_only_the_very_text_works(self, api: httpx.AsyncClient, file: File) -> None:
        for old, new in TAMPERINGS:
            assert old in file.link
            tampered = await api.get(file.link.replace(old, new, 1))
            assert tampered.status_code in {401, 404}, new
            read_problem(tampered, tampered.status_code)

    async def test_opens_no_other_file(
        self, api: httpx.AsyncClient, file: File, create: Create, database: Connection
    ) -> None:
        other = (await create(await create_user(database))).json()["job_id"]
        for job_id in (other, str(UNKNOWN_ID)):
            read_problem(await api.get(file.link.replace(file.job_id, job_id)), 404)

    async def test_a_wrong_one_is_audited_once_a_minute(
        self, api: httpx.AsyncClient, file: File, database: Connection
    ) -> None:
        for _ in range(2):
            wrong = [api.get(file.link.replace("signature=", f"signature={number}")) for number in range(5)]
            for response in await asyncio.gather(*wrong):
                read_problem(response, 404)
            await database.execute("UPDATE carryout.export_jobs SET link_denied_at = now() - interval '1 minute'")
        denied = [event for event in await list_audit(database) if event["action"] == "export:denied"]
        assert [(event["actor_type"], str(event["job_id"]), event["user_id"]) for event in denied] == [
            ("link", file.job_id, file.user_id)
        ] * 2

    async def test_what_mail_gateways_add_is_ignored(self, api: httpx.AsyncClient, file: File) -> None:
        assert (await api.get(f"{file.link}&utm_source=mail")).status_code == 302

    async def test_a_signed_in_stranger_may_follow_it(self, api: httpx.AsyncClient, file: File, token: Token) -> None:
        assert (await api.get(file.link, headers=bearer(token(UNKNOWN_ID)))).status_code == 302

    async def test_ends_to_the_second(self, file: File, database: Connection) -> None:
        expires_at = await database.fetchval(
            "SELECT floor(extract(epoch FROM expires_at))::bigint FROM carryout.export_jobs"
        )
        assert parse_qs(urlsplit(file.link).query)["expires"] == [str(expires_at)]

    @pytest.mark.parametrize(("secrets", "status"), [((OTHER_SECRET,), 404), ((OTHER_SECRET, "old"), 302)])
    async def test_secrets_rotate(self, file: File, settings: Settings, secrets: tuple[str, ...], status: int) -> None:
        given = tuple(settings.link_secrets[0] if secret == "old" else secret for secret in secrets)
        rotated = msgspec.structs.replace(settings, link_secrets=given)
        async with (
            open_resources(rotated) as resources,
            serve(create_app(resources)) as served,
            patient_client(served) as client,
        ):
            assert (await client.get(file.link)).status_code == status


class TestExpiry:
    """By the database's clock, whatever the link says."""

    async def test_works_until_then(self, api: httpx.AsyncClient, file: File, database: Connection) -> None:
        await database.execute("UPDATE carryout.export_jobs SET expires_at = now() + interval '1 minute'")
        assert (await api.get(file.link)).status_code == 302

    @pytest.mark.parametrize("after", ["0 seconds", "1 second", "7 days"])
    async def test_is_gone_from_then_on(
        self, api: httpx.AsyncClient, file: File, database: Connection, token: Token, after: str
    ) -> None:
        await database.execute("UPDATE carryout.export_jobs SET expires_at = now() - $1::text::interval", after)
        before = await list_actions(database)
        for path, headers in ((file.link, {}), (f"{file.path}/download", bearer(token(file.user_id)))):
            read_problem(await api.get(path, headers=headers), 410)
            assert (await api.head(path, headers=headers)).status_code == 410
        assert await list_actions(database) == before

    async def test_to_the_instant(self, file: File, database: Connection, resources: Resources) -> None:
        """`now()` stands still in a transaction: the very instant of expiry, and the microsecond before it."""
        async with database.transaction():
            await database.execute("UPDATE carryout.export_jobs SET expires_at = now() + interval '1 microsecond'")
            earlier = await resources.exports.find(database, UUID(file.job_id))
            await database.execute("UPDATE carryout.export_jobs SET expires_at = now()")
            later = await resources.exports.find(database, UUID(file.job_id))
        assert earlier is not None
        assert later is not None
        assert (earlier.expired, later.expired) == (False, True)


class TestNotReady:
    async def test_running_one_has_no_file(
        self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token
    ) -> None:
        user_id = await create_user(database)
        path = (await create(user_id, headers=ASYNC)).headers["location"]
        problem = read_problem(await api.get(f"{path}/download", headers=bearer(token(user_id))), 409, "export_status")
        assert problem["export_status"] == "pending"


class TestHostileHeaders:
    async def test_links_keep_the_configured_base(
        self, api: httpx.AsyncClient, create: Create, database: Connection, token: Token
    ) -> None:
        user_id = await create_user(database)
        headers = HOSTILE | bearer(token(user_id))
        created = await create(user_id, JSON, HOSTILE)
        shown = await api.get(created.headers["location"], headers=headers)
        listed = await api.get("/api/export", headers=headers)
        link = created.json()["download_url"]
        assert link.startswith(f"{PUBLIC_URL}/api/export/")
        assert shown.json()["download_url"] == listed.json()["exports"][0]["download_url"] == link
        redirect = await api.get(link.removeprefix(PUBLIC_URL), headers=HOSTILE)
        for response in (created, shown, listed, redirect):
            assert "evil" not in response.text + str(response.headers)
            assert "gopher" not in response.text + str(response.headers)


class TestProxy:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, download_mode="proxy")

    @pytest.fixture
    async def whole(self, api: httpx.AsyncClient, file: File) -> httpx.Response:
        return await api.get(file.link)

    async def test_whole(self, whole: httpx.Response, file: File) -> None:
        assert (whole.status_code, sha256(whole.content)) == (200, file.sha256)
        assert whole.headers["content-length"] == str(file.size_bytes)
        assert whole.headers["content-type"] == "text/csv; charset=utf-8"
        assert whole.headers["content-disposition"].startswith('attachment; filename="export-')
        assert whole.headers["cache-control"] == "private, no-store"
        assert whole.headers["x-content-type-options"] == "nosniff"
        assert whole.headers["accept-ranges"] == "bytes"

    async def test_ranges(self, api: httpx.AsyncClient, file: File, whole: httpx.Response) -> None:
        for asked, expected in RANGES:
            response = await api.get(file.link, headers={"Range": asked})
            start, stop, _ = expected.indices(file.size_bytes)
            assert (response.status_code, response.content) == (206, whole.content[expected]), asked
            assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{file.size_bytes}"
            assert response.headers["content-length"] == str(stop - start)
            assert response.headers["cache-control"] == "private, no-store"

    async def test_ranges_it_need_not_know_are_ignored(self, api: httpx.AsyncClient, file: File) -> None:
        for asked in IGNORED_RANGES:
            response = await api.get(file.link, headers={"Range": asked})
            assert (response.status_code, sha256(response.content)) == (200, file.sha256), asked

    async def test_a_range_outside(self, api: httpx.AsyncClient, file: File, database: Connection) -> None:
        before = await list_actions(database)
        for asked in (f"bytes={file.size_bytes}-", "bytes=-0"):
            response = await api.get(file.link, headers={"Range": asked})
            read_problem(response, 416)
            assert response.headers["content-range"] == f"bytes */{file.size_bytes}"
        assert await list_actions(database) == before

    async def test_if_range(self, api: httpx.AsyncClient, file: File, whole: httpx.Response) -> None:
        same = await api.get(file.link, headers={"Range": "bytes=0-9", "If-Range": whole.headers["etag"]})
        other = await api.get(file.link, headers={"Range": "bytes=0-9", "If-Range": '"other"'})
        assert (same.status_code, len(same.content)) == (206, 10)
        assert (other.status_code, sha256(other.content)) == (200, file.sha256)

    async def test_head_uses_nothing_up(self, api: httpx.AsyncClient, file: File, database: Connection) -> None:
        before = await list_actions(database)
        response = await api.head(file.link)
        assert (response.status_code, response.headers["content-length"]) == (200, str(file.size_bytes))
        assert await list_actions(database) == before

    async def test_each_download_is_audited(self, api: httpx.AsyncClient, file: File, database: Connection) -> None:
        await api.get(file.link)
        await api.get(file.link, headers={"Range": "bytes=0-9"})
        outcomes = [event["outcome"] for event in await list_audit(database) if event["action"] == "export:downloaded"]
        assert outcomes == ["proxied", "bytes 0-9"]

    async def test_no_download_without_its_event(
        self, api: httpx.AsyncClient, file: File, database: Connection
    ) -> None:
        await refuse_audit(database, "export:downloaded")
        read_problem(await api.get(file.link), 500)

    async def test_what_the_storage_has_not_is_no_download(
        self, api: httpx.AsyncClient, file: File, resources: Resources, database: Connection
    ) -> None:
        async with exporting.open_connection(resources) as connection:
            export = await exporting.get_file(resources, connection, UUID(file.job_id))
        await resources.storage.delete(exporting.key_of(export))
        before = await list_actions(database)
        read_problem(await api.get(file.link), 410)
        assert await list_actions(database) == before
