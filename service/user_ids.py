"""The ids of the application's users, as text and as PostgreSQL's values."""

import re
import uuid
from typing import Literal, TypeAlias

from service.errors import InvalidValueError

UserId: TypeAlias = uuid.UUID | int | str
UserIdType: TypeAlias = Literal["uuid", "bigint", "text"]

MAX_TEXT_CHARACTERS = 255
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")

BIGINT = range(-(2**63), 2**63)
"""The values of PostgreSQL's type."""


def parse_user_id(text: str, user_id_type: UserIdType) -> UserId:
    """The one value `text` can mean as a user's id. Raises InvalidValueError for any other spelling of it."""
    if user_id_type == "uuid" and _UUID.fullmatch(text):
        return uuid.UUID(text)
    if user_id_type == "bigint" and (number := parse_bigint(text)) is not None:
        return number
    if user_id_type == "text" and 1 <= len(text) <= MAX_TEXT_CHARACTERS and text.isprintable():
        return text
    raise InvalidValueError(f"Not a user id of type {user_id_type}")


def parse_bigint(text: str) -> int | None:
    """The bigint that `text` is the one spelling of; None for any other text."""
    return number if _INTEGER.fullmatch(text) and (number := int(text)) in BIGINT else None
