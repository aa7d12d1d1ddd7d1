"""Names of a package's files that every system can unpack: from names and keys that users have chosen."""

import unicodedata
from typing import Final

# With a row's number, and a folder's name, far below the 255 bytes of a file name and the 260 characters of a path.
MAX_BYTES: Final = 120
MAX_EXTENSION_BYTES: Final = 20
ALLOWED: Final = frozenset("-_.,()+@ ")
UNNAMED: Final = "file"


def attachment_path(section: str, row: int, number: int, name: str) -> str:
    """The path of the row's file; `number` counts the files of a row from 0.

    The row's number makes it unique, also where case counts for nothing, and keeps it from being a device's name.
    """
    which = f"{row}.{number + 1}" if number else f"{row}"
    return f"files/{section}/{which}-{safe_name(name)}"


def safe_name(name: str) -> str:
    """The last part of a path: letters, marks and digits of any script, and a few signs; shortened before its
    extension.
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    kept = "".join(character if _is_safe(character) else "_" for character in unicodedata.normalize("NFC", last))
    stem, dot, extension = kept.strip(" .").rpartition(".")
    if not dot or len(extension.encode()) > MAX_EXTENSION_BYTES:
        stem, dot, extension = kept.strip(" ."), "", ""
    short = _cut(stem, MAX_BYTES - len((dot + extension).encode())).rstrip(" .")
    return (short + dot + extension) or UNNAMED


def _is_safe(character: str) -> bool:
    return character in ALLOWED or unicodedata.category(character)[0] in "LMN"


def _cut(text: str, most_bytes: int) -> str:
    return text.encode()[:most_bytes].decode(errors="ignore")
