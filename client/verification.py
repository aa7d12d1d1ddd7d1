"""Compares each file of a package (ZIP) with its manifest. The package may be hostile: nothing is unpacked, and no file
is read further than the manifest says.
"""

import errno
import hashlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, NamedTuple

import msgspec

from client.console import Advance, Console
from client.errors import ChecksumError, OutputError

MANIFEST = "datapackage.json"
# A hundred thousand files take about 50 MB of it.
MAX_MANIFEST_BYTES = 512 * 1024 * 1024
PIECE_BYTES = 1024 * 1024
SHOWN_FAULTS = 20
ENCRYPTED = 0x1
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# All that zipfile raises for an archive that isn't one; NotImplementedError for what no package has.
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OverflowError)


class Resource(msgspec.Struct, frozen=True):
    path: str
    size_bytes: Annotated[int, msgspec.Meta(ge=0)] = msgspec.field(name="bytes")
    hash: Annotated[str, msgspec.Meta(pattern="^sha256:[0-9a-f]{64}$")]


class Package(msgspec.Struct, frozen=True):
    resources: list[Resource]
    missing: list[msgspec.Raw] = []


class Verified(NamedTuple):
    """`missing` are the attachments that the package says it lacks."""

    files: int
    size_bytes: int
    missing: int


def verify(path: Path, console: Console) -> Verified:
    """Raises ChecksumError for a package that isn't as its manifest says, and OutputError for a file that can't be
    read.
    """
    try:
        with path.open("rb") as file, _open_archive(path, file) as archive:
            return _verify(path, archive, console)
    except OSError as error:
        # A damaged directory points before the first byte, and seek refuses it; newer Pythons raise BadZipFile first.
        if error.errno == errno.EINVAL:
            raise ChecksumError(f"{path} is not a whole ZIP") from None
        raise OutputError(f"{path} can't be read: {error.strerror or error}") from None


def _open_archive(path: Path, file: IO[bytes]) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(file)
    except BROKEN:
        raise ChecksumError(f"{path} is not a whole ZIP") from None
    packed = sum(info.compress_size for info in archive.infolist())
    if any(info.compress_type not in METHODS for info in archive.infolist()):
        raise ChecksumError(f"{path} is not a package: it is compressed by another method than deflate")
    if packed > path.stat().st_size:
        raise ChecksumError(f"{path} is not a package: its entries overlap")
    return archive


def _verify(path: Path, archive: zipfile.ZipFile, console: Console) -> Verified:
    package = _read_manifest(path, archive)
    size_bytes = sum(resource.size_bytes for resource in package.resources)
    with console.progress("Checking", "bytes", size_bytes) as advance:
        faults = list(_find_faults(archive, package, advance))
    for fault in faults[:SHOWN_FAULTS]:
        console.say(fault)
    if faults:
        first, *others = faults
        more = f", and {len(others)} more" if others else ""
        raise ChecksumError(f"{path} is not as its {MANIFEST} says: {first}{more}")
    return Verified(len(package.resources), size_bytes, len(package.missing))


def _read_manifest(path: Path, archive: zipfile.ZipFile) -> Package:
    try:
        with archive.open(MANIFEST) as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except KeyError:
        raise ChecksumError(f"{path} is not a package: it has no {MANIFEST}") from None
    except BROKEN:
        raise ChecksumError(f"{path} is not a package: its {MANIFEST} is damaged") from None
    if len(text) > MAX_MANIFEST_BYTES:
        raise ChecksumError(f"{path} is not a package: its {MANIFEST} is too large")
    try:
        return msgspec.json.decode(text, type=Package)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ChecksumError(f"{path} is not a package: its {MANIFEST} isn't one of Carryout's") from None


def _find_faults(archive: zipfile.ZipFile, package: Package, advance: Advance) -> Iterator[str]:
    listed = Counter(resource.path for resource in package.resources)
    entries = Counter(archive.namelist())
    yield from (f"{path} is listed twice" for path, count in listed.items() if count > 1)
    yield from (f"{path} is in it twice" for path, count in entries.items() if count > 1)
    yield from (f"{path} isn't listed" for path in entries.keys() - listed.keys() - {MANIFEST})
    done = 0
    for resource in package.resources:
        if resource.path not in entries:
            yield f"{resource.path} is missing"
        elif fault := _find_fault(archive, resource):
            yield f"{resource.path} {fault}"
        done += resource.size_bytes
        advance(done)


def _find_fault(archive: zipfile.ZipFile, resource: Resource) -> str | None:
    info = archive.getinfo(resource.path)
    if info.flag_bits & ENCRYPTED:
        return "is encrypted"
    if info.file_size != resource.size_bytes:
        return f"has {info.file_size} bytes, not {resource.size_bytes}"
    digest = hashlib.sha256()
    try:
        with archive.open(info) as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
    except BROKEN:
        return "is damaged"
    return None if f"sha256:{digest.hexdigest()}" == resource.hash else "has another checksum"
