"""Signed download links: each lets its holder fetch one file until it expires."""

import base64
import hmac
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from service.errors import ExportNotFoundError

# Another use of the same secret, or another layout, must never yield the same bytes.
_PURPOSE = b"carryout/download-link/v1\0"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXPIRES = re.compile(r"[1-9][0-9]{0,11}")
_SIGNATURE = re.compile(r"[A-Za-z0-9_-]{43}")


class LinkSigner:
    def __init__(self, secrets: Sequence[str]) -> None:
        """`secrets`: the first one signs, all of them verify, so that a secret can be rotated."""
        self._keys = [secret.encode() for secret in secrets]

    def sign(self, job_id: UUID, expires_at: datetime) -> str:
        """Return the link's query string. `expires_at` is cut to whole seconds."""
        expires = (expires_at - _EPOCH) // timedelta(seconds=1)  # timestamp() is a float, which may round up
        return f"expires={expires}&signature={_signature(self._keys[0], job_id, expires)}"

    def verify(self, job_id: UUID, expires: str, signature: str) -> None:
        """Raises ExportNotFoundError for anything but the very text that `sign` returned for this job.

        Whether the link has ended is not judged here, but from the export's row, by the database's clock.
        """
        if not (_EXPIRES.fullmatch(expires) and _SIGNATURE.fullmatch(signature)):
            raise ExportNotFoundError
        seconds = int(expires)
        # Every secret is tried, so the time taken doesn't tell which one fits. Comparing the text, not the decoded
        # bytes, keeps out the three other spellings that base64 allows for the last character.
        matches = [hmac.compare_digest(signature, _signature(key, job_id, seconds)) for key in self._keys]
        if not any(matches):
            raise ExportNotFoundError


def _signature(key: bytes, job_id: UUID, expires: int) -> str:
    digest = hmac.digest(key, _PURPOSE + job_id.bytes + expires.to_bytes(8, "big"), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
