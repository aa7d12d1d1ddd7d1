"""Small pictures for the sample application."""

import struct
import zlib

WIDTH, HEIGHT = 320, 200


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
