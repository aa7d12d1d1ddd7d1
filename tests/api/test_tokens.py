"""Why a token was refused: in a metric and the log, and in no answer."""

import time
import uuid

import httpx
import jwt
import pytest
from structlog.testing import capture_logs

from service.access.tokens import MAX_TOKEN_CHARACTERS
from service.errors import TokenFault
from service.resources import Resources
from service.settings import Settings
from tests.api.problems import bearer, read_problem
from tests.support.scraping import scrape

USER = str(uuid.UUID(int=5))
REFUSALS = "carryout_token_refusals_total"
REFUSED: dict[TokenFault, tuple[dict[str, object], dict[str, object]]] = {
    TokenFault.TYPE: ({}, {"typ": "logout+jwt"}),
    TokenFault.EXPIRED: ({"exp": 1}, {}),
    TokenFault.NOT_YET: ({"nbf": time.time() + 3_600}, {}),
    TokenFault.AUDIENCE: ({"aud": "another"}, {}),
    TokenFault.CLAIM: ({"exp": None}, {}),
    TokenFault.PURPOSE: ({"token_use": "id"}, {}),
    TokenFault.USER: ({"sub": "ada"}, {}),
}


def make(settings: Settings, fault: TokenFault) -> str:
    more, header = REFUSED.get(fault, ({}, {}))
    claims = {"sub": USER, "exp": time.time() + 600} | more
    given = {name: claim for name, claim in claims.items() if claim is not None}
    token = jwt.encode(given, settings.jwt_secret[0], headers=header)
    return {
        TokenFault.MISSING: "",
        TokenFault.MALFORMED: "a.b",
        TokenFault.ALGORITHM: jwt.encode(given, settings.jwt_secret[0] * 2, "HS512"),
        TokenFault.SIGNATURE: jwt.encode(given, settings.jwt_secret[0][::-1]),
    }.get(fault, token)


@pytest.mark.parametrize(
    "fault", sorted(REFUSED.keys() | {TokenFault.MISSING, TokenFault.MALFORMED, TokenFault.ALGORITHM, "signature"})
)
async def test_each_cause_is_told_to_operators_alone(
    idle_api: httpx.AsyncClient, common_settings: Settings, fault: str
) -> None:
    before = (await scrape(idle_api)).value(REFUSALS, cause=fault)
    with capture_logs() as events:
        token = make(common_settings, TokenFault(fault))
        answer = await idle_api.get("/api/export", headers=bearer(token) if token else {})
    assert read_problem(answer, 401)["detail"] == "Missing or invalid token"
    assert (await scrape(idle_api)).value(REFUSALS, cause=fault) == before + 1
    assert [event for event in events if event["event"] == "token_refused"] == [
        {"event": "token_refused", "log_level": "info", "cause": fault}
    ]


async def test_a_wrong_clock_is_the_cause(
    api: httpx.AsyncClient, resources: Resources, common_settings: Settings
) -> None:
    """On a host ten minutes behind, a fresh token is of the future."""
    resources.clock.ahead_seconds = -600.0
    for fault, cause in ((TokenFault.NOT_YET, "clock"), (TokenFault.EXPIRED, "clock"), (TokenFault.USER, "user")):
        with capture_logs() as events:
            await api.get("/api/export", headers=bearer(make(common_settings, fault)))
        assert [event["cause"] for event in events if event["event"] == "token_refused"] == [cause]


async def test_one_too_large_is_told_to_its_caller(idle_api: httpx.AsyncClient) -> None:
    answer = await idle_api.get("/api/export", headers=bearer("a" * (MAX_TOKEN_CHARACTERS + 1)))
    assert read_problem(answer, 431)["type"] == "urn:carryout:problem:token-too-large"
    assert "too large" in answer.json()["detail"]
    assert (await scrape(idle_api)).value(REFUSALS, cause="too_large") >= 1


async def test_the_largest_is_accepted(idle_api: httpx.AsyncClient, common_settings: Settings) -> None:
    claims = {"sub": USER, "exp": time.time() + 600, "groups": ["g" * 36] * 290}
    token = jwt.encode(claims, common_settings.jwt_secret[0])
    assert 15_000 < len(token) < MAX_TOKEN_CHARACTERS
    more = {f"X-Ingress-{number}": "x" * 1_000 for number in range(14)}
    assert (await idle_api.get("/api/export", headers=bearer(token) | more)).status_code == 200


async def test_each_cause_has_a_series_from_the_start(idle_api: httpx.AsyncClient) -> None:
    seen = await scrape(idle_api)
    assert all(seen.value(REFUSALS, cause=fault) >= 0 for fault in TokenFault)
