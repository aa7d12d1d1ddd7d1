"""The link and what it gives."""

import asyncio
import base64
import datetime as dt
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from email.utils import format_datetime, parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx
import msgspec
import pytest

from service.api.http import permitted
from service.exports import cancellation, files
from service.resources import Resources
from service.settings import Settings
from tests.api.conftest import ASYNC, JSON, UNKNOWN_ID, Create
from tests.api.problems import bearer, read_problem
from tests.conftest import PUBLIC_URL, Token, open_client
from tests.support.factories import Connection, create_user, list_actions, list_audit, refuse_audit

OTHER_SECRET = "another secret for links, long enough"
HOSTILE = {
    "Host": "evildoers.example",
    "X-Forwarded-Host": "evildoers.example",
    "X-Forwarded-Proto": "gopher",
    "X-Forwarded-Prefix": "/evildoers",
    "Forwarded": "host=evildoers.example;proto=gopher",
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
EXCHANGES = [lambda old: b"X" + old[1:], lambda old: old[:-1] + b"X", lambda old: old[1:], lambda old: old + b"X"]
# By their names, and the answers; TAG, TIME, EARLIER and LATER stand for the file's.
CONDITIONS = [
    ({"If-None-Match": "TAG"}, 304),
    ({"If-None-Match": "W/TAG"}, 304),
    ({"If-None-Match": '"a,b", TAG'}, 304),
    ({"If-None-Match": "*"}, 304),
    ({"If-None-Match": '"other"'}, 200),
    ({"If-None-Match": '"other"', "If-Modified-Since": "LATER"}, 200),  # the tag decides
    ({"If-None-Match": "TAG", "Range": "bytes=0-9"}, 304),
    ({"If-Modified-Since": "TIME"}, 304),
    ({"If-Modified-Since": "LATER"}, 304),
    ({"If-Modified-Since": "EARLIER"}, 200),
    ({"If-Modified-Since": "yesterday"}, 200),
    ({"If-Match": "TAG"}, 200),
    ({"If-Match": '"other", TAG'}, 200),
    ({"If-Match": "*"}, 200),
    ({"If-Match": "TAG", "Range": "bytes=0-9"}, 206),
    ({"If-Match": "W/TAG"}, 412),  # strong comparison
    ({"If-Match": '"other"'}, 412),
    ({"If-Match": "no tag"}, 412),
    ({"If-Match": '"other"', "If-None-Match": "TAG"}, 412),
    ({"If-Match": '"other"', "Range": "bytes=99999-"}, 412),
    ({"If-Match": "TAG", "If-Unmodified-Since": "EARLIER"}, 200),
    ({"If-Unmodified-Since": "EARLIER"}, 412),
    ({"If-Unmodified-Since": "TIME"}, 200),
    ({"If-Unmodified-Since": "yesterday"}, 200),
    ({"If-Range": "TAG", "Range": "bytes=0-9"}, 206),
    ({"If-Range": "TIME", "Range": "Bytes=0-9"}, 206),
    ({"If-Range": "W/TAG", "Range": "bytes=0-9"}, 200),
    ({"If-Range": "LATER", "Range": "bytes=0-9"}, 200),
    ({"If-Range": "EARLIER", "Range": "bytes=0-9"}, 200),
    ({"If-Range": '"other"', "Range": "bytes=99999-"}, 200),
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

    @pytest.mark.parametrize("ahead", [-600.0, 600.0])
    async def test_a_wrong_clock_signs_none(
        self, api: httpx.AsyncClient, file: File, resources: Resources, ahead: float
    ) -> None:
        """By the storage's clock a URL of ten minutes ago has ended."""
        resources.clock.ahead_seconds = ahead
        sent = await api.get(file.link)
        assert (sent.status_code, sha256(sent.content)) == (200, file.sha256)

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

    async def test_client_that_sends_its_token_everywhere_may_prefer_none(
        self, api: httpx.AsyncClient, file: File, token: Token, database: Connection
    ) -> None:
        headers = {"Prefer": "no-redirect", **bearer(token(file.user_id))}
        for path in (f"{file.path}/download", file.link):
            sent = await api.get(path, headers=headers)
            assert (sent.status_code, sha256(sent.content)) == (200, file.sha256)
            assert sent.headers["preference-applied"] == "no-redirect"
            part = await api.get(path, headers=headers | {"Range": "bytes=0-9"})
            assert (part.status_code, part.content) == (206, sent.content[:10])
            current = await api.get(path, headers=headers | {"If-None-Match": sent.headers["etag"]})
            assert current.status_code == 304
        outcomes = [event["outcome"] for event in await list_audit(database) if event["action"] == "export:downloaded"]
        assert outcomes == ["proxied", "bytes 0-9"] * 2

    async def test_conditions_are_for_the_storage(self, api: httpx.AsyncClient, file: File) -> None:
        """RFC 9110, 13.2.1: there is nothing to compare with a redirect, and clients send them on."""
        for headers in ({"If-None-Match": "*"}, {"If-Match": '"other"'}, {"Range": "bytes=99999-"}):
            assert (await api.get(file.link, headers=headers)).status_code == 302
        etag = (await api.head(file.link)).headers["etag"]
        assert (await api.head(file.link, headers={"If-None-Match": etag})).status_code == 304

    async def test_no_download_without_its_event(
        self, api: httpx.AsyncClient, file: File, database: Connection
    ) -> None:
        await refuse_audit(database, "export:downloaded")
        response = await api.get(file.link)
        read_problem(response, 500)
        assert "location" not in response.headers


class TestLostFile:
    @pytest.fixture(params=["redirect", "proxy"])
    def settings(self, settings: Settings, request: pytest.FixtureRequest) -> Settings:
        return msgspec.structs.replace(settings, download_mode=request.param, kept_files=1)

    @pytest.fixture
    async def lost(self, file: File, resources: Resources) -> File:
        async with resources.connection() as connection:
            export = await files.get_file(resources, connection, UUID(file.job_id))
        await resources.storage.delete(files.key_of(export))
        return file

    async def test_its_link_says_so(self, api: httpx.AsyncClient, lost: File) -> None:
        for _ in range(2):
            assert read_problem(await api.get(lost.link), 410)["detail"] == files.LOST
            assert (await api.head(lost.link)).status_code == 410
        page = await api.get(lost.link, headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["content-type"]) == (410, "text/html; charset=utf-8")
        assert "request the export again" in page.text

    async def test_its_view_says_so(self, api: httpx.AsyncClient, lost: File, token: Token) -> None:
        await api.head(lost.link)
        view = (await api.get(lost.path, headers=bearer(token(lost.user_id)))).json()
        assert ("download_url" in view, view["status"], view["error_message"]) == (False, "completed", files.LOST)

    async def test_its_user_may_ask_again(
        self, api: httpx.AsyncClient, lost: File, create: Create, database: Connection
    ) -> None:
        """Also at once, with the same idempotency key, and while no further file may be kept."""
        await database.execute("UPDATE carryout.export_jobs SET idempotency_key = 'the-same'")
        await api.head(lost.link)
        again = await create(lost.user_id, headers={"Idempotency-Key": "the-same"})
        assert (again.status_code, again.json()["job_id"] != lost.job_id) == (201, True)
        assert (await api.head(again.json()["download_url"].removeprefix(PUBLIC_URL))).status_code == 200

    async def test_an_outage_is_no_loss(
        self, api: httpx.AsyncClient, file: File, resources: Resources, database: Connection
    ) -> None:
        """A HEAD for an object in a bucket that is gone answers as one for a missing object does."""
        resources.storage._bucket = "no-such-bucket"
        read_problem(await api.get(file.link), 503)
        assert "export:file_missing" not in await list_actions(database)


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

    async def test_parameters_added_by_mail_gateways_are_ignored(self, api: httpx.AsyncClient, file: File) -> None:
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
        async with open_client(rotated) as client:
            assert (await client.get(file.link)).status_code == status


class TestExpiry:
    """The database's clock decides, not the link."""

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
            assert "evildoers" not in response.text + str(response.headers)
            assert "gopher" not in response.text + str(response.headers)


def test_digests_are_read_as_their_rfc_has_them() -> None:
    """RFC 9530, B.1."""
    example = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
    assert read_digest(example) == hashlib.sha256(b'{"hello": "world"}\n').digest()


def read_digest(header: str) -> bytes:
    """The only member of a dictionary of structured fields, a byte sequence (RFC 9651, 3.2 and 3.3.5)."""
    found = re.fullmatch(r"sha-256=:([A-Za-z0-9+/]+={0,2}):", header)
    assert found
    return base64.b64decode(found[1], validate=True)


class TestProxy:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, download_mode="proxy", small_export_records=10_000)

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
        assert read_digest(whole.headers["repr-digest"]) == hashlib.sha256(whole.content).digest()

    async def test_the_digest_is_of_the_whole_file(self, api: httpx.AsyncClient, file: File) -> None:
        """RFC 9530, 3: also where a part of it, or none, is sent."""
        expected = bytes.fromhex(file.sha256)
        for answer in (
            await api.get(file.link, headers={"Range": "bytes=5-9"}),
            await api.get(file.link, headers={"Accept-Encoding": "gzip", "Want-Repr-Digest": "sha-256=10"}),
            await api.head(file.link),
        ):
            assert read_digest(answer.headers["repr-digest"]) == expected
            assert "content-digest" not in answer.headers

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

    async def test_conditions(
        self, api: httpx.AsyncClient, file: File, whole: httpx.Response, database: Connection
    ) -> None:
        made = parsedate_to_datetime(whole.headers["last-modified"])
        words = {
            "TAG": whole.headers["etag"],
            "TIME": format_datetime(made, usegmt=True),
            "EARLIER": format_datetime(made - dt.timedelta(seconds=1), usegmt=True),
            "LATER": format_datetime(made + dt.timedelta(days=1), usegmt=True),
        }
        downloads = [action for action in await list_actions(database) if action == "export:downloaded"]
        for given, status in CONDITIONS:
            headers = {name: re.sub("|".join(words), lambda word: words[word[0]], text) for name, text in given.items()}
            answer = await api.get(file.link, headers=headers)
            assert answer.status_code == status, given
            head = await api.head(file.link, headers=headers)
            assert head.status_code == (200 if status == 206 else status), given
            if status == 304:
                assert answer.content == b""
                assert (answer.headers["etag"], answer.headers["last-modified"]) == (words["TAG"], words["TIME"])
            elif status == 412:
                read_problem(answer, 412)
            else:
                downloads.append("export:downloaded")
        assert [action for action in await list_actions(database) if action == "export:downloaded"] == downloads

    async def test_head_has_the_headers_of_get(self, api: httpx.AsyncClient, file: File, whole: httpx.Response) -> None:
        head = await api.head(file.link)
        own = {"x-request-id", "date", "connection", "traceparent"}
        assert {name: text for name, text in head.headers.items() if name not in own} == {
            name: text for name, text in whole.headers.items() if name not in own
        }

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

    async def test_a_file_missing_from_the_storage_is_not_audited_as_a_download(
        self, api: httpx.AsyncClient, file: File, resources: Resources, database: Connection
    ) -> None:
        async with resources.connection() as connection:
            export = await files.get_file(resources, connection, UUID(file.job_id))
        await resources.storage.delete(files.key_of(export))
        before = await list_actions(database)
        read_problem(await api.get(file.link), 410)
        assert await list_actions(database) == [*before, "export:file_missing"]

    @pytest.mark.parametrize("content_rows", [20, 2_000], ids=["one chunk", "several chunks"])
    @pytest.mark.parametrize("change", EXCHANGES)
    async def test_another_file_never_looks_complete(  # noqa: PLR0913, PLR0917 (fixtures and parameters)
        self,
        api: httpx.AsyncClient,
        create: Create,
        database: Connection,
        resources: Resources,
        content_rows: int,
        change: Callable[[bytes], bytes],
    ) -> None:
        """The bucket's administrator can exchange a file."""
        created = (await create(await create_user(database, content=content_rows))).json()
        link = created["download_url"].removeprefix(PUBLIC_URL)
        content = (await api.get(link)).content
        async with resources.connection() as connection:
            key = files.key_of(await files.get_file(resources, connection, UUID(created["job_id"])))

        async def other() -> AsyncIterator[bytes]:
            yield change(content)

        await resources.storage.upload(key, other(), content_type="text/csv")
        with pytest.raises((httpx.HTTPStatusError, httpx.RemoteProtocolError)):
            (await api.get(link)).raise_for_status()


class TestCutProxiedDownload:
    """The file has 20 MB, more than all buffers between the storage and the client hold."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, download_mode="proxy", small_export_records=10_000)

    @pytest.fixture
    async def large(self, create: Create, database: Connection) -> str:
        user_id = await create_user(database, content=5_000, body_bytes=4_000)
        return (await create(user_id)).json()["download_url"].removeprefix(PUBLIC_URL)  # type: ignore[no-any-return]

    @pytest.mark.parametrize("ending", ["owner", "operator"])
    async def test_by_a_deletion(  # noqa: PLR0913, PLR0917 (fixtures and parameters)
        self,
        api: httpx.AsyncClient,
        database: Connection,
        token: Token,
        resources: Resources,
        large: str,
        ending: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(permitted, "CHECK_SECONDS", 0)
        job_id, user_id = await database.fetchrow("SELECT id, user_id FROM carryout.export_jobs")  # type: ignore[misc]
        async with api.stream("GET", large) as response:
            parts = response.aiter_bytes()
            await anext(parts)
            if ending == "owner":
                headers = bearer(token(user_id))
                assert (await api.delete(f"/api/export/{job_id}", headers=headers)).status_code == 204
            else:
                await cancellation.cancel_all_for_operator(database, resources.exports, user_id)
            with pytest.raises(httpx.RemoteProtocolError):
                async for _ in parts:
                    pass
        assert await self._cut(database) == "deleted"

    @pytest.mark.usefixtures("large")
    async def test_by_the_end_of_its_link(self, api: httpx.AsyncClient, database: Connection, token: Token) -> None:
        user_id = await database.fetchval("SELECT user_id FROM carryout.export_jobs")
        await database.execute("UPDATE carryout.export_jobs SET expires_at = now() + interval '5 seconds'")
        path = f"/api/export/{await database.fetchval('SELECT id FROM carryout.export_jobs')}/download"
        async with api.stream("GET", path, headers=bearer(token(user_id))) as response:
            parts = response.aiter_bytes()
            await anext(parts)
            assert await self._cut(database) == "expired"
            with pytest.raises(httpx.TransportError):
                async for _ in parts:
                    pass

    async def test_by_the_longest_time(self, settings: Settings, database: Connection, large: str) -> None:
        async with (
            open_client(msgspec.structs.replace(settings, stream_seconds=5)) as client,
            client.stream("GET", large) as response,
        ):
            parts = response.aiter_bytes()
            await anext(parts)
            assert await self._cut(database) == "too_long"
            with pytest.raises(httpx.TransportError):
                async for _ in parts:
                    pass

    async def _cut(self, database: Connection) -> str:
        """How the trail says that the download was cut."""
        while (await list_actions(database))[-1] != "export:download_cut":
            await asyncio.sleep(0.02)
        outcome: str = (await list_audit(database))[-1]["outcome"]
        return outcome
