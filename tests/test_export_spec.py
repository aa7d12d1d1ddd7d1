"""The spec of an export: its digest, and its way into the row and back."""

import datetime as dt
from uuid import UUID, uuid4

import msgspec
import pytest

from service.bookkeeping.audit import SYSTEM
from service.bookkeeping.exports import ExportRepository, ExportRequest
from service.export_spec import ExportSpec
from service.formats import Format
from tests.support.exports import UNLIMITED
from tests.support.factories import Connection

PLAIN = ExportSpec(UUID(int=1), Format.CSV)
# A release that knew no other fields computed it, and its idempotency keys stay valid.
DIGEST_OF_PLAIN = "ffc00bc1b6845432e35bcb3080a09298fe72bc001f6a51b86b24ff6cd7dd43ae"
NEW_YEAR = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
OTHERS: list[dict[str, object]] = [
    {"user_id": UUID(int=2)},
    {"format": Format.JSON},
    {"sections": ("user",)},
    {"sections": ("activity",)},
    {"start": NEW_YEAR},
    {"end": NEW_YEAR},
    {"since": UUID(int=3)},
    {"bom": True},
    {"big_as_text": True},
    {"unguarded": True},
]


def test_digest_of_all_data_is_that_of_earlier_releases() -> None:
    assert PLAIN.digest.hex() == DIGEST_OF_PLAIN


def test_every_field_counts() -> None:
    specs = [PLAIN, *(msgspec.structs.replace(PLAIN, **fields) for fields in OTHERS)]
    assert {field for fields in OTHERS for field in fields} == set(ExportSpec.__struct_fields__)
    assert len({spec.digest for spec in specs}) == len(specs)


@pytest.mark.parametrize("fields", OTHERS)
async def test_row_gives_it_back(database: Connection, fields: dict[str, object]) -> None:
    spec = msgspec.structs.replace(PLAIN, **({"user_id": uuid4()} | fields))
    request = ExportRequest(spec=spec, actor=SYSTEM)
    exports = ExportRepository(lease_seconds=5)
    created = (await exports.admit(database, request, UNLIMITED, queued=True, estimated_records=1)).export
    assert created
    assert created.spec == spec
    assert created.spec.digest == created.spec_digest
