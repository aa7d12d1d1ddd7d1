"""Datasets: one SQL file each, a SELECT of exactly the columns that may leave, `$1` the user.

The operators' lists, in `users/` below them, are datasets too: `$1` is an e-mail address or null for everybody, `$2`
the id of the last row that isn't wanted any more, or null for all.

They are read and checked once, at start-up, against the live source database. Whatever breaks a rule stops the start
with one sentence.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import asyncpg
import msgspec

from service.database import QUERIES, Connection
from service.errors import ConfigurationError
from service.plans import (
    Plan,
    check_column_names,
    check_unique_order,
    explain,
    hides_expressions,
    identifiers,
    is_ordered_by_first_output,
    outputs,
    reads_whole_row,
    tables,
)

PROFILE = "profile"
LISTS_FOLDER = "users"
LIST_PARAMETERS = ["text", "bigint"]
PROFILE_COLUMNS = {"id", "email"}
MAX_NAME_CHARACTERS = 41
NAME = re.compile(rf"[a-z][a-z0-9_]{{0,{MAX_NAME_CHARACTERS - 1}}}")
RESERVED_NAMES = {"exported_at", "user"}  # members of the JSON document
COMMENT_OR_QUOTED = re.compile(
    r"""--[^\n]*|/\*.*?\*/|(?P<quoted>\be'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|(\$\w*\$).*?\2)""",
    re.DOTALL | re.IGNORECASE,
)
STAR = re.compile(r"\.\s*\*|\*\s*(?:,|from\b)", re.IGNORECASE)  # neither count(*) nor a product
ORDER_BY = re.compile(r"\border\s+by\b", re.IGNORECASE)
INTEGERS = {"int2", "int4", "int8"}
PARAMETER_TYPE_NAMES = {"uuid": "uuid", "int8": "bigint", "text": "text"}


class Column(msgspec.Struct, frozen=True):
    """A result column; `type_name` and `category` are pg_type's typname and typcategory.

    `cast_name` is the type's name in a cast, if it is one of PostgreSQL's own.
    """

    name: str
    type_name: str
    category: str
    cast_name: str | None


class Dataset(msgspec.Struct, frozen=True):
    """`sql` yields `columns`, in a unique order, for its parameters; `tables`, each a schema and a name, are
    all that it reads, also behind views.
    """

    name: str
    sql: str
    columns: tuple[Column, ...]
    tables: tuple[tuple[str, str], ...]


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


async def load_user_lists(connection: Connection, directory: Path, *, forbidden: Sequence[str]) -> dict[str, Dataset]:
    """The operators' lists in `directory`/users by file name. Raises ConfigurationError as `load_datasets` does.

    The first column is the integer `id`, and the rows are in its order, so that a list can be resumed.
    """
    paths = sorted((directory / LISTS_FOLDER).glob("*.sql"))
    return {path.stem: await _load_list(connection, path, forbidden=forbidden) for path in paths}


async def list_exposed_columns(
    connection: Connection, datasets: Sequence[Dataset], *, forbidden: Sequence[str]
) -> list[str]:
    """The forbidden columns, as `schema.table.column`, of the tables that the datasets read, which this connection's
    role could read too: what keeps them back is Carryout alone.
    """
    read = sorted({table for dataset in datasets for table in dataset.tables})
    rows = await connection.fetch(
        QUERIES["list_readable_columns"], [schema for schema, _ in read], [name for _, name in read]
    )
    return [f"{row['schema']}.{row['table']}.{row['column']}" for row in rows if is_forbidden(row["column"], forbidden)]


def read_sql(path: Path) -> str:
    """One statement, without its semicolon; it ends in a line break, so that a comment ends there, too."""
    return path.read_text(encoding="utf-8").strip().removesuffix(";") + "\n"


def is_forbidden(name: str, forbidden: Sequence[str]) -> bool:
    """Whether one of the globs in `forbidden` matches `name`, in whatever case."""
    return any(fnmatchcase(name.lower(), pattern.lower()) for pattern in forbidden)


def csv_names(datasets: Sequence[Dataset]) -> list[str]:
    """The names in a CSV's header; `datasets` begins with the profile."""
    profile, *others = datasets
    names = ["user_id" if column.name == "id" else column.name for column in profile.columns]
    return names + [f"{dataset.name}_{column.name}" for dataset in others for column in dataset.columns]


async def _load_dataset(connection: Connection, path: Path, *, user_id_type: str, forbidden: Sequence[str]) -> Dataset:
    with _naming(path.name):
        sql = _read(path)
        columns, plan = await _inspect(connection, sql, [user_id_type], forbidden)
        if path.stem == PROFILE:
            _check_profile(columns)
        else:
            await check_unique_order(connection, plan, has_order_by=_has_order_by(sql))
    return Dataset(path.stem, sql, columns, tables(plan))


async def _load_list(connection: Connection, path: Path, *, forbidden: Sequence[str]) -> Dataset:
    with _naming(f"{LISTS_FOLDER}/{path.name}"):
        sql = _read(path)
        columns, plan = await _inspect(connection, sql, LIST_PARAMETERS, forbidden)
        if columns[0].name != "id" or columns[0].type_name not in INTEGERS:
            raise ConfigurationError("its first column must be id, an integer")
        if not (_has_order_by(sql) and is_ordered_by_first_output(plan)):
            raise ConfigurationError("its ORDER BY must begin with the column that is id")
        await check_unique_order(connection, plan, has_order_by=True)
    return Dataset(path.stem, sql, columns, tables(plan))


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError:
        raise ConfigurationError(f"Dataset {name}: it is not UTF-8") from None
    except (ConfigurationError, asyncpg.PostgresError) as error:
        raise ConfigurationError(f"Dataset {name}: {error.args[0]}") from None


def _read(path: Path) -> str:
    sql = read_sql(path)
    _check_text(path.stem, _code(sql))
    return sql


def _code(sql: str) -> str:
    return COMMENT_OR_QUOTED.sub(lambda found: "x" if found["quoted"] else " ", sql)


def _has_order_by(sql: str) -> bool:
    return ORDER_BY.search(_code(sql)) is not None


async def _inspect(
    connection: Connection, sql: str, parameter_types: Sequence[str], forbidden: Sequence[str]
) -> tuple[tuple[Column, ...], Plan]:
    statement = await connection.prepare(f'SELECT * FROM ({sql}) AS "row"')  # noqa: S608 (an operator's file)
    _check_parameters(statement.get_parameters(), parameter_types)
    columns = await _columns(connection, statement.get_attributes())
    _check_names(columns, forbidden)
    plan = await explain(connection, sql, parameter_types)
    _check_origins(plan, columns, forbidden)
    await check_column_names(connection, sql, parameter_types)
    return columns, plan


def _check_text(name: str, code: str) -> None:
    if not NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise ConfigurationError("its file name must be lower-case letters, digits and underscores, and not reserved")
    if STAR.search(code):
        raise ConfigurationError("`*` would let columns leave that nobody chose; list the columns")


def _check_parameters(parameters: Sequence[asyncpg.Type], wanted: Sequence[str]) -> None:
    if [PARAMETER_TYPE_NAMES.get(parameter.name) for parameter in parameters] == wanted:
        return
    if wanted == LIST_PARAMETERS:
        raise ConfigurationError("its parameters must be $1::text, an e-mail address, and $2::bigint, an id")
    if len(parameters) != 1:
        raise ConfigurationError(f"it must have exactly one parameter, $1, the user's id; it has {len(parameters)}")
    raise ConfigurationError(
        f"$1 is {parameters[0].name}, but user ids are {wanted[0]} (CARRYOUT_USER_ID_TYPE): write $1::{wanted[0]}"
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
    return tuple(
        Column(name, row["name"], row["category"], row["cast_name"]) for name, row in zip(names, types, strict=True)
    )


def _find_repeated(names: Sequence[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)


def _check_profile(columns: Sequence[Column]) -> None:
    for missing in sorted(PROFILE_COLUMNS - {column.name for column in columns}):
        raise ConfigurationError(f"it has no column {missing}, which every profile needs")


def _check_names(columns: Sequence[Column], forbidden: Sequence[str]) -> None:
    for column in columns:
        if is_forbidden(column.name, forbidden):
            raise ConfigurationError(f"column {column.name} is forbidden (CARRYOUT_FORBIDDEN_COLUMNS)")


def _check_origins(plan: Plan, columns: Sequence[Column], forbidden: Sequence[str]) -> None:
    for output in outputs(plan, len(columns)):
        if reads_whole_row(output):
            raise ConfigurationError("a whole row would let columns leave that nobody chose; list the columns")
        for name in identifiers(output):
            if is_forbidden(name, forbidden):
                raise ConfigurationError(f"it reads {name}, which is forbidden (CARRYOUT_FORBIDDEN_COLUMNS)")
    if hides_expressions(plan):
        raise ConfigurationError("a plan doesn't show what a list of VALUES holds: use CASE, or SELECTs and UNION ALL")
