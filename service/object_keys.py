"""Keys of the files' objects in the storage: `exports/<job>/<attempt>-<mark>.<format>`."""

import re
import uuid

from service.formats import Format

KEYS = "exports/"
# The mark names the installation; earlier releases wrote none.
OBJECT_KEY = re.compile(
    r"exports/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/([0-9]{1,9})(?:-([0-9a-f]{12}))?\.(?:"
    + "|".join(Format)
    + ")"
)


def object_key(job_id: uuid.UUID, attempt: int, format_: Format, mark: str) -> str:
    """The key of an attempt's object: free of personal data and unique."""
    return f"{KEYS}{job_id}/{attempt}-{mark}.{format_}"
