"""A token's claims: those an operator requires, and those that an access token of a user never has."""

import re
from collections.abc import Collection, Mapping

import msgspec

from service.user_ids import UserIdType

# RFC 8693, section 4.2, and RFC 9068; Entra and Okta call it `scp`. Other texts may hold spaces, and are one value.
SPACE_SEPARATED = frozenset({"scope", "scp"})

SEPARATORS = re.compile(r"[\s_-]+")

FOREIGN_CLAIMS = frozenset(
    {
        "cnf",  # bound to a key that its sender must prove to hold (RFC 7800, 8705, 9449); no proof is checked here
        "events",  # a security event (RFC 8417), such as a logout (OpenID Connect Back-Channel Logout 1.0, section 2.4)
        "at_hash",  # an ID token made along with an access token (OpenID Connect Core 1.0, section 3.1.3.6)
        "c_hash",  # the same, along with a code (section 3.3.2.11)
    }
)
"""Claims of tokens that aren't bearer access tokens. Not `nonce`: access tokens of older Keycloaks have it, too."""

# Amazon Cognito, djangorestframework-simplejwt, Flask-JWT-Extended and Keycloak, in this order; as `_plain` has them.
PURPOSE_CLAIMS = frozenset({"tokenuse", "tokentype", "type", "typ"})
FOREIGN_PURPOSES = frozenset({"id", "idtoken", "refresh", "refreshtoken", "offline", "logout", "logouttoken"})


def is_foreign(claims: Mapping[str, object]) -> bool:
    """Whether the token says of itself that it isn't a bearer access token."""
    purposes = (claim for name, claim in claims.items() if _plain(name) in PURPOSE_CLAIMS)
    return not FOREIGN_CLAIMS.isdisjoint(claims) or any(map(_is_foreign_purpose, purposes))


def _is_foreign_purpose(claim: object) -> bool:
    values = claim if isinstance(claim, list) else [claim]
    return any(isinstance(value, str) and _plain(value) in FOREIGN_PURPOSES for value in values)


def _plain(text: str) -> str:
    """`refresh_token`, `refresh-token`, `refreshToken` and `Refresh Token` are one purpose."""
    return SEPARATORS.sub("", text).lower()


def has_audience(claims: Mapping[str, object], name: str, accepted: Collection[str]) -> bool:
    """Whether the claim `name` has one of `accepted`; with none, whether the token is for no audience."""
    claim = claims.get(name)
    if not accepted:
        return not claim
    values = claim if isinstance(claim, list) else [claim]
    return all(isinstance(value, str) for value in values) and not frozenset(accepted).isdisjoint(values)


def user_text(claims: Mapping[str, object], name: str, user_id_type: UserIdType) -> str:
    """The user's id. Raises ValueError unless it is a text, or a number where ids are numbers."""
    claim = claims.get(name)
    if isinstance(claim, str):
        return claim
    if user_id_type == "bigint" and type(claim) is int:  # not a bool
        return str(claim)
    raise ValueError("Not a user's id")


def has_all(claims: Mapping[str, object], required: Collection[str]) -> bool:
    """Whether each of `required`, given as `name=value`, is a claim's value, or one of its values."""
    return all(_has(claims, *split_requirement(text)) for text in required)


def make_required(required: Collection[str]) -> dict[str, object]:
    """Claims that have all of `required`."""
    values: dict[str, list[str]] = {}
    for name, value in map(split_requirement, required):
        values.setdefault(name, []).append(value)
    return {name: _join(name, given) for name, given in values.items()}


def split_requirement(text: str) -> tuple[str, str]:
    """The name and the value of `name=value`."""
    name, _, value = text.partition("=")
    return name.strip(), value.strip()


def _has(claims: Mapping[str, object], name: str, wanted: str) -> bool:
    claim = claims.get(name)
    if isinstance(claim, str) and name in SPACE_SEPARATED:
        return wanted in claim.split(" ")
    return any(_text(value) == wanted for value in (claim if isinstance(claim, list) else [claim]))


def _text(value: object) -> str | None:
    """A text as it is, a boolean or a number as JSON writes it; None for anything else."""
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode() if isinstance(value, bool | int | float) else None


def _join(name: str, values: list[str]) -> object:
    if name in SPACE_SEPARATED:
        return " ".join(values)
    return values if len(values) > 1 else values[0]
