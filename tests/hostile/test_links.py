"""A link opens one file as it was signed; no other spelling of it does, and no header bends where it leads."""

import pytest

from tests.conftest import PUBLIC_URL
from tests.hostile.siege import Siege, status_of

FLIPS = (0x01, 0x20, 0x80)
REFUSED = {400, 401, 404, 405}
NO_LINE = b" \t\r\n\0"
EVIL = "evildoers.example"
ORIGINS = [
    f"X-Forwarded-Host: {EVIL}",
    f"X-Forwarded-Server: {EVIL}",
    "X-Forwarded-Proto: gopher-evildoers",
    "X-Forwarded-Port: 666",
    "X-Forwarded-Prefix: /evildoers",
    "X-Forwarded-Path: /evildoers",
    f"X-Original-Host: {EVIL}",
    f"X-Host: {EVIL}",
    f"X-Original-URL: http://{EVIL}/",
    f"X-Rewrite-URL: http://{EVIL}/",
    f"Forwarded: for=1.2.3.4;host={EVIL};proto=evildoers",
    f"Origin: http://{EVIL}",
    f"Referer: http://{EVIL}/",
    f"Base-Url: http://{EVIL}/",
]
HOSTS = [EVIL, f"{EVIL}:443", ""]
NO_HOSTS = [
    f"exports.example.com@{EVIL}",
    f"exports.example.com, {EVIL}",
    f"exports.example.com%0d%0aX: {EVIL}",
    f"[{EVIL}",
    f"{EVIL}/carryout?",
]


async def test_every_byte_counts(siege: Siege) -> None:
    link = siege.link.encode()
    flipped = {
        (at, bit): link[:at] + bytes([link[at] ^ bit]) + link[at + 1 :]
        for at in range(len(link))
        for bit in FLIPS
        if link[at] ^ bit not in NO_LINE
    }
    # The id in capitals is the same id: UUIDs have no case.
    begin = len("/api/export/")
    same = {(at, 0x20) for at in range(begin, begin + 36) if chr(link[at]).isalpha()}
    assert len(flipped) > 2.5 * len(link)
    statuses = await siege.send_all([(b"GET " + text + b" HTTP/1.1",) for text in flipped.values()])
    for where, status in zip(flipped, statuses, strict=True):
        assert status == 302 if where in same else status in REFUSED, (where, flipped[where])
    assert status_of(await siege.send(f"GET {siege.link} HTTP/1.1")) == 302


async def test_every_byte_is_needed(siege: Siege) -> None:
    link = siege.link.encode()
    shorter = [link[:at] + link[at + 1 :] for at in range(len(link))] + [link[:at] for at in range(1, len(link))]
    statuses = await siege.send_all([(b"GET " + text + b" HTTP/1.1",) for text in shorter])
    assert set(statuses) <= REFUSED | {200}
    # The beginnings of the path that are pages of their own: the users' page, and nothing that holds data.
    assert [text for text, status in zip(shorter, statuses, strict=True) if status == 200] == [b"/"]


@pytest.mark.parametrize("more", ["&expires=9999999999", "&signature=", "&expires=1&signature=x", "&%73ignature=x"])
async def test_a_second_value_of_a_parameter_is_refused(siege: Siege, more: str) -> None:
    assert status_of(await siege.send(f"GET {siege.link}{more} HTTP/1.1")) == 404
    path, _, query = siege.link.partition("?")
    assert status_of(await siege.send(f"GET {path}?{more[1:]}&{query} HTTP/1.1")) == 404
    later = query.replace("expires=", "expires=9", 1)
    assert status_of(await siege.send(f"GET {path}?{later}{more} HTTP/1.1")) in REFUSED


@pytest.mark.parametrize(
    "path",
    [
        "/api/export/../export/{job}/download",
        "//api/export/{job}/download",
        "/api/export/%2e%2e/export/{job}/download",
        "/api/export/{job}/download/",
        "/api/export/{job}/download;x=1",
        "/api/export/{job}%00/download",
        "/api/export/{job}%0d%0a/download",
        "/api/export/%7b{job}%7d/download",
        "/api/export/urn:uuid:{job}/download",
        "/api/export/{bare}/download",
        "/API/EXPORT/{job}/DOWNLOAD",
    ],
)
async def test_other_spellings_of_its_path(siege: Siege, path: str) -> None:
    old, _, query = siege.link.partition("?")
    job = old.split("/")[3]
    spelt = path.format(job=job, bare=job.replace("-", ""))
    for headers in ((), (siege.bearer,)):
        assert status_of(await siege.send(f"GET {spelt}?{query} HTTP/1.1", *headers)) in REFUSED


async def test_links_keep_the_configured_base(siege: Siege) -> None:
    job = siege.link.split("/")[3]
    lines = [
        f"GET /api/export/{job} HTTP/1.1",
        "GET /api/export HTTP/1.1",
        f"GET /api/export/{job}/events HTTP/1.1",
        f"GET {siege.link} HTTP/1.1",
        f"GET {siege.link}x HTTP/1.1",
        "GET /nowhere HTTP/1.1",
        "GET / HTTP/1.1",
        "GET /openapi.json HTTP/1.1",
    ]
    hostile = [*((header,) for header in ORIGINS), tuple(ORIGINS), *((f"Host: {host}",) for host in HOSTS)]
    link = f"{PUBLIC_URL}{siege.link}".encode()
    for line in lines:
        for headers in hostile:
            raw = await siege.send(line, siege.bearer, *headers)
            assert b"evildoers" not in raw, (line, headers)
            assert (link in raw) == (line in lines[:3]), (line, headers)
        for host in NO_HOSTS:
            raw = await siege.send(line, siege.bearer, f"Host: {host}")
            assert raw.startswith(b"HTTP/1.1 400 "), (line, host)
            assert b"evildoers" not in raw


async def test_an_absolute_address_in_the_request_does_not_change_links(siege: Siege) -> None:
    raw = await siege.send(f"GET http://{EVIL}/api/export HTTP/1.1", siege.bearer)
    assert b"evildoers" not in raw
