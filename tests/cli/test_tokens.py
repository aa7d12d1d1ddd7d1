"""`carryout token check`: why a token is refused, for a person who has it."""

import re
import time
from collections.abc import Mapping

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.support.processes import Ended, run
from tests.support.tokens import SECRET, USER

SETTINGS = {
    "CARRYOUT_DATABASE_URL": "postgresql://localhost/app",
    "CARRYOUT_REDIS_URL": "redis://localhost",
    "CARRYOUT_S3_BUCKET": "exports",
    "CARRYOUT_SMTP_URL": "smtp://localhost",
    "CARRYOUT_MAIL_FROM": "exports@example.org",
    "CARRYOUT_PUBLIC_URL": "https://exports.example.org",
    "CARRYOUT_LINK_SECRETS": "fedcba9876543210fedcba9876543210",
    "CARRYOUT_JWT_SECRET": SECRET,
    "CARRYOUT_JWT_ISSUER": "https://id.example/",
    "CARRYOUT_JWT_AUDIENCE": "web,app",
}
GOOD = {"sub": str(USER), "iss": "https://id.example/", "aud": "app"}


def make(secret: str = SECRET, header: Mapping[str, object] | None = None, **changes: object) -> str:
    return jwt.encode({**GOOD, "exp": int(time.time()) + 86_400, **changes}, secret, headers=dict(header or {}))


async def check(token: str, *more: str, **settings: str) -> Ended:
    return await run(SETTINGS | settings, "token", "check", token, *more)


async def test_a_good_one() -> None:
    finished = await check(make())
    assert (finished.status, finished.err) == (0, "")
    assert re.fullmatch(rf"accepted: user {USER}, for 86\d\d\d more seconds\n", finished.out)


async def test_from_standard_input() -> None:
    finished = await run(SETTINGS, "token", "check", "-", stdin=f"{make()}\n")
    assert (finished.status, finished.out[:9]) == (0, "accepted:")


@pytest.mark.parametrize(
    ("token", "cause", "shown"),
    [
        (make(exp=1_000), "expired", "exp=1000"),
        (make(iss="https://id.example"), "issuer", "iss='https://id.example', aud='app'"),
        (make(aud=["other"]), "audience", "aud=['other']"),
        (make(sub="ada"), "user", "sub='ada'"),
        (make(SECRET[::-1]), "signature", "no key that fits has signed it"),
        (make(SECRET[::-1], {"nonce": "a"}), "signature", "for an API of Microsoft"),
        (make(header={"typ": "logout+jwt"}), "type", "typ='logout+jwt'"),
        (make(header={"typ": "\x1b[31mred"}), "type", r"\x1b[31mred"),
        ("a.b", "malformed", "isn't a signed JWT"),
        ("eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..iv.text.tag", "malformed", "opaque, encrypted or damaged"),
        ("a" * 17_000, "too_large", "too large"),
    ],
    ids=lambda text: text[:12],
)
async def test_a_refused_one(token: str, cause: str, shown: str) -> None:
    finished = await check(token)
    assert (finished.status, finished.out) == (1, "")
    assert finished.err.startswith(f"carryout: refused ({cause}): ")
    assert shown in finished.err
    assert "\x1b" not in finished.err
    assert token not in finished.err


async def test_keys_that_cannot_be_had() -> None:
    settings = {name: text for name, text in SETTINGS.items() if name != "CARRYOUT_JWT_SECRET"}
    key = ed25519.Ed25519PrivateKey.generate()
    url = {"CARRYOUT_JWT_JWKS_URL": "http://127.0.0.1:1/keys"}
    finished = await run(settings | url, "token", "check", jwt.encode(GOOD, key, "EdDSA"))
    words = "can't be reached: nothing listens there (CARRYOUT_JWT_JWKS_URL)"
    assert (finished.status, finished.err) == (1, f"carryout: unknown: the identity provider {words}\n")


async def test_a_user_id_may_be_a_command_s_name() -> None:
    texts = SETTINGS | {"CARRYOUT_USER_ID_TYPE": "text"}
    for arguments in (("create", "check"), ("ada",)):
        made = await run(texts, "token", *arguments)
        claims = jwt.decode(made.out.strip(), options={"verify_signature": False})
        assert (made.status, claims["sub"], claims["aud"]) == (0, arguments[-1], "web")
