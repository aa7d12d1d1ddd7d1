import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_asyncio
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm
from structlog.testing import capture_logs

from service.access import jwks
from service.access.jwks import fitting_algorithms, parse_key_set
from service.access.tokens import JwtVerifier, open_jwt_verifier
from service.backends.failures import OTHER_NAME, UNTRUSTED
from service.errors import AuthenticationError, ConfigurationError, UnavailableError
from tests.support.certificates import Authority, create_authority, server_context
from tests.support.tokens import EC_KEY, RSA_KEY, USER, claims, encode, make_settings

ALGORITHMS = ("RS256", "PS256", "ES256", "ES384", "EdDSA")
ED_KEY = ed25519.Ed25519PrivateKey.generate()
OTHER_KEY = ed25519.Ed25519PrivateKey.generate()
RSA_JWK = RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True)
EC_JWK = ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True)
ED_JWK = OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True)
OTHER_JWK = OKPAlgorithm.to_jwk(OTHER_KEY.public_key(), as_dict=True)


class IdentityProvider:
    """A real HTTP server whose answers a test chooses."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[web.BaseRequest] = []
        self._requested = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()
        self.publish({**ED_JWK, "kid": "one"})

    def publish(self, *keys: dict[str, Any]) -> None:
        self.answer(body=json.dumps({"keys": keys}).encode())

    def answer(self, *, status: int = 200, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self._status, self._body, self._headers = status, body, headers

    async def asked(self, times: int) -> None:
        while len(self.requests) < times:
            self._requested.clear()
            await self._requested.wait()

    async def serve(self, request: web.BaseRequest) -> web.Response:
        self.requests.append(request)
        self._requested.set()
        await self.answering.wait()
        return web.Response(status=self._status, body=self._body, headers=self._headers)


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[IdentityProvider]:
    async with open_provider() as opened:
        yield opened


@asynccontextmanager
async def open_provider(certificate: Path | None = None) -> AsyncIterator[IdentityProvider]:
    provider = IdentityProvider()
    runner = web.ServerRunner(web.Server(provider.serve), shutdown_timeout=0)
    await runner.setup()
    tls = server_context(certificate) if certificate else None
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    host, port = runner.addresses[0][:2]
    provider.url = f"https://localhost:{port}/keys" if certificate else f"http://{host}:{port}/keys"
    yield provider
    provider.answering.set()
    await runner.cleanup()


@asynccontextmanager
async def opened(provider: IdentityProvider) -> AsyncIterator[JwtVerifier]:
    async with open_jwt_verifier(make_settings(JWT_JWKS_URL=provider.url)) as verifier:
        yield verifier


def make_token(key: Any = ED_KEY, algorithm: str = "EdDSA", **headers: Any) -> str:
    return jwt.encode(claims(), key, algorithm, headers={"kid": "one", **headers})


def sign_eddsa(header: dict[str, Any]) -> str:
    signed = ".".join(encode(json.dumps(part).encode()) for part in (header, claims()))
    return f"{signed}.{encode(ED_KEY.sign(signed.encode()))}"


@pytest.fixture
def _no_cooldown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "REFETCH_COOLDOWN_SECONDS", 0.0)


class TestFetching:
    async def test_one_fetch_serves_all_who_wait(self, provider: IdentityProvider) -> None:
        provider.answering.clear()
        async with opened(provider) as verifier:
            waiting = [asyncio.create_task(verifier.verify(make_token())) for _ in range(50)]
            await provider.asked(1)
            provider.answering.set()
            assert [access.user_id for access in await asyncio.gather(*waiting)] == [USER] * 50
            assert (await verifier.verify(make_token())).user_id == USER
        assert len(provider.requests) == 1

    async def test_a_request_that_goes_away_ends_no_other(self, provider: IdentityProvider) -> None:
        provider.answering.clear()
        async with opened(provider) as verifier:
            gone, stays = (asyncio.create_task(verifier.verify(make_token())) for _ in range(2))
            await provider.asked(1)
            gone.cancel()
            provider.answering.set()
            assert (await stays).user_id == USER
            assert gone.cancelled()

    async def test_only_the_configured_address_is_asked(self, provider: IdentityProvider) -> None:
        elsewhere = provider.url.replace("/keys", "/elsewhere")
        headers: dict[str, Any] = {"jku": elsewhere, "x5u": elsewhere, "jwk": OTHER_JWK, "x5c": ["MIIB"]}
        async with opened(provider) as verifier:
            assert (await verifier.verify(make_token(**headers))).user_id == USER
            for kid in ("one", "other", elsewhere, "../elsewhere"):
                with pytest.raises(AuthenticationError):
                    await verifier.verify(make_token(OTHER_KEY, **{**headers, "kid": kid}))
        assert {request.path_qs for request in provider.requests} == {"/keys"}

    async def test_it_is_asked_by_our_name(self, provider: IdentityProvider) -> None:
        """Firewalls before providers answer 403 to the names of Python's libraries."""
        async with opened(provider) as verifier:
            await verifier.verify(make_token())
        assert {request.headers["User-Agent"] for request in provider.requests} == {"Carryout"}

    async def test_redirects_are_not_followed(self, provider: IdentityProvider) -> None:
        provider.answer(status=302, headers={"Location": provider.url.replace("/keys", "/elsewhere")})
        async with opened(provider) as verifier:
            with pytest.raises(UnavailableError):
                await verifier.verify(make_token())
        assert {request.path for request in provider.requests} == {"/keys"}

    async def test_keys_are_refreshed(self, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.01)
        async with opened(provider) as verifier:
            assert (await verifier.verify(make_token())).user_id == USER
            provider.publish({**OTHER_JWK, "kid": "one"})
            await provider.asked(len(provider.requests) + 2)
            assert (await verifier.verify(make_token(OTHER_KEY))).user_id == USER
            with pytest.raises(AuthenticationError):
                await verifier.verify(make_token())

    async def test_closing_waits_for_no_answer(
        self, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jwks, "FETCH_TIMEOUT_SECONDS", 86_400.0)
        provider.answering.clear()
        async with opened(provider):
            await provider.asked(1)


class TestRotation:
    async def test_an_unknown_key_is_fetched_at_once(self, provider: IdentityProvider) -> None:
        async with opened(provider) as verifier:
            assert (await verifier.verify(make_token())).user_id == USER
            provider.publish({**ED_JWK, "kid": "one"}, {**OTHER_JWK, "kid": "two"})
            assert (await verifier.verify(make_token(OTHER_KEY, kid="two"))).user_id == USER
        assert len(provider.requests) == 2

    async def test_invented_keys_cost_the_provider_one_request(self, provider: IdentityProvider) -> None:
        async with opened(provider) as verifier:
            assert (await verifier.verify(make_token())).user_id == USER
            for number in range(20):
                with pytest.raises(AuthenticationError):
                    await verifier.verify(make_token(OTHER_KEY, kid=f"invented-{number}"))
        assert len(provider.requests) == 2

    @pytest.mark.parametrize("kid", [{}, {"kid": "one"}], ids=["no kid", "the same kid"])
    async def test_a_replaced_key_is_fetched_at_once(self, provider: IdentityProvider, kid: dict[str, str]) -> None:
        provider.publish({**ED_JWK, **kid})
        async with opened(provider) as verifier:
            assert (await verifier.verify(jwt.encode(claims(), ED_KEY, "EdDSA", headers=kid))).user_id == USER
            provider.publish({**OTHER_JWK, **kid})
            assert (await verifier.verify(jwt.encode(claims(), OTHER_KEY, "EdDSA", headers=kid))).user_id == USER
            with pytest.raises(AuthenticationError):
                await verifier.verify(jwt.encode(claims(), ED_KEY, "EdDSA", headers=kid))
        assert len(provider.requests) == 2

    async def test_forged_signatures_cost_the_provider_one_request(self, provider: IdentityProvider) -> None:
        async with opened(provider) as verifier:
            assert (await verifier.verify(make_token())).user_id == USER
            for _ in range(20):
                with pytest.raises(AuthenticationError):
                    await verifier.verify(make_token(OTHER_KEY))
        assert len(provider.requests) == 2

    @pytest.mark.parametrize("claim", [{"exp": 1}, {"aud": "another"}, {"sub": "ada"}, {"cnf": {}}], ids=str)
    async def test_a_signed_token_costs_it_none(self, provider: IdentityProvider, claim: dict[str, Any]) -> None:
        async with opened(provider) as verifier:
            assert (await verifier.verify(make_token())).user_id == USER
            with pytest.raises(AuthenticationError):
                await verifier.verify(jwt.encode(claims(**claim), ED_KEY, "EdDSA", headers={"kid": "one"}))
        assert len(provider.requests) == 1

    @pytest.mark.parametrize("algorithm", ["HS256", "none", "ES384"])
    async def test_algorithms_we_refuse_cost_it_none(self, provider: IdentityProvider, algorithm: str) -> None:
        key = {"HS256": "k" * 32, "none": "", "ES384": ec.generate_private_key(ec.SECP384R1())}[algorithm]
        async with opened(provider) as verifier:
            assert (await verifier.verify(make_token())).user_id == USER
            with pytest.raises(AuthenticationError):
                await verifier.verify(make_token(key, algorithm, kid="two"))
        assert len(provider.requests) == 1

    @pytest.mark.usefixtures("_no_cooldown")
    async def test_known_keys_never_wait(self, provider: IdentityProvider) -> None:
        async with opened(provider) as verifier:
            assert (await verifier.verify(make_token())).user_id == USER
            provider.answering.clear()
            waiting = asyncio.create_task(verifier.verify(make_token(OTHER_KEY, kid="two")))
            await provider.asked(2)
            assert (await verifier.verify(make_token())).user_id == USER
            assert not waiting.done()
            provider.publish({**OTHER_JWK, "kid": "two"})
            provider.answering.set()
            assert (await waiting).user_id == USER

    @pytest.mark.usefixtures("_no_cooldown")
    async def test_a_withdrawn_key_is_forgotten(self, provider: IdentityProvider) -> None:
        async with opened(provider) as verifier:
            assert (await verifier.verify(make_token())).user_id == USER
            provider.publish()
            with pytest.raises(AuthenticationError):
                await verifier.verify(make_token(kid="two"))
            with pytest.raises(AuthenticationError):
                await verifier.verify(make_token())


BROKEN: list[dict[str, Any]] = [
    {"status": 500},
    {"status": 404, "body": json.dumps({"keys": [{**OTHER_JWK, "kid": "two"}]}).encode()},
    {"status": 204},
    {"body": b""},
    {"body": b"<html>"},
    {"body": b"\xff\xfe"},
    {"body": b'{"keys":[{"x":' + b"[" * 100_000},
    {"body": b"null"},
    {"body": b'{"keys":{}}'},
    {"body": b'{"keys":[1]}'},
    {"body": json.dumps({"keys": [{**OTHER_JWK, "kid": "two", "x-filler": "x" * 256 * 1024}]}).encode()},
    {"body": gzip.compress(b'{"keys":[]}'), "headers": {"Content-Encoding": "gzip"}},
]


class TestOutage:
    @pytest.mark.usefixtures("_no_cooldown")
    @pytest.mark.parametrize("answer", BROKEN)
    async def test_a_broken_answer_leaves_the_keys(self, provider: IdentityProvider, answer: dict[str, Any]) -> None:
        async with opened(provider) as verifier:
            assert (await verifier.verify(make_token())).user_id == USER
            provider.answer(**answer)
            with pytest.raises(UnavailableError):
                await verifier.verify(make_token(OTHER_KEY, kid="two"))
            assert len(provider.requests) == 2
            assert (await verifier.verify(make_token())).user_id == USER

    @pytest.mark.usefixtures("_no_cooldown")
    async def test_a_key_may_have_been_replaced_meanwhile(self, provider: IdentityProvider) -> None:
        """Under its own name: only the provider knows whether such a token is forged."""
        async with opened(provider) as verifier:
            assert (await verifier.verify(make_token())).user_id == USER
            provider.answer(status=503)
            with pytest.raises(UnavailableError):
                await verifier.verify(make_token(OTHER_KEY))
            assert (await verifier.verify(make_token())).user_id == USER

    async def test_a_key_published_meanwhile_is_fetched_soon_after(
        self, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jwks, "RETRY_SECONDS", 0.0)
        async with opened(provider) as verifier:
            assert (await verifier.verify(make_token())).user_id == USER
            provider.answer(status=503)
            for _ in range(2):
                with pytest.raises(UnavailableError):
                    await verifier.verify(make_token(OTHER_KEY, kid="two"))
            provider.publish({**OTHER_JWK, "kid": "two"})
            assert (await verifier.verify(make_token(OTHER_KEY, kid="two"))).user_id == USER
            with pytest.raises(AuthenticationError):
                await verifier.verify(make_token(OTHER_KEY, kid="three"))

    @pytest.mark.parametrize("answer", BROKEN)
    async def test_without_any_keys_a_signed_token_is_neither_accepted_nor_refused(
        self, provider: IdentityProvider, answer: dict[str, Any]
    ) -> None:
        provider.answer(**answer)
        async with opened(provider) as verifier:
            with pytest.raises(UnavailableError):
                await verifier.verify(make_token())
            with pytest.raises(AuthenticationError):
                await verifier.verify("not.a.token")

    async def test_the_log_tells_how_a_fetch_failed_and_not_where(self, provider: IdentityProvider) -> None:
        provider.answer(status=404)
        with capture_logs() as events:
            async with opened(provider) as verifier:
                with pytest.raises(UnavailableError):
                    await verifier.verify(make_token())
        failure = {"error_type": "ClientResponseError", "cause": "answered 404"}
        assert events[0] == {"event": "jwks_fetch_failed", "log_level": "warning", **failure}

    async def test_the_log_tells_that_no_key_fits(self, provider: IdentityProvider) -> None:
        provider.publish({**ED_JWK, "alg": "Ed448"})
        with capture_logs() as events:
            async with opened(provider) as verifier:
                with pytest.raises(AuthenticationError):
                    await verifier.verify(make_token())
        fields = {"log_level": "warning", "algorithms": ("RS256", "ES256", "EdDSA", "Ed25519")}
        assert events[0] == {"event": "jwks_has_no_usable_key", **fields}

    async def test_keys_outlive_the_provider(self, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.01)
        monkeypatch.setattr(jwks, "RETRY_SECONDS", 0.01)
        async with opened(provider) as verifier:
            assert (await verifier.verify(make_token())).user_id == USER
            provider.answer(status=503)
            await provider.asked(len(provider.requests) + 5)
            assert (await verifier.verify(make_token())).user_id == USER

    async def test_we_recover_without_being_asked(
        self, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jwks, "RETRY_SECONDS", 0.01)
        provider.answer(status=503)
        async with opened(provider) as verifier:
            with pytest.raises(UnavailableError):
                await verifier.verify(make_token())
            provider.publish({**ED_JWK, "kid": "one"})
            await provider.asked(len(provider.requests) + 1)
            assert (await verifier.verify(make_token())).user_id == USER

    async def test_a_provider_that_hangs_is_given_up(
        self, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jwks, "FETCH_TIMEOUT_SECONDS", 0.05)
        provider.answering.clear()
        async with opened(provider) as verifier:
            with pytest.raises(UnavailableError):
                await verifier.verify(make_token())

    async def test_a_provider_that_is_down_is_unavailable(self) -> None:
        async with open_jwt_verifier(make_settings(JWT_JWKS_URL="http://127.0.0.1:1/")) as verifier:
            with pytest.raises(UnavailableError):
                await verifier.verify(make_token())

    async def test_a_provider_that_does_not_speak_http_is_unavailable(self) -> None:
        async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"\xff\0 220 smtp.example ready\r\n\r\n" * 100)
            writer.close()

        async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            async with open_jwt_verifier(make_settings(JWT_JWKS_URL=f"http://{host}:{port}/")) as verifier:
                with pytest.raises(UnavailableError):
                    await verifier.verify(make_token())


class TestChoiceOfKey:
    @pytest.mark.parametrize(
        ("key", "algorithm"), [(RSA_KEY, "RS256"), (EC_KEY, "ES256"), (ED_KEY, "EdDSA")], ids=["RSA", "EC", "Ed25519"]
    )
    async def test_by_name(self, provider: IdentityProvider, key: Any, algorithm: str) -> None:
        provider.publish({**RSA_JWK, "kid": "RS256"}, {**EC_JWK, "kid": "ES256"}, {**ED_JWK, "kid": "EdDSA"})
        async with opened(provider) as verifier:
            assert (await verifier.verify(make_token(key, algorithm, kid=algorithm))).user_id == USER
            with pytest.raises(AuthenticationError):
                await verifier.verify(make_token(key, algorithm, kid="RS256" if algorithm == "EdDSA" else "EdDSA"))

    async def test_keys_of_one_name_are_all_tried(self, provider: IdentityProvider) -> None:
        provider.publish({**OTHER_JWK, "kid": "one"}, {**ED_JWK, "kid": "one"}, {**ED_JWK, "kid": "one", "x": "twice"})
        async with opened(provider) as verifier:
            assert (await verifier.verify(make_token())).user_id == USER
            assert (await verifier.verify(make_token(OTHER_KEY))).user_id == USER
            with pytest.raises(AuthenticationError):
                await verifier.verify(make_token(kid="two"))

    @pytest.mark.parametrize("kid", [{}, {"kid": None}], ids=["no kid", "null"])
    async def test_keys_without_a_name_are_all_tried(self, provider: IdentityProvider, kid: dict[str, Any]) -> None:
        provider.publish({**RSA_JWK, **kid}, {**OTHER_JWK, **kid}, {**ED_JWK, **kid})
        async with opened(provider) as verifier:
            for headers in ({}, {"kid": "one"}):
                assert (await verifier.verify(jwt.encode(claims(), ED_KEY, "EdDSA", headers=headers))).user_id == USER
                assert (await verifier.verify(jwt.encode(claims(), RSA_KEY, "RS256", headers=headers))).user_id == USER

    async def test_a_token_without_a_name_may_be_of_any_key(self, provider: IdentityProvider) -> None:
        provider.publish({**OTHER_JWK, "kid": "two"}, {**ED_JWK, "kid": "one"})
        async with opened(provider) as verifier:
            assert (await verifier.verify(jwt.encode(claims(), ED_KEY, "EdDSA"))).user_id == USER
            with pytest.raises(AuthenticationError):
                await verifier.verify(jwt.encode(claims(), EC_KEY, "ES256"))

    @pytest.mark.parametrize(
        ("alg", "accepted"), [(None, {"EdDSA", "Ed25519"}), ("Ed25519", {"Ed25519"}), ("EdDSA", {"EdDSA"})]
    )
    async def test_both_names_of_eddsa(self, provider: IdentityProvider, alg: str | None, accepted: set[str]) -> None:
        provider.publish({**ED_JWK, "kid": "one"} | ({"alg": alg} if alg else {}))
        async with opened(provider) as verifier:
            for name in ("EdDSA", "Ed25519"):
                token = sign_eddsa({"alg": name, "kid": "one"})
                if name in accepted:
                    assert (await verifier.verify(token)).user_id == USER
                else:
                    with pytest.raises(AuthenticationError):
                        await verifier.verify(token)


class TestCertificates:
    """A provider whose authority is private."""

    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        return create_authority(tmp_path / "authority.pem")

    async def test_a_known_authority_is_trusted(self, authority: Authority, tmp_path: Path) -> None:
        async with open_provider(authority.issue(tmp_path / "good.pem")) as provider:
            settings = make_settings(JWT_JWKS_URL=provider.url, CA_FILE=str(authority.file))
            async with open_jwt_verifier(settings) as verifier:
                assert (await verifier.verify(make_token())).user_id == USER

    @pytest.mark.parametrize(
        ("host", "days_left", "known", "cause"),
        [
            ("localhost", 1, False, UNTRUSTED),
            ("id.example", 1, True, OTHER_NAME),
            ("localhost", -1, True, "can't be reached: its certificate has expired"),
        ],
    )
    async def test_the_log_names_a_fault(  # noqa: PLR0913 (parameters)
        self, authority: Authority, tmp_path: Path, host: str, days_left: int, cause: str, *, known: bool
    ) -> None:
        certificate = authority.issue(tmp_path / "wrong.pem", host, days_left=days_left)
        async with open_provider(certificate) as provider:
            settings = make_settings(JWT_JWKS_URL=provider.url, CA_FILE=str(authority.file) if known else "")
            with capture_logs() as events:
                async with open_jwt_verifier(settings) as verifier:
                    with pytest.raises(UnavailableError):
                        await verifier.verify(make_token())
        assert events[0]["cause"] == cause

    @pytest.mark.parametrize(
        ("content", "fault"),
        [
            (None, "names a file that can't be read: No such file or directory"),
            ("", "must name a file with certificates in PEM form"),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "must name a file with certificates in PEM form",
            ),
        ],
    )
    async def test_a_wrong_file_is_refused(self, tmp_path: Path, content: str | None, fault: str) -> None:
        file = tmp_path / "authorities.pem"
        if content is not None:
            file.write_text(content)
        with pytest.raises(ConfigurationError, match=f"^CARRYOUT_CA_FILE {fault}$"):
            async with open_jwt_verifier(make_settings(JWT_JWKS_URL="https://id.invalid/keys", CA_FILE=str(file))):
                pass


class TestProxies:
    """The provider stands in for the proxy: it sees which address it is asked for."""

    @pytest.fixture(autouse=True)
    def _proxy(self, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        proxy = provider.url.removesuffix("/keys")
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("HTTPS_PROXY", proxy)

    async def test_keys_come_through_the_proxy(self, provider: IdentityProvider) -> None:
        async with open_jwt_verifier(make_settings(JWT_JWKS_URL="http://id.invalid/keys")) as verifier:
            assert (await verifier.verify(make_token())).user_id == USER
        assert [(request.method, request.raw_path) for request in provider.requests] == [
            ("GET", "http://id.invalid/keys")
        ]

    async def test_https_goes_through_a_tunnel(self, provider: IdentityProvider) -> None:
        provider.answer(status=407)
        async with open_jwt_verifier(make_settings(JWT_JWKS_URL="https://id.invalid/keys")) as verifier:
            with pytest.raises(UnavailableError):
                await verifier.verify(make_token())
        assert (provider.requests[0].method, provider.requests[0].raw_path) == ("CONNECT", "id.invalid:443")

    async def test_hosts_may_be_excepted(self, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,.internal")
        async with opened(provider) as verifier:
            assert (await verifier.verify(make_token())).user_id == USER
        assert [request.raw_path for request in provider.requests] == ["/keys"]


def test_a_name_of_eddsa_fixes_the_curve() -> None:
    names = ("EdDSA", "Ed25519")
    assert fitting_algorithms(ED_KEY.public_key(), names) == names
    assert fitting_algorithms(ed448.Ed448PrivateKey.generate().public_key(), names) == ("EdDSA",)


class TestParseKeySet:
    @pytest.mark.parametrize(
        ("jwk", "algorithms"),
        [
            (RSA_JWK, ("RS256", "PS256")),
            ({**RSA_JWK, "use": "sig"}, ("RS256", "PS256")),
            ({**RSA_JWK, "key_ops": ["sign", "verify"]}, ("RS256", "PS256")),
            ({**RSA_JWK, "alg": "PS256"}, ("PS256",)),
            (EC_JWK, ("ES256",)),
            (ED_JWK, ("EdDSA",)),
        ],
    )
    def test_a_key_is_bound_to_its_algorithms(self, jwk: dict[str, Any], algorithms: tuple[str, ...]) -> None:
        (key,) = parse_key_set(json.dumps({"keys": [{**jwk, "kid": "one"}]}).encode(), ALGORITHMS)
        assert (key.key_id, key.algorithms) == ("one", algorithms)

    @pytest.mark.parametrize(
        "jwk",
        [
            {},
            {"kty": "oct"},
            {"kty": "oct", "k": "A" * 64},
            {"kty": "oct", "k": "A" * 64, "alg": "HS256"},
            HMACAlgorithm.to_jwk("k" * 64, as_dict=True),
            {**RSA_JWK, "use": "enc"},
            {**RSA_JWK, "use": None},
            {**RSA_JWK, "key_ops": ["encrypt", "wrapKey"]},
            {**RSA_JWK, "key_ops": ["sign"]},
            {**RSA_JWK, "key_ops": []},
            {**RSA_JWK, "key_ops": "verify"},
            {**RSA_JWK, "key_ops": None},
            {**RSA_JWK, "alg": "RSA-OAEP"},
            {**RSA_JWK, "alg": "RS512"},
            {**RSA_JWK, "alg": "HS256"},
            {**RSA_JWK, "alg": "none"},
            {**RSA_JWK, "alg": ["RS256"]},
            {**RSA_JWK, "n": "AQAB"},
            {**RSA_JWK, "n": 5},
            {**RSA_JWK, "e": "AA"},
            {**EC_JWK, "crv": "P-384"},
            {**EC_JWK, "x": EC_JWK["y"], "y": EC_JWK["x"]},
            {**ED_JWK, "x": "AA"},
            {**ED_JWK, "crv": "X25519"},
            RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True),
            ECAlgorithm.to_jwk(EC_KEY, as_dict=True),
            OKPAlgorithm.to_jwk(ED_KEY, as_dict=True),
            RSAAlgorithm.to_jwk(
                rsa.generate_private_key(65537, 1024).public_key(),  # noqa: S505 (the weakness is the point)
                as_dict=True,
            ),
        ],
    )
    def test_others_are_left_out(self, jwk: dict[str, Any]) -> None:
        (key,) = parse_key_set(json.dumps({"keys": [jwk, {**ED_JWK, "kid": "good"}]}).encode(), ALGORITHMS)
        assert key.key_id == "good"

    @settings(deadline=None)
    @given(data=st.data())
    def test_no_key_breaks_the_set(self, data: st.DataObject) -> None:
        odd = st.none() | st.integers() | st.booleans() | st.text(max_size=50) | st.lists(st.text(), max_size=2)
        jwk = data.draw(st.sampled_from([RSA_JWK, EC_JWK, ED_JWK, RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True)]))
        changes = data.draw(st.dictionaries(st.sampled_from([*jwk, "alg", "use", "kid", "d", "crv"]), odd, min_size=1))
        keys = parse_key_set(json.dumps({"keys": [jwk | changes, {**ED_JWK, "kid": "good"}]}).encode(), ALGORITHMS)
        assert keys[-1].key_id == "good"
