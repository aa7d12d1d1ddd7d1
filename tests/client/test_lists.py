"""Lists of users over connections that break anywhere."""

import random
from pathlib import Path

import pytest

from client.api import Api
from client.errors import RefusedError
from client.lists import MAX_RECORD_BYTES, CsvLayout, ListDownload, RecordSplitter, user_id_of
from client.outputs import open_output, part_path
from tests.api.serving import Served
from tests.client.conftest import Doors, OpenApi
from tests.conftest import patient_client
from tests.support.documents import read_csv

SIMPLE = "api/v1/users/export"
FULL = "api/v1/users/export-full"
RECORDS = [b'1,"a\r\nb",x\r\n', b'2,"say ""hi""\r\n",\r\n', b'3,"""\r\n""",""\r\n', b"4,,\r\n"]


class TestRecordSplitter:
    def test_any_two_cuts(self) -> None:
        text = b"".join(RECORDS)
        for first in range(len(text)):
            for second in range(first, len(text)):
                splitter = RecordSplitter()
                pieces = (text[:first], text[first:second], text[second:])
                assert [record for piece in pieces for record in splitter.split(piece)] == RECORDS
                assert splitter.between_records

    @pytest.mark.parametrize("start", [b"1,", b'1,"\r\n'])
    def test_a_record_without_an_end(self, start: bytes) -> None:
        splitter = RecordSplitter()
        assert splitter.split(start + b"x" * (MAX_RECORD_BYTES - len(start))) == []
        with pytest.raises(RefusedError, match="doesn't end"):
            splitter.split(b"x")

    def test_an_unfinished_record_is_held_back(self) -> None:
        text = b"".join(RECORDS)
        for end in range(1, len(text)):
            splitter = RecordSplitter()
            whole = b"".join(splitter.split(text[:end]))
            assert text.startswith(whole)
            assert splitter.between_records == (whole == text[:end])


@pytest.fixture
async def whole(served: Served, key: str) -> bytes:
    async with patient_client(served) as client:
        return (await client.get(f"/{FULL}", headers={"X-API-Key": key})).content


async def download(api: Api, path: Path, *, list_: str = FULL, resume: bool = False) -> int:
    with open_output(path, force=False, resume=resume) as output:
        layout = CsvLayout(user_id_of)
        query = {"format": "csv"}
        return await ListDownload(api, list_, query, layout, output=output, advance=lambda _rows: None).run()


async def test_cut_anywhere_it_ends_complete(
    open_api: OpenApi, doors: Doors, key: str, whole: bytes, tmp_path: Path
) -> None:
    at_random = random.Random(7)  # noqa: S311 (the same cuts each time)
    doors.api.cuts = [10, 700, *(at_random.randrange(1_000, 20_000) for _ in range(10))]
    async with open_api(credentials={"X-API-Key": key}) as api:
        assert await download(api, tmp_path / "users.csv") == len(read_csv(whole.decode())) - 1
    assert (tmp_path / "users.csv").read_bytes() == whole
    assert doors.api.asked.count(b"after=") >= 3


async def test_goes_on_with_what_an_earlier_run_left(open_api: OpenApi, key: str, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    async with open_api(credentials={"X-API-Key": key}) as api:
        for end in (0, 5, whole.index(b"\r\n") + 2, len(whole) // 2, whole.rindex(b"lines") + 3, len(whole)):
            part_path(path).write_bytes(whole[:end])
            assert await download(api, path, resume=True) == len(read_csv(whole.decode())) - 1
            assert path.read_bytes() == whole
            path.unlink()


async def test_refuses_to_go_on_with_another_list(open_api: OpenApi, key: str, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    left = whole[: len(whole) // 2]
    part_path(path).write_bytes(left)
    async with open_api(credentials={"X-API-Key": key}) as api:
        with pytest.raises(RefusedError, match="other columns"):
            await download(api, path, list_=SIMPLE, resume=True)
    assert left.startswith(part_path(path).read_bytes())
    assert not path.exists()
