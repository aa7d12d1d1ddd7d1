"""The spec of an export as one value: from the request's body to the table's row and the datasets' arguments."""

import datetime as dt
import hashlib
import uuid

import msgspec

from service.formats import Format
from service.user_ids import UserId


class ExportSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """The user, the format, and the selected part of the data: rows of [`start`, `end`) of `sections`; empty: all.

    `since` is the earlier export that `start` was derived from. A further field needs a default, so that digests of
    earlier exports stay valid.
    """

    user_id: UserId
    format: Format
    sections: tuple[str, ...] = ()
    start: dt.datetime | None = None
    end: dt.datetime | None = None
    since: uuid.UUID | None = None
    bom: bool = False
    big_as_text: bool = False
    unguarded: bool = False

    @property
    def digest(self) -> bytes:
        """SHA-256 of all fields. Requests with the same idempotency key must have the same digest."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).digest()

    @property
    def is_filtered(self) -> bool:
        return bool(self.sections) or self.start is not None or self.end is not None
