"""Sample facts of each kind of mail: what templates are tried with at the start, and what a preview shows."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

# With characters that HTML must escape.
REASON: Final = "Your letter of <1 March>, & your call"
READY: Final[dict[str, object]] = {
    "created_at": datetime(2026, 3, 1, 9, 30, tzinfo=UTC),
    "expires_at": datetime(2026, 3, 8, 9, 31, 59, tzinfo=UTC),
    "format": "csv",
    "selection": "",
    "reason": None,
    "records": 54_321,
    "size_bytes": 12_345_678,
    "sha256": "5f" * 32,
    "files_included": 0,
    "files_missing": 0,
    "url": f"https://exports.example.com/api/export/{UUID(int=1)}/download?expires=1772962319&signature={'s' * 43}",
}
FAILED: Final[dict[str, object]] = {
    "created_at": READY["created_at"],
    "format": "json",
    "selection": "",
    "reason": None,
    "job_id": UUID(int=1),
    "error_message": "The export could not be made. Please ask for it again later.",
}
# The usual one first; each branch of a template is in one of them.
SAMPLES: Final[Mapping[str, tuple[Mapping[str, object], ...]]] = {
    "ready": (
        READY,
        {**READY, "reason": REASON, "selection": "activity, from 2025-01-01", "records": 1, "size_bytes": 1},
        {**READY, "format": "zip", "files_included": 1_200, "files_missing": 1},
    ),
    "failed": (FAILED, {**FAILED, "reason": REASON, "selection": "activity, from 2025-01-01"}),
}
