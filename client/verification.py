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
from client.words import gettext, ngettext, number, size
from languages.words import to_translate

MANIFEST = "datapackage.json"
# A hundred thousand files take about 50 MB of it.
MAX_MANIFEST_BYTES = 512 * 1024 * 1024
MAX_FILE_BYTES = 2**63 - 1
PIECE_BYTES = 1024 * 1024
SHOWN_FAULTS = 20
NOT_WHOLE = to_translate("%(path)s is not a whole ZIP")
ENCRYPTED = 0x1
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# All that zipfile raises for an archive that isn't one; NotImplementedError for what no package has.
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OverflowError)


class Resource(msgspec.Struct, frozen=True):
    path: str
    size_bytes: Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_BYTES)] = msgspec.field(name="bytes")
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
            raise ChecksumError(gettext(NOT_WHOLE, path=path)) from None
        sentence = gettext("%(path)s can't be read: %(reason)s", path=path, reason=error.strerror or error)
        raise OutputError(sentence) from None


def _open_archive(path: Path, file: IO[bytes]) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(file)
    except BROKEN:
        raise ChecksumError(gettext(NOT_WHOLE, path=path)) from None
    packed = sum(info.compress_size for info in archive.infolist())
    if any(info.compress_type not in METHODS for info in archive.infolist()):
        sentence = gettext("%(path)s is not a package: it is compressed by another method than deflate", path=path)
        raise ChecksumError(sentence)
    if packed > path.stat().st_size:
        raise ChecksumError(gettext("%(path)s is not a package: its entries overlap", path=path))
    return archive


def _verify(path: Path, archive: zipfile.ZipFile, console: Console) -> Verified:
    package = _read_manifest(path, archive)
    size_bytes = sum(resource.size_bytes for resource in package.resources)
    with console.progress(gettext("Checking"), size, size_bytes) as advance:
        faults = list(_find_faults(archive, package, advance))
    for fault in faults[:SHOWN_FAULTS]:
        console.say(fault)
    if faults:
        raise ChecksumError(_summary(path, faults))
    return Verified(len(package.resources), size_bytes, len(package.missing))


def _summary(path: Path, faults: list[str]) -> str:
    first, *others = faults
    sentence = gettext("%(path)s is not as its datapackage.json says: %(fault)s", path=path, fault=first)
    if not others:
        return sentence
    return ngettext("%(faults)s, and %(number)s more", "%(faults)s, and %(number)s more", len(others), faults=sentence)


def _read_manifest(path: Path, archive: zipfile.ZipFile) -> Package:
    try:
        with archive.open(MANIFEST) as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except KeyError:
        raise ChecksumError(gettext("%(path)s is not a package: it has no datapackage.json", path=path)) from None
    except BROKEN:
        sentence = gettext("%(path)s is not a package: its datapackage.json is damaged", path=path)
        raise ChecksumError(sentence) from None
    if len(text) > MAX_MANIFEST_BYTES:
        raise ChecksumError(gettext("%(path)s is not a package: its datapackage.json is too large", path=path))
    try:
        return msgspec.json.decode(text, type=Package)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        sentence = gettext("%(path)s is not a package: its datapackage.json isn't one of Carryout's", path=path)
        raise ChecksumError(sentence) from None


def _find_faults(archive: zipfile.ZipFile, package: Package, advance: Advance) -> Iterator[str]:
    listed = Counter(resource.path for resource in package.resources)
    entries = Counter(archive.namelist())
    yield from (gettext("%(path)s is listed twice", path=path) for path, count in listed.items() if count > 1)
    yield from (gettext("%(path)s is in it twice", path=path) for path, count in entries.items() if count > 1)
    yield from (gettext("%(path)s isn't listed", path=path) for path in entries.keys() - listed.keys() - {MANIFEST})
    done = 0
    for resource in package.resources:
        if resource.path not in entries:
            yield gettext("%(path)s is missing", path=resource.path)
        elif fault := _find_fault(archive, resource):
            yield fault
        done += resource.size_bytes
        advance(done)


def _find_fault(archive: zipfile.ZipFile, resource: Resource) -> str | None:
    info = archive.getinfo(resource.path)
    if info.flag_bits & ENCRYPTED:
        return gettext("%(path)s is encrypted", path=resource.path)
    if info.file_size != resource.size_bytes:
        found, listed = size(info.file_size), number(resource.size_bytes)
        return gettext("%(path)s has %(found)s, not %(listed)s", path=resource.path, found=found, listed=listed)
    digest = hashlib.sha256()
    try:
        with archive.open(info) as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
    except BROKEN:
        return gettext("%(path)s is damaged", path=resource.path)
    is_right = f"sha256:{digest.hexdigest()}" == resource.hash
    return None if is_right else gettext("%(path)s has another checksum", path=resource.path)
