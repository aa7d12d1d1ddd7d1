"""The formats of documents, in one place. All lists, names and stored values of formats derive from here."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from languages.words import to_translate


class Format(StrEnum):
    """A format of documents. Its value is its name in requests, and the extension of its files.

    A new format also needs an encoder (named in `service.documents.encoders`) unless it is a package, an example in the
    OpenAPI document (`service.api.examples`), and a migration of the table's constraint. A test fails for each that is
    missing.
    """

    CSV = "csv"
    JSON = "json"
    NDJSON = "ndjson"
    XLSX = "xlsx"
    ZIP = "zip"

    @property
    def media_type(self) -> str:
        return _FACTS[self].media_type

    @property
    def hint(self) -> str:
        """The format's use, as a message for users."""
        return _FACTS[self].hint

    @property
    def is_compressed(self) -> bool:
        return self in {Format.XLSX, Format.ZIP}

    @property
    def is_package(self) -> bool:
        """Whether it is made of several files, by a worker; the others have an encoder and can be streamed."""
        return self is Format.ZIP


class _Facts(NamedTuple):
    media_type: str
    hint: str


_FACTS: Final[Mapping[Format, _Facts]] = {
    Format.CSV: _Facts("text/csv; charset=utf-8", to_translate("One table, for any program")),
    Format.JSON: _Facts("application/json", to_translate("Structured, for other services")),
    Format.NDJSON: _Facts("application/x-ndjson", to_translate("One record a line, for large imports")),
    Format.XLSX: _Facts(
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        to_translate("A spreadsheet, for Excel and LibreOffice"),
    ),
    Format.ZIP: _Facts("application/zip", to_translate("Everything to read, with tables, for keeping")),
}

STREAMED_FORMATS: Final = tuple(format_ for format_ in Format if not format_.is_package)
