"""`carryout verify` reads packages, damaged ones, and archives made to hurt."""

import hashlib
import io
import json
import struct
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from click.testing import CliRunner
from hypothesis import strategies as st

from client.console import Console
from client.errors import ChecksumError, ExitCode, OutputError
from client.verification import verify
from service.backends.database import Pool
from service.cli.commands import cli
from service.documents.datasets import Dataset
from tests.support.documents import make_package
from tests.support.factories import Connection, create_user

FILES = {"index.html": b"<!doctype html>", "files/photos/1-a.jpg": bytes(range(256)) * 100, "empty": b""}


def manifest_of(files: dict[str, bytes], **changes: Any) -> dict[str, Any]:
    resources = [
        {"path": path, "bytes": len(content), "hash": f"sha256:{hashlib.sha256(content).hexdigest()}"}
        for path, content in files.items()
    ]
    return {"name": "personal-data", "resources": resources} | changes


def archive_of(files: dict[str, bytes], manifest: Any) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        archive.writestr("datapackage.json", manifest if isinstance(manifest, bytes) else json.dumps(manifest))
    return sink.getvalue()


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(ChecksumError) as raised:
        verify(path, Console(quiet=True))
    return str(raised.value).replace(str(path), "FILE")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "my-data.zip"


def test_a_package_is_as_its_manifest_says(file: Path) -> None:
    file.write_bytes(archive_of(FILES, manifest_of(FILES, missing=[{"title": "b.jpg"}])))
    assert verify(file, Console(quiet=True)) == (3, sum(map(len, FILES.values())), 1)


async def test_a_real_one(pool: Pool, datasets: tuple[Dataset, ...], database: Connection, file: Path) -> None:
    content = await make_package(pool, datasets, await create_user(database, activity=700, content=3))
    file.write_bytes(content)
    with zipfile.ZipFile(file) as archive:
        assert verify(file, Console(quiet=True)).files == len(archive.namelist()) - 1


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        (FILES | {"index.html": b"<!doctype HTML>"}, "index.html has another checksum"),
        (FILES | {"empty": b"full"}, "empty has 4 bytes, not 0"),
        (FILES | {"more": b""}, "more isn't listed"),
        (FILES | {"../../more": b""}, "../../more isn't listed"),
        ({"index.html": FILES["index.html"]}, "files/photos/1-a.jpg is missing, and 1 more"),
    ],
)
def test_each_difference_is_named(file: Path, files: dict[str, bytes], fault: str) -> None:
    assert refusal(file, archive_of(files, manifest_of(FILES))) == f"FILE is not as its datapackage.json says: {fault}"


def test_twice_is_a_difference(file: Path) -> None:
    manifest = manifest_of(FILES)
    manifest["resources"] *= 2
    assert "is listed twice" in refusal(file, archive_of(FILES, manifest))
    sink = io.BytesIO(archive_of(FILES, manifest_of(FILES)))
    with zipfile.ZipFile(sink, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("index.html", b"another")
    assert "index.html is in it twice" in refusal(file, sink.getvalue())


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b'{"resources":' + b"[" * 100_000,
        b'{"resources":[{"path":"a","bytes":-1,"hash":"sha256:"}]}',
        b'{"resources":[{"path":"a","bytes":1,"hash":"md5:00"}]}',
        b'{"resources":[{"path":"a","bytes":1%s,"hash":"sha256:%s"}]}' % (b"0" * 30, b"0" * 64),
        b"\xff\xfe",
    ],
)
def test_another_manifest_is_refused(file: Path, manifest: bytes) -> None:
    assert "its datapackage.json isn't one of Carryout's" in refusal(file, archive_of({}, manifest))


def test_no_manifest_no_package(file: Path) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a", b"")
    assert refusal(file, sink.getvalue()) == "FILE is not a package: it has no datapackage.json"


def test_a_bomb_is_read_no_further_than_it_says(file: Path) -> None:
    """The manifest knows of one byte; the entry would be a gigabyte."""
    content = archive_of({"bomb": bytes(50_000_000)}, manifest_of({"bomb": b"0"}))
    assert refusal(file, content).endswith("bomb has 50,000,000 bytes, not 1")


def test_entries_that_share_their_bytes_are_refused(file: Path) -> None:
    """A small archive whose directory names one entry a thousand times."""
    content = archive_of({"kernel": bytes(5_000_000)}, manifest_of({}))
    start = content.index(b"PK\x01\x02")
    end = content.rindex(b"PK\x05\x06")
    directory = content[start:end]
    record = directory[: directory.index(b"PK\x01\x02", 4)]
    count = 1_000
    repeated = record * count + directory[len(record) :]
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count + 1, count + 1, len(repeated), start, 0)
    assert refusal(file, content[:start] + repeated + tail) == "FILE is not a package: its entries overlap"


def test_an_encrypted_entry_is_named(file: Path) -> None:
    content = bytearray(archive_of(FILES, manifest_of(FILES)))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    assert "index.html is encrypted" in refusal(file, bytes(content))


def test_a_directory_before_the_first_byte_is_refused(file: Path) -> None:
    """Its reader seeks to where it should begin; Python 3.11 gets EINVAL of the file then."""
    content = bytearray(archive_of(FILES, manifest_of(FILES)))
    size_at = content.rindex(b"PK\x05\x06") + 12
    content[size_at : size_at + 4] = struct.pack("<L", len(content))
    assert refusal(file, bytes(content)) == "FILE is not a whole ZIP"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_method_is_refused(file: Path, method: int) -> None:
    """Their decompressors raise errors of their own for damaged bytes; a package has none of them."""
    content = bytearray(archive_of(FILES, manifest_of(FILES)))
    entry = content.index(b"PK\x01\x02")
    content[entry + 10 : entry + 12] = struct.pack("<H", method)
    assert "another method than deflate" in refusal(file, bytes(content))


@hypothesis.settings(
    max_examples=300, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(data=st.data())
@pytest.mark.slow
def test_a_damaged_one_is_refused_with_a_sentence(file: Path, data: st.DataObject) -> None:
    """One byte is another one, or the end is missing. Where no reader looks, it may pass."""
    whole = archive_of(FILES, manifest_of(FILES))
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        damaged = whole[:place]
    else:
        damaged = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    file.write_bytes(damaged)
    with suppress(ChecksumError):
        assert verify(file, Console(quiet=True)).files == len(FILES)


def test_the_command(file: Path) -> None:
    file.write_bytes(archive_of(FILES, manifest_of(FILES, missing=[{}])))
    good = CliRunner().invoke(cli, ["verify", str(file)])
    assert good.exit_code == ExitCode.OK
    assert "3 files, 25,615 bytes, all as the manifest says" in good.output
    assert "1 attachment could not be included" in good.output
    file.write_bytes(b"none")
    bad = CliRunner().invoke(cli, ["verify", str(file)])
    assert bad.exit_code == ExitCode.CHECKSUM
    assert bad.output == f"carryout: {file} is not a whole ZIP\n"


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can't be read"):
        verify(tmp_path / "none.zip", Console(quiet=True))
