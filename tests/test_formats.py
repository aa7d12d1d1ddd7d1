"""Every format has all that the service needs to make, store and describe its documents."""

from uuid import uuid4

import click
import pytest

from client.cli import export
from service.api.examples import EXAMPLES
from service.backends.database import Pool
from service.bookkeeping.exports import ExportRepository
from service.documents.datasets import Dataset
from service.documents.encoders import create_encoder
from service.documents.encoding import EncoderOptions
from service.formats import Format
from service.object_keys import OBJECT_KEY, object_key
from tests.support.documents import count_records, make_document, make_package
from tests.support.exports import insert_export
from tests.support.factories import Connection, create_user_with

pytestmark = pytest.mark.parametrize("format_", Format)


def test_has_an_encoder_of_its_media_type(format_: Format) -> None:
    if not format_.is_package:
        assert create_encoder(format_, EncoderOptions()).media_type == format_.media_type


def test_has_an_example_and_words_for_users(format_: Format) -> None:
    assert format_ in EXAMPLES
    assert format_.hint


def test_the_client_offers_it(format_: Format) -> None:
    [option] = [parameter for parameter in export.params if parameter.name == "format_"]
    assert isinstance(option.type, click.Choice)
    assert format_ in option.type.choices


async def test_tests_count_its_records(
    format_: Format, pool: Pool, datasets: tuple[Dataset, ...], database: Connection
) -> None:
    user_id = await create_user_with(database, 7)
    if format_.is_package:
        content = await make_package(pool, datasets, user_id)
    else:
        content = await make_document(pool, datasets, user_id, create_encoder(format_))
    assert count_records(content, format_) == 7


def test_its_orphaned_files_are_found(format_: Format) -> None:
    assert OBJECT_KEY.fullmatch(object_key(uuid4(), 1, format_, "0123456789ab"))


async def test_the_table_holds_it(format_: Format, database: Connection) -> None:
    export = await insert_export(ExportRepository(lease_seconds=5), database, format_=format_)
    assert export.format is format_
