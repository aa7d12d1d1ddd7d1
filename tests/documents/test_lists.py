"""Which list files the start accepts for operators, and the one sentence with which it refuses the others."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.backends.database import Connection
from service.documents.datasets import load_user_lists
from service.errors import ConfigurationError
from service.settings import SQL_DIR
from tests.sql.sources import FORBIDDEN, OPERATORS_FORBIDDEN, open_source

WHERE = "WHERE ($1::text IS NULL OR email = $1) AND ($2::bigint IS NULL OR internal_id > $2)"
ORDER = "its ORDER BY must begin with the column that is id"
FIRST = "its first column must be id, an integer"
PARAMETERS = "its parameters must be $1::text, an e-mail address, and $2::bigint, an id"

ACCEPTED = {
    "by the number": f"SELECT internal_id AS id, email FROM users {WHERE} ORDER BY internal_id",
    "by the column's place": f"SELECT internal_id AS id, email FROM users {WHERE} ORDER BY 1",
    "by the column's name": f"SELECT internal_id AS id, email FROM users {WHERE} ORDER BY id",
    "of several tables": (
        "SELECT u.internal_id AS id, u.email, a.url FROM users u LEFT JOIN avatars a ON a.user_id = u.id "
        f"{WHERE} ORDER BY internal_id"
    ),
}
REFUSED = {
    "star": (f"SELECT * FROM users {WHERE} ORDER BY 1", "`*` would export columns that were not chosen"),
    "a hash": (
        f"SELECT internal_id AS id, password_hash FROM users {WHERE} ORDER BY 1",
        "column password_hash is forbidden (CARRYOUT_FORBIDDEN_COLUMNS)",
    ),
    "a hash by another name": (
        f"SELECT internal_id AS id, password_hash AS code FROM users {WHERE} ORDER BY 1",
        "it reads password_hash, which is forbidden (CARRYOUT_FORBIDDEN_COLUMNS)",
    ),
    "no id": (f"SELECT internal_id, email FROM users {WHERE} ORDER BY 1", FIRST),
    "id in another place": (f"SELECT email, internal_id AS id FROM users {WHERE} ORDER BY internal_id", FIRST),
    "id that is not an integer": (f"SELECT id, email FROM users {WHERE} ORDER BY id", FIRST),
    "no order": (f"SELECT internal_id AS id, email FROM users {WHERE}", ORDER),
    "another order": (f"SELECT internal_id AS id, email FROM users {WHERE} ORDER BY email", ORDER),
    "id second in the order": (
        f"SELECT internal_id AS id, email FROM users {WHERE} ORDER BY email, internal_id",
        ORDER,
    ),
    "descending": (f"SELECT internal_id AS id, email FROM users {WHERE} ORDER BY internal_id DESC", ORDER),
    "order that isn't unique": (
        f"SELECT internal_id AS id, p.title FROM users u JOIN posts p ON p.user_id = u.id {WHERE} ORDER BY internal_id",
        "its ORDER BY isn't known to be unique",
    ),
    "no parameters": ("SELECT internal_id AS id, email FROM users ORDER BY 1", PARAMETERS),
    "the user's id": ("SELECT internal_id AS id, email FROM users WHERE id = $1 ORDER BY 1", PARAMETERS),
    "parameters of other types": (
        "SELECT internal_id AS id, email FROM users WHERE email = $2::text AND internal_id > $1::bigint ORDER BY 1",
        PARAMETERS,
    ),
}


@pytest.fixture(scope="module")
async def source(server_url: str) -> AsyncIterator[Connection]:
    async with open_source(server_url) as connection:
        yield connection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "users").mkdir()
    return tmp_path


@pytest.mark.parametrize("case", ACCEPTED)
async def test_accepted(source: Connection, folder: Path, case: str) -> None:
    (folder / "users" / "export.sql").write_text(ACCEPTED[case])

    lists = await load_user_lists(source, folder, forbidden=OPERATORS_FORBIDDEN)

    assert [column.name for column in lists["export"].columns][:2] == ["id", "email"]


@pytest.mark.parametrize("case", REFUSED)
async def test_refused(source: Connection, folder: Path, case: str) -> None:
    sql, sentence = REFUSED[case]
    (folder / "users" / "export.sql").write_text(sql)

    with pytest.raises(ConfigurationError) as refused:
        await load_user_lists(source, folder, forbidden=OPERATORS_FORBIDDEN)

    assert refused.value.detail.startswith(f"Dataset users/export.sql: {sentence}")


async def test_the_number_is_for_operators_alone(source: Connection, folder: Path) -> None:
    (folder / "users" / "export.sql").write_text(ACCEPTED["by the number"])

    with pytest.raises(ConfigurationError, match="it reads internal_id, which is forbidden"):
        await load_user_lists(source, folder, forbidden=FORBIDDEN)


async def test_a_deployment_may_have_no_lists(source: Connection, tmp_path: Path) -> None:
    assert await load_user_lists(source, tmp_path, forbidden=OPERATORS_FORBIDDEN) == {}


async def test_our_own(database: Connection) -> None:
    lists = await load_user_lists(database, SQL_DIR / "datasets", forbidden=OPERATORS_FORBIDDEN)

    names = {name: ",".join(column.name for column in dataset.columns) for name, dataset in lists.items()}

    assert names == {
        "export": "id,email,name",
        "export_full": "id,email,name,created_at,updated_at,is_active,is_admin",
    }
