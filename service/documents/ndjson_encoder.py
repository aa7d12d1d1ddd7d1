"""NDJSON, for large imports: one object a line."""

from collections.abc import Sequence

import msgspec

from service.documents.datasets import Dataset
from service.documents.encoding import DEFAULTS, EncoderOptions
from service.documents.json_encoder import json_objects
from service.formats import Format


class NdjsonEncoder:
    """One object a line: `{"section":"user","row":{…}}` first, then each section's rows.

    A list has no user. The last line is `{"section":"end","records":N}`, so that a file cut at any byte is seen to be
    cut. It also holds the `filter`, if not all data was selected.
    """

    media_type = Format.NDJSON.media_type
    in_thread = False

    def __init__(self, options: EncoderOptions = DEFAULTS) -> None:
        self._options = options
        self._prefixes: list[bytes] = []
        self._records = 0

    def row_text(self, dataset: Dataset) -> str:
        return json_objects(dataset, big_as_text=self._options.big_as_text)

    def begin(self, datasets: Sequence[Dataset], exported_at: str, profile: bytes) -> bytes:  # noqa: ARG002 (no place for it)
        names = ["user", *(dataset.name for dataset in datasets[1:])]
        self._prefixes = [_prefix(name) for name in names]
        self._records = 1
        return self._prefixes[0] + profile + b"}\n"

    def begin_list(self, dataset: Dataset, exported_at: str) -> bytes:  # noqa: ARG002 (no place for it)
        self._prefixes = [_prefix(dataset.name)]
        return b""

    def rows(self, position: int, rows: Sequence[bytes], *, first: bool) -> bytes:  # noqa: ARG002 (each line is whole)
        self._records += len(rows)
        prefix = self._prefixes[position]
        return prefix + (b"}\n" + prefix).join(rows) + b"}\n"

    def added_bytes(self, position: int) -> int:
        return len(self._prefixes[position]) + len(b"}\n")

    def end_dataset(self, position: int, *, empty: bool) -> bytes:  # noqa: ARG002 (nothing to close)
        return b""

    def end(self) -> bytes:
        given = self._options.filter
        filter_ = b',"filter":' + msgspec.json.encode(given) if given else b""
        return b'{"section":"end","records":%d%b}\n' % (self._records, filter_)


def _prefix(section: str) -> bytes:
    return b'{"section":"%b","row":' % section.encode()
