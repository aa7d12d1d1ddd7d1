"""datapackage.json: each file of a package with its size and checksum (datapackage.org, version 2)."""

import tempfile
from collections.abc import AsyncGenerator, Mapping
from typing import Any, TypeAlias

import msgspec

from service.documents.datasets import Column, Dataset
from service.documents.package.archive import Entry
from service.documents.package.spool import Spool
from service.documents.selection import title_of

Json: TypeAlias = dict[str, Any]

PATH = "datapackage.json"
SCHEMA = "https://datapackage.org/profiles/2.0/datapackage.json"
KEPT_IN_MEMORY = 2**20
MEDIA_TYPES = {"csv": "text/csv", "html": "text/html", "ndjson": "application/x-ndjson"}
# Readers that aren't told guess, and take `;` for the delimiter where cells hold nothing else (Table Dialect).
DIALECT: Mapping[str, object] = {"delimiter": ",", "lineTerminator": "\r\n", "quoteChar": '"', "doubleQuote": True}
# Types of Table Schema. A type that isn't listed is written as text.
TYPES: Mapping[str, str] = {
    "bool": "boolean",
    "int2": "integer",
    "int4": "integer",
    "int8": "integer",
    "float4": "number",
    "float8": "number",
    "numeric": "number",
    "timestamptz": "datetime",
    "timestamp": "datetime",
    "date": "date",
    "json": "any",
    "jsonb": "any",
}


class MissingFile(msgspec.Struct, frozen=True):
    """A file that a row names, and that isn't in the package."""

    section: str
    row: int
    title: str
    reason: str


class Manifest:
    """Grows with the archive; beyond a megabyte on the disk, as a package may have a hundred thousand files."""

    def __init__(self, moment: str) -> None:
        self._head: Json = {"$schema": SCHEMA, "name": "personal-data", "title": "Your data", "created": moment}
        self._resources = tempfile.SpooledTemporaryFile(max_size=KEPT_IN_MEMORY)  # noqa: SIM115 (see `close`)
        self._number = 0
        self._missing = Spool(MissingFile)

    def close(self) -> None:
        self._resources.close()
        self._missing.close()

    def add_missing(self, file: "MissingFile") -> None:
        self._missing.add(file)

    def add(self, entry: Entry, facts: Json) -> None:
        """`facts` are members beside those that every file has, such as those of `describe_table`."""
        self._number += 1
        extension = entry.path.rpartition(".")[2]
        resource = {
            "name": f"file-{self._number}",
            "path": entry.path,
            **({"mediatype": MEDIA_TYPES[extension]} if extension in MEDIA_TYPES else {}),
            "bytes": entry.size_bytes,
            "hash": f"sha256:{entry.sha256}",
            **facts,
        }
        self._resources.write((b",\n" if self._number > 1 else b"") + msgspec.json.encode(resource))

    async def content(self, **further: object) -> AsyncGenerator[bytes, None]:
        """The file, with `further` members."""
        yield msgspec.json.encode(self._head | further)[:-1]
        if len(self._missing):
            for number, file in enumerate(self._missing):
                yield (b",\n" if number else b',"missing":[\n') + msgspec.json.encode(file)
            yield b"\n]"
        yield b',"resources":[\n'
        self._resources.seek(0)
        while piece := self._resources.read(KEPT_IN_MEMORY):
            yield piece
        yield b"\n]}\n"


def table_path(dataset: Dataset) -> str:
    """The path of the section's CSV."""
    return f"data/{dataset.name}.csv"


def describe_table(dataset: Dataset, rows: int) -> Json:
    """The facts about a section's CSV (Table Schema). Its empty cells are NULL, and quoted empty ones empty texts."""
    about = {"description": dataset.facts.about} if dataset.facts.about else {}
    return {
        "name": dataset.name,
        "title": title_of(dataset),
        **about,
        "type": "table",
        "format": "csv",
        "encoding": "utf-8",
        "dialect": DIALECT,
        "rows": rows,
        "schema": {"fields": [_field(dataset, column) for column in dataset.columns]},
    }


def _field(dataset: Dataset, column: Column) -> Json:
    about = dataset.facts.columns.get(column.name)
    type_ = TYPES.get(column.type_name, "string") if column.cast_name else "string"
    return {"name": column.name, "type": type_} | ({"description": about} if about else {})
