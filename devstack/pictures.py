"""Small pictures for the sample application, and a user who has uploaded some."""

import datetime as dt
import shutil
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from uuid import UUID

from devstack.sample import SAMPLE_DIR
from service.backends.database import connect
from service.backends.storage import ObjectStorage
from service.settings import SQL_DIR

WIDTH, HEIGHT = 320, 200
PICTURES_DIR: Final = SAMPLE_DIR / "pictures"
# The value of CARRYOUT_FILE_STORES, in a bucket.
STORES: Final = "uploads=s3://{bucket}/uploads/{{user_id}}"
NAMES: Final = ("Hills.png", "Hills at noon.png", "Hills at dusk.png", "Way home.png", "Last light.png")
# Its row is there, and its file is gone.
LOST: Final = "Lost.png"
# The picture $3 belongs to the user's text with the same number.
INSERT: Final = """INSERT INTO public.pictures (user_id, name, key, created_at, content_id)
    SELECT $1::uuid, $2, 'uploads/' || $1::uuid || '/' || $3::int, $4::timestamptz,
        (SELECT id FROM public.content WHERE user_id = $1::uuid ORDER BY created_at, id OFFSET $3::int LIMIT 1)"""
FIRST_AT: Final = dt.datetime(2025, 6, 1, 9, tzinfo=dt.UTC)


def write_datasets(folder: Path) -> None:
    """The sample's datasets, and the one of the pictures."""
    shutil.copytree(SQL_DIR / "datasets", folder, dirs_exist_ok=True)
    shutil.copy(PICTURES_DIR / "pictures.sql", folder)


async def create_pictures(database_url: str, user_id: UUID) -> None:
    """The table, and the user's rows in it, also if it has them already."""
    rows = [(user_id, name, number, FIRST_AT + dt.timedelta(days=number)) for number, name in enumerate((*NAMES, LOST))]
    async with connect(database_url) as connection, connection.transaction():
        await connection.execute((PICTURES_DIR / "schema.sql").read_text(encoding="utf-8"))
        await connection.execute("DELETE FROM public.pictures WHERE user_id = $1", user_id)
        await connection.executemany(INSERT, rows)


async def upload_pictures(storage: ObjectStorage, user_id: UUID) -> None:
    for number in range(len(NAMES)):
        content = draw_picture(number * 50)
        await storage.upload(f"uploads/{user_id}/{number}", _once(content), content_type="image/png")


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def draw_picture(hue: int) -> bytes:
    """A PNG of hills before an evening sky, in a colour of its own for each `hue` (0 to 255)."""
    rows = b"".join(b"\0" + b"".join(_pixel(x, y, hue) for x in range(WIDTH)) for y in range(HEIGHT))
    head = struct.pack(">2I5B", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")


def _pixel(x: int, y: int, hue: int) -> bytes:
    hill = 120 + abs((x + hue) % 160 - 80) // 2
    if y > hill:
        return bytes((20 + hue // 6, 60 + (y - hill) // 2, 50))
    return bytes((min(255, 90 + y), (hue + y) // 2, min(255, 200 - y // 3)))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
