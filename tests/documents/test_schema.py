"""Breaking changes between two schemas of documents. (tests/documents/test_round_trip.py validates documents.)."""

import copy

import pytest

from service.documents.datasets import Dataset
from service.documents.schema import Json, create_schema, list_breaking_changes


@pytest.fixture
def old(datasets: tuple[Dataset, ...]) -> Json:
    return create_schema(datasets)


@pytest.fixture
def new(old: Json) -> Json:
    return copy.deepcopy(old)


def test_additions_break_nothing(old: Json, new: Json) -> None:
    new["properties"]["orders"] = new["properties"]["content"]
    new["properties"]["activity"]["items"]["properties"]["city"] = {"type": ["string", "null"]}
    assert list_breaking_changes(old, new) == []


def test_what_is_gone(old: Json, new: Json) -> None:
    del new["properties"]["content"]
    del new["properties"]["user"]["properties"]["name"]
    assert list_breaking_changes(old, new) == ["Column name of user is gone", "Section content is gone"]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("id", {"type": ["string", "null"]}, "Column id of activity has other values: string"),
        ("kind", {"type": ["integer", "null"]}, "Column kind of activity has other values: integer"),
        ("occurred_at", {"type": ["string", "null"]}, "Column occurred_at of activity has other values: string"),
        ("ip", {}, "Column ip of activity has other values: any"),
    ],
)
def test_other_types(old: Json, new: Json, column: str, value: Json, said: str) -> None:
    new["properties"]["activity"]["items"]["properties"][column] = value
    changes = list_breaking_changes(old, new)
    assert changes == ([] if column == "id" else [said])  # a bigint may be a string already: `big=text`
