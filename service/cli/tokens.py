"""Commands for users' tokens."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import click
import jwt

from guard.terminal import echo
from service.access.jwks import describe_failed_fetch
from service.access.tokens import Access, create_token, open_jwt_verifier
from service.cli.options import env_file_option, load_settings
from service.errors import ServiceError, TokenFault, TokenRefusedError, TokenTooLargeError, UnavailableError
from service.settings import Settings

STDIN: Final = "-"
REASONS: Final[Mapping[TokenFault, str]] = MappingProxyType(
    {
        TokenFault.MISSING: "nothing was given",
        TokenFault.MALFORMED: "it isn't a signed JWT, but opaque, encrypted or damaged: request one for an API",
        TokenFault.TOO_LARGE: "it is too large: issue tokens with fewer groups or roles",
        TokenFault.TYPE: "its header's typ isn't in CARRYOUT_JWT_TOKEN_TYPES",
        TokenFault.ALGORITHM: "its header's alg isn't in CARRYOUT_JWT_ALGORITHMS",
        TokenFault.UNKNOWN_KEY: "no key fits its header's kid and alg: compare the issuer's key set",
        TokenFault.SIGNATURE: "no key that fits has signed it: compare the issuer's keys",
        TokenFault.EXPIRED: "its exp has passed",
        TokenFault.NOT_YET: "its nbf or iat is in the future: compare the clocks",
        TokenFault.CLOCK: "the clock of the service's host differs from PostgreSQL's by more than the leeway",
        TokenFault.ISSUER: "its iss isn't CARRYOUT_JWT_ISSUER, to the last slash",
        TokenFault.AUDIENCE: "it isn't for CARRYOUT_JWT_AUDIENCE, by CARRYOUT_JWT_AUDIENCE_CLAIM",
        TokenFault.CLAIM: "it lacks exp, or a claim of CARRYOUT_JWT_REQUIRED_CLAIMS",
        TokenFault.PURPOSE: "by its own claims it isn't an access token, or it is bound to a key of its sender (cnf)",
        TokenFault.USER: "its CARRYOUT_JWT_USER_CLAIM has no id of the type CARRYOUT_USER_ID_TYPE",
    }
)
# Microsoft changes the header of tokens for its own APIs after it has signed them.
FOR_MICROSOFT: Final = "it is for an API of Microsoft (nonce in its header): request one for your own API"
SHOWN: Final = ("alg", "typ", "kid", "iss", "aud", "exp", "nbf", "iat")


class _TokenGroup(click.Group):
    """`carryout token USER_ID` is short for `carryout token create USER_ID`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["create", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_TokenGroup)
def token() -> None:
    """Create a token for a test, or say why one is refused."""


@token.command("create")
@click.argument("user_id")
@click.option(
    "--ttl",
    default=3_600,
    show_default=True,
    type=click.IntRange(1, 315_360_000),
    help="Seconds until the token expires.",
)
@env_file_option
def create(user_id: str, ttl: int, env_file: Path | None) -> None:
    """Print a JWT for USER_ID, signed with CARRYOUT_JWT_SECRET. `create` may be left out."""
    echo(create_token(load_settings(env_file), user_id, ttl))


@token.command("check")
@click.argument("text", metavar="TOKEN")
@env_file_option
def check(text: str, env_file: Path | None) -> None:
    """Say whether TOKEN is accepted, and if not, why. `-` reads it from standard input, which `ps` doesn't show."""
    settings = load_settings(env_file)
    given = sys.stdin.read().strip() if text == STDIN else text
    try:
        access = asyncio.run(_verify(settings, given))
    except (TokenRefusedError, TokenTooLargeError) as error:
        raise ServiceError(_explain(settings, given, error.fault)) from None
    except UnavailableError as error:
        raise ServiceError(
            f"unknown: the identity provider {describe_failed_fetch(error.__cause__)} (CARRYOUT_JWT_JWKS_URL)"
        ) from None
    echo(f"accepted: user {access.user_id}, for {access.seconds_left:.0f} more seconds")


async def _verify(settings: Settings, text: str) -> Access:
    async with open_jwt_verifier(settings) as verifier:
        return await verifier.verify(text)


def _explain(settings: Settings, text: str, fault: TokenFault) -> str:
    header, claims = _read_unverified(text)
    signed_for_microsoft = fault is TokenFault.SIGNATURE and "nonce" in header
    reason = FOR_MICROSOFT if signed_for_microsoft else REASONS[fault]
    names = dict.fromkeys((*SHOWN, settings.jwt_audience_claim, settings.jwt_user_claim))
    shown = ", ".join(f"{name}={value!r}" for name in names if (value := (claims | header).get(name)) is not None)
    return f"refused ({fault}): {reason}" + (f"; it has {shown}" if shown else "")


def _read_unverified(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The token's header and claims, for a person to compare; empty if it can't be read."""
    try:
        read = jwt.decode_complete(text, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        return {}, {}
    return read["header"], read["payload"]
