"""Datasets: one SQL file each, a SELECT of exactly the columns that may leave, `$1` the user.

The operators' lists, in `users/` below them, are datasets too: `$1` is an e-mail address or null for all users, `$2`
the id of the last row that isn't wanted any more, or null for all. So is the search for users by their e-mail address,
`requests/by_email.sql`.

They are read and checked once, at start-up, against the live source database. A dataset that breaks a rule stops the
start with one sentence.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import msgspec

from guard.files import UnsafeFileError, read_trusted
from service.backends.database import QUERIES, Connection, using_safe_search_path
from service.documents.comments import COMMENT_OR_QUOTED, Facts, read_facts, without_semicolon
from service.documents.equality import Functions, read_functions, read_judgement
from service.documents.forbidden_columns import check_names, check_origins, is_forbidden
from service.documents.plans import (
    Plan,
    check_column_names,
    explain_with_row,
    tables,
)
from service.documents.unique_order import check_unique_order, is_ordered_by_first_output
from service.errors import ConfigurationError

PROFILE = "profile"
DECISIONS_FILE = "tables.sql"  # `carryout check` reads its comments; it is not a dataset
LISTS_FOLDER = "users"
LIST_PARAMETERS = ["text", "bigint"]
USER_SEARCH = "requests/by_email.sql"
SEARCH_PARAMETERS = ["text"]
PROFILE_COLUMNS = {"id", "email"}
MAX_NAME_CHARACTERS = 41
NAME = re.compile(rf"[a-z][a-z0-9_]{{0,{MAX_NAME_CHARACTERS - 1}}}")
RESERVED_NAMES = {"exported_at", "filter", "user", "end"}  # members of the JSON document, lines of NDJSON
STAR = re.compile(r"\.\s*\*|\*\s*(?:,|from\b)", re.IGNORECASE)  # neither count(*) nor a product
ORDER_BY = re.compile(r"\border\s+by\b", re.IGNORECASE)
INTEGERS = {"int2", "int4", "int8"}
TIMES = {"timestamptz", "timestamp", "date"}
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
    all that it reads, also behind views. `time` is the column that ranges of time select rows by.
    """

    name: str
    sql: str
    columns: tuple[Column, ...]
    tables: tuple[tuple[str, str], ...]
    time: Column | None = None
    facts: Facts = msgspec.field(default_factory=Facts)


class _Known(msgspec.Struct):
    """Facts about the database that all datasets share. `types` are those that were met, by their number."""

    functions: Functions
    types: dict[int, asyncpg.Record] = {}


async def load_datasets(
    connection: Connection, directory: Path, *, user_id_type: str, forbidden: Sequence[str]
) -> tuple[Dataset, ...]:
    """The profile first, then the others by file name. Raises ConfigurationError for the first rule that is broken."""
    paths = list_paths(directory)
    read_decisions(directory)  # a dataset of that name would be missing from every export
    if not paths or paths[0].stem != PROFILE:
        raise ConfigurationError(f"CARRYOUT_DATASETS_DIR: {directory} holds no {PROFILE}.sql")
    known = _Known(await read_functions(connection))
    datasets = [
        await _load_dataset(connection, path, known, user_id_type=user_id_type, forbidden=forbidden) for path in paths
    ]
    if repeated := _find_repeated(csv_names(datasets)):
        raise ConfigurationError(f"Two columns of the CSV would be called {repeated}: rename a dataset or a column")
    return tuple(datasets)


async def load_user_lists(connection: Connection, directory: Path, *, forbidden: Sequence[str]) -> dict[str, Dataset]:
    """The operators' lists in `directory`/users by file name. Raises ConfigurationError as `load_datasets` does.

    The first column is the integer `id`, and the rows are in its order, so that a list can be resumed.
    """
    paths = sorted((directory / LISTS_FOLDER).glob("*.sql"))
    known = _Known(await read_functions(connection)) if paths else None
    return {path.stem: await _load_list(connection, path, known, forbidden=forbidden) for path in paths if known}


async def load_user_search(connection: Connection, directory: Path, *, forbidden: Sequence[str]) -> Dataset | None:
    """The query in `directory`/requests/by_email.sql for the ids of users with an e-mail address; None without it.

    Raises ConfigurationError as `load_datasets` does.
    """
    path = directory / USER_SEARCH
    if not path.exists():
        return None
    known = _Known(await read_functions(connection))
    with naming(USER_SEARCH):
        sql = _read(path)
        columns, plan, row_plan = await _inspect(connection, sql, known, SEARCH_PARAMETERS, forbidden)
        async with using_safe_search_path(connection):
            await check_column_names(connection, row_plan)
        if [column.name for column in columns] != ["id"]:
            raise ConfigurationError("its only column must be id, the user's id")
    return Dataset(path.stem, sql, columns, tables(plan))


async def list_exposed_columns(
    connection: Connection, datasets: Sequence[Dataset], *, forbidden: Sequence[str]
) -> list[str]:
    """The forbidden columns, as `schema.table.column`, of the tables that the datasets read, which this connection's
    role could read too: what keeps them back is Carryout alone.
    """
    read = sorted({table for dataset in datasets for table in dataset.tables})
    async with using_safe_search_path(connection):
        rows = await connection.fetch(
            QUERIES["list_readable_columns"], [schema for schema, _ in read], [name for _, name in read]
        )
    return [f"{row['schema']}.{row['table']}.{row['column']}" for row in rows if is_forbidden(row["column"], forbidden)]


def list_paths(directory: Path) -> list[Path]:
    """The dataset files, the profile first."""
    paths = (path for path in directory.glob("*.sql") if path.name != DECISIONS_FILE)
    return sorted(paths, key=lambda path: (path.stem != PROFILE, path.stem))


def read_decisions(directory: Path) -> str:
    """The text of `tables.sql`, empty if there is none. Raises ConfigurationError if it has a statement."""
    path = directory / DECISIONS_FILE
    if not path.exists():
        return ""
    with naming(path.name):
        text = read_trusted(path, named=False).decode()
        if any(line.strip() and not line.strip().startswith("--") for line in text.split("\n")):
            raise ConfigurationError(
                "it must have only comments, the decisions about tables: give a dataset another name"
            )
    return text


def read_sql(path: Path) -> str:
    """One statement, without its semicolon; it ends in a line break, so that a comment ends there, too.

    To be read within `naming`.
    """
    return without_semicolon(read_trusted(path, named=False).decode("utf-8-sig").strip()) + "\n"


def csv_names(datasets: Sequence[Dataset]) -> list[str]:
    """The names in a CSV's header; `datasets` begins with the profile."""
    profile, *others = datasets
    names = ["user_id" if column.name == "id" else column.name for column in profile.columns]
    return names + [f"{dataset.name}_{column.name}" for dataset in others for column in dataset.columns]


async def _load_dataset(
    connection: Connection, path: Path, known: _Known, *, user_id_type: str, forbidden: Sequence[str]
) -> Dataset:
    with naming(path.name):
        sql = _read(path)
        facts = read_facts(sql)
        async with connection.transaction(readonly=True):
            columns, plan, row_plan = await _inspect(connection, sql, known, [user_id_type], forbidden)
            judgement = await read_judgement(connection, sql, known.functions)
            async with using_safe_search_path(connection):  # once, because each way in and out is a round trip
                await check_column_names(connection, row_plan)
                await judgement.pronounce()
                if path.stem == PROFILE:
                    _check_profile(columns, facts)
                else:
                    await check_unique_order(connection, plan, has_order_by=_has_order_by(sql))
        time = _find_time(columns, facts)
        _check_about(columns, facts)
        _check_files(columns, facts)
    return Dataset(path.stem, sql, columns, tables(plan), time, facts)


async def _load_list(connection: Connection, path: Path, known: _Known, *, forbidden: Sequence[str]) -> Dataset:
    with naming(f"{LISTS_FOLDER}/{path.name}"):
        sql = _read(path)
        columns, plan, row_plan = await _inspect(connection, sql, known, LIST_PARAMETERS, forbidden)
        if columns[0].name != "id" or columns[0].type_name not in INTEGERS:
            raise ConfigurationError("its first column must be id, an integer")
        if not (_has_order_by(sql) and is_ordered_by_first_output(plan)):
            raise ConfigurationError("its ORDER BY must begin with the column that is id")
        async with using_safe_search_path(connection):
            await check_column_names(connection, row_plan)
            await check_unique_order(connection, plan, has_order_by=True)
    return Dataset(path.stem, sql, columns, tables(plan))


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Raise a ConfigurationError that names the dataset for what is wrong with its file."""
    try:
        yield
    except UnicodeDecodeError:
        raise ConfigurationError(f"Dataset {name}: it is not UTF-8") from None
    except (UnsafeFileError, PermissionError) as error:  # no others: the database's outage is none of these
        raise ConfigurationError(f"Dataset {name}: it can't be read: {error.strerror}") from None
    except (ConfigurationError, asyncpg.PostgresError) as error:
        raise ConfigurationError(f"Dataset {name}: {error.args[0]}") from None


def _read(path: Path) -> str:
    sql = read_sql(path)
    _check_text(path.stem, _code(sql))
    return sql


def _code(sql: str) -> str:
    """The query without its comments, literals and quoted names."""
    return COMMENT_OR_QUOTED.sub(lambda found: "x" if found["quoted"] else " ", sql)


def _has_order_by(sql: str) -> bool:
    return ORDER_BY.search(_code(sql)) is not None


async def _inspect(
    connection: Connection, sql: str, known: _Known, parameter_types: Sequence[str], forbidden: Sequence[str]
) -> tuple[tuple[Column, ...], Plan, Plan]:
    """The query's columns, and the plans of `explain_with_row`."""
    statement = await connection.prepare(f'SELECT * FROM ({sql}) AS "row"', name="")  # noqa: S608 (an operator's file)
    _check_parameters(statement.get_parameters(), parameter_types)
    columns = await _columns(connection, statement.get_attributes(), known.types)
    names = [column.name for column in columns]
    check_names(names, forbidden)
    plan, row_plan = await explain_with_row(connection, sql, parameter_types)
    check_origins(plan, names, forbidden)
    return columns, plan, row_plan


def _check_text(name: str, code: str) -> None:
    if not NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise ConfigurationError("its file name must be lower-case letters, digits and underscores, and not reserved")
    if STAR.search(code):
        raise ConfigurationError("`*` would export columns that were not chosen; list the columns")


def _check_parameters(parameters: Sequence[asyncpg.Type], wanted: Sequence[str]) -> None:
    if [PARAMETER_TYPE_NAMES.get(parameter.name) for parameter in parameters] == wanted:
        return
    if wanted == LIST_PARAMETERS:
        raise ConfigurationError("its parameters must be $1::text, an e-mail address, and $2::bigint, an id")
    if wanted == SEARCH_PARAMETERS:
        raise ConfigurationError("its only parameter must be $1::text, an e-mail address")
    if len(parameters) != 1:
        raise ConfigurationError(f"it must have exactly one parameter, $1, the user's id; it has {len(parameters)}")
    raise ConfigurationError(
        f"$1 is {parameters[0].name}, but user ids are {wanted[0]} (CARRYOUT_USER_ID_TYPE): write $1::{wanted[0]}"
    )


async def _columns(
    connection: Connection, attributes: Sequence[asyncpg.Attribute], known: dict[int, asyncpg.Record]
) -> tuple[Column, ...]:
    """`known` are types by their number; further ones are added."""
    names = [attribute.name for attribute in attributes]
    if not names:
        raise ConfigurationError("it has no columns")
    if repeated := _find_repeated(names):
        raise ConfigurationError(f"two columns are called {repeated}")
    if "?column?" in names:
        raise ConfigurationError("an expression has no name; add AS")
    oids = [attribute.type.oid for attribute in attributes]
    if unknown := sorted({*oids} - known.keys()):
        async with using_safe_search_path(connection):
            known.update(zip(unknown, await connection.fetch(QUERIES["list_types"], unknown), strict=True))
    types = [known[oid] for oid in oids]
    return tuple(
        Column(name, row["name"], row["category"], row["cast_name"]) for name, row in zip(names, types, strict=True)
    )


def _find_repeated(names: Sequence[str]) -> str | None:
    counts = Counter(names)
    return next((name for name in names if counts[name] > 1), None)


def _check_profile(columns: Sequence[Column], facts: Facts) -> None:
    for missing in sorted(PROFILE_COLUMNS - {column.name for column in columns}):
        raise ConfigurationError(f"it has no column {missing}, which every profile needs")
    if facts.time:
        raise ConfigurationError("the profile is in every document: take out its line `-- time:`")


def _find_time(columns: Sequence[Column], facts: Facts) -> Column | None:
    if facts.time is None:
        return None
    found = next((column for column in columns if column.name == facts.time), None)
    if found is None:
        raise ConfigurationError(f"`-- time: {facts.time}` names none of its columns")
    if found.type_name not in TIMES or found.cast_name is None:
        raise ConfigurationError(
            f"`-- time: {facts.time}` must name a timestamptz, timestamp or date column; it is {found.type_name}"
        )
    return found


def _check_about(columns: Sequence[Column], facts: Facts) -> None:
    for unknown in sorted(set(facts.columns) - {column.name for column in columns}):
        raise ConfigurationError(f"`-- about {unknown}:` names none of its columns")


def _check_files(columns: Sequence[Column], facts: Facts) -> None:
    names = {column.name for column in columns}
    for file in facts.files:
        for unknown in {file.key, file.name or file.key} - names:
            raise ConfigurationError(
                f"`-- file: {file.key} from {file.store}` needs a column {unknown}, which it lacks"
            )
