"""Records of a package's files: as many as there are rows, so beyond a megabyte they wait on the disk."""

import tempfile
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

KEPT_IN_MEMORY = 2**20

Record = TypeVar("Record", bound=msgspec.Struct)


class Spool(Generic[Record]):
    """Records of one type, read in the order in which they were added."""

    def __init__(self, type_: type[Record]) -> None:
        self._decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(type_)
        self._file: Any = tempfile.SpooledTemporaryFile(max_size=KEPT_IN_MEMORY)  # noqa: SIM115 (see `close`)
        self._number = 0

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[Record]:
        """To be read after the last record was added."""
        self._file.seek(0)
        for line in self._file:
            yield self._decoder.decode(line)

    def add(self, record: Record) -> None:
        self._file.write(msgspec.json.encode(record) + b"\n")
        self._number += 1

    def close(self) -> None:
        self._file.close()
