"""The encoder of each format that has one."""

from collections.abc import Callable, Mapping
from typing import Final

from service.documents.csv_encoder import CsvEncoder
from service.documents.encoding import DEFAULTS, Encoder, EncoderOptions
from service.documents.json_encoder import JsonEncoder
from service.documents.ndjson_encoder import NdjsonEncoder
from service.documents.xlsx_encoder import XlsxEncoder
from service.formats import Format

ENCODERS: Final[Mapping[Format, Callable[[EncoderOptions], Encoder]]] = {
    Format.CSV: CsvEncoder,
    Format.JSON: JsonEncoder,
    Format.NDJSON: NdjsonEncoder,
    Format.XLSX: XlsxEncoder,
}


def create_encoder(format_: Format, options: EncoderOptions = DEFAULTS) -> Encoder:
    return ENCODERS[format_](options)
