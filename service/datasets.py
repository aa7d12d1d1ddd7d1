"""Datasets: one SQL file each, a SELECT of exactly the columns that may leave, `$1` the user.

They are read and checked once, at start-up, against the live source database. Whatever breaks a rule stops the start
with one sentence.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import asyncpg
import msgspec

from service.database import QUERIES, Connection
from service.errors import ConfigurationError
from service.plans import Plan, check_unique_order, explain, identifiers, outputs, reads_whole_row

PROFILE = "profile"
PROFILE_COLUMNS = {"id", "email"}
NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
RESERVED_NAMES = {"exported_at", "user"}  # members of the JSON document
COMMENT_OR_QUOTED = re.compile(
    r"""--[^\n]*|/\*.*?\*/|(?P<quoted>\be'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|(\$\w*\$).*?\2)""",
    re.DOTALL | re.IGNORECASE,
)
STAR = re.compile(r"\.\s*\*|\*\s*(?:,|from\b)", re.IGNORECASE)  # neither count(*) nor a product
ORDER_BY = re.compile(r"\border\s+by\b", re.IGNORECASE)
USER_ID_TYPE_NAMES = {"uuid": "uuid", "int8": "bigint", "text": "text"}


class Column(msgspec.Struct, frozen=True):
    """A result column; `type_name` and `category` are pg_type's typname and typcategory."""

    name: str
    type_name: str
    category: str


class Dataset(msgspec.Struct, frozen=True):
    """`sql` yields `columns`, in a unique order, for the user in `$1`."""

    name: str
    sql: str
    columns: tuple[Column, ...]


async def load_datasets(
    connection: Connection, directory: Path, *, user_id_type: str, forbidden: Sequence[str]
) -> tuple[Dataset, ...]:
    """The profile first, then the others by file name. Raises ConfigurationError for the first rule that is broken."""
    paths = sorted(directory.glob("*.sql"), key=lambda path: (path.stem != PROFILE, path.stem))
    if not paths or paths[0].stem != PROFILE:
        raise ConfigurationError(f"CARRYOUT_DATASETS_DIR: {directory} holds no {PROFILE}.sql")
    datasets = [await _load_dataset(connection, path, user_id_type=user_id_type, forbidden=forbidden) for path in paths]
    if repeated := _find_repeated(csv_names(datasets)):
        raise ConfigurationError(f"Two columns of the CSV would be called {repeated}: rename a dataset or a column")
    return tuple(datasets)


def csv_names(datasets: Sequence[Dataset]) -> list[str]:
    """The names in a CSV's header; `datasets` begins with the profile."""
    profile, *others = datasets
    names = ["user_id" if column.name == "id" else column.name for column in profile.columns]
    return names + [f"{dataset.name}_{column.name}" for dataset in others for column in dataset.columns]


async def _load_dataset(connection: Connection, path: Path, *, user_id_type: str, forbidden: Sequence[str]) -> Dataset:
    try:
        sql = path.read_text(encoding="utf-8").strip().removesuffix(";") + "\n"  # so that a comment ends there
        code = COMMENT_OR_QUOTED.sub(lambda found: "x" if found["quoted"] else " ", sql)
        _check_text(path.stem, code)
        statement = await connection.prepare(f'SELECT * FROM ({sql}) AS "row"')  # noqa: S608 (an operator's file)
        _check_parameters(statement.get_parameters(), user_id_type)
        columns = await _columns(connection, statement.get_attributes())
        _check_names(columns, forbidden)
        plan = await explain(connection, sql, user_id_type)
        _check_origins(plan, columns, forbidden)
        if path.stem == PROFILE:
            _check_profile(columns)
        else:
            await check_unique_order(connection, plan, has_order_by=ORDER_BY.search(code) is not None)
    except UnicodeDecodeError:
        raise ConfigurationError(f"Dataset {path.name}: it is not UTF-8") from None
    except (ConfigurationError, asyncpg.PostgresError) as error:
        raise ConfigurationError(f"Dataset {path.name}: {error.args[0]}") from None
    return Dataset(path.stem, sql, columns)


def _check_text(name: str, code: str) -> None:
    if not NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise ConfigurationError("its file name must be lower-case letters, digits and underscores, and not reserved")
    if STAR.search(code):
        raise ConfigurationError("`*` would let columns leave that nobody chose; list the columns")


def _check_parameters(parameters: Sequence[asyncpg.Type], user_id_type: str) -> None:
    if len(parameters) != 1:
        raise ConfigurationError(f"it must have exactly one parameter, $1, the user's id; it has {len(parameters)}")
    if USER_ID_TYPE_NAMES.get(parameters[0].name) != user_id_type:
        raise ConfigurationError(
            f"$1 is {parameters[0].name}, but user ids are {user_id_type} (CARRYOUT_USER_ID_TYPE): "
            f"write $1::{user_id_type}"
        )


async def _columns(connection: Connection, attributes: Sequence[asyncpg.Attribute]) -> tuple[Column, ...]:
    names = [attribute.name for attribute in attributes]
    if not names:
        raise ConfigurationError("it has no columns")
    if repeated := _find_repeated(names):
        raise ConfigurationError(f"two columns are called {repeated}")
    if "?column?" in names:
        raise ConfigurationError("an expression has no name; add AS")
    types = await connection.fetch(QUERIES["list_types"], [attribute.type.oid for attribute in attributes])
    return tuple(Column(name, row["name"], row["category"]) for name, row in zip(names, types, strict=True))


def _find_repeated(names: Sequence[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)


def _check_profile(columns: Sequence[Column]) -> None:
    for missing in sorted(PROFILE_COLUMNS - {column.name for column in columns}):
        raise ConfigurationError(f"it has no column {missing}, which every profile needs")


def _check_names(columns: Sequence[Column], forbidden: Sequence[str]) -> None:
    for column in columns:
        if _is_forbidden(column.name, forbidden):
            raise ConfigurationError(f"column {column.name} is forbidden (CARRYOUT_FORBIDDEN_COLUMNS)")


def _is_forbidden(name: str, forbidden: Sequence[str]) -> bool:
    return any(fnmatchcase(name.lower(), pattern.lower()) for pattern in forbidden)


def _check_origins(plan: Plan, columns: Sequence[Column], forbidden: Sequence[str]) -> None:
    for output in outputs(plan, len(columns)):
        if reads_whole_row(output):
            raise ConfigurationError("a whole row would let columns leave that nobody chose; list the columns")
        for name in identifiers(output):
            if _is_forbidden(name, forbidden):
                raise ConfigurationError(f"it reads {name}, which is forbidden (CARRYOUT_FORBIDDEN_COLUMNS)")
