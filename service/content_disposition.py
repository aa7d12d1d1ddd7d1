"""The names that downloads are saved under."""

import re
from urllib.parse import quote

UNSAFE = re.compile(r"[^A-Za-z0-9._ -]")
NEVER = re.compile(r"[\x00-\x1f\x7f/\\]")


def attachment(filename: str) -> str:
    """Content-Disposition for a download; a name that isn't plain ASCII is given twice (RFC 6266, RFC 8187)."""
    name = NEVER.sub("_", filename)
    plain = UNSAFE.sub("_", name)
    disposition = f'attachment; filename="{plain}"'
    if plain != name:
        disposition += f"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
    return disposition
