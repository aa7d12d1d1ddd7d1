"""Tokens of any shape, signed with the right secret."""

import base64
import hashlib
import hmac
import json
import time
import uuid
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from service.access.tokens import JwtVerifier
from service.errors import AuthenticationError
from service.settings import Settings, from_env

SECRET = "0123456789abcdef0123456789abcdef"
USER = uuid.UUID("0190b7f2-5d3c-7c1e-8a44-3f6f0b1f2a10")
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
HEADER = {"alg": "HS256", "typ": "JWT"}


def make_settings(**names: str) -> Settings:
    environ = {
        "DATABASE_URL": "postgresql://localhost/app",
        "REDIS_URL": "redis://localhost",
        "S3_BUCKET": "exports",
        "SMTP_URL": "smtp://localhost",
        "MAIL_FROM": "exports@example.org",
        "PUBLIC_URL": "https://exports.example.org",
        "LINK_SECRETS": "fedcba9876543210fedcba9876543210",
        **names,
    }
    return from_env({f"CARRYOUT_{name}": text for name, text in environ.items()})


def claims(**changes: object) -> dict[str, Any]:
    """A good token's claims; a change to None takes one away."""
    merged = {"sub": str(USER), "exp": int(time.time()) + 600, **changes}
    return {name: claim for name, claim in merged.items() if claim is not None}


def encode(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def sign(header: object, payload: object) -> str:
    """Sign any payload with the right secret: bytes as they are, anything else as JSON."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signed = ".".join(map(encode, parts))
    return f"{signed}.{encode(hmac.digest(SECRET.encode(), signed.encode(), hashlib.sha256))}"


async def refused(verifier: JwtVerifier, token: str) -> bool:
    with pytest.raises(AuthenticationError, match=r"\AMissing or invalid token\Z"):
        await verifier.verify(token)
    return True
