"""Datasets: one SQL file each, a SELECT of exactly the columns that may leave, `$1` the user.

The operators' lists are datasets too, in a folder of their own: `$1` and so on are the parameters that the file
declares, null if they aren't given. In the two of `users/` below the datasets, `$1` is an e-mail address or null for
all users, `$2` the id of the last row that isn't wanted any more, or null for all. The search for users by their e-mail
address, `requests/by_email.sql`, is a dataset, too.

They are read and checked once, at start-up, against the live source database. A dataset that breaks a rule stops the
start with one sentence.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import asyncpg
import msgspec

from guard.files import UnsafeFileError, read_trusted
from service.backends.database import (
    QUERIES,
    Connection,
    using_safe_search_path,
    using_settings,
    within_transaction,
)
from service.documents.comments import COMMENT_OR_QUOTED, Facts, ParameterFact, read_facts, without_semicolon
from service.documents.equality import Functions, Judgement, check_columns, judge, read_functions
from service.documents.forbidden_columns import check_names, check_origins, is_forbidden
from service.documents.list_keys import find_key
from service.documents.plans import PARAMETER_TYPES, Inspection, check_column_names, inspect, tables
from service.documents.unique_order import check_unique_order, is_ordered_by_first_output, read_unique_keys
from service.errors import ConfigurationError

Types: TypeAlias = dict[int, asyncpg.Record]
"""PostgreSQL's types by their number."""

PROFILE = "profile"
DECISIONS_FILE = "tables.sql"  # `carryout check` reads its comments; it is not a dataset
LISTS_FOLDER = "users"
USER_LIST_PARAMETERS = [ParameterFact("email", "text"), ParameterFact("after", "bigint")]
USER_SEARCH = "requests/by_email.sql"
PROFILE_COLUMNS = {"id", "email"}
MAX_NAME_CHARACTERS = 41
NAME = re.compile(rf"[a-z][a-z0-9_]{{0,{MAX_NAME_CHARACTERS - 1}}}")
RESERVED_NAMES = {"exported_at", "filter", "user", "end"}  # members of the JSON document, lines of NDJSON
STAR = re.compile(r"\.\s*\*|\*\s*(?:,|from\b)", re.IGNORECASE)  # neither count(*) nor a product
ORDER_BY = re.compile(r"\border\s+by\b", re.IGNORECASE)
INTEGERS = {"int2", "int4", "int8"}
# Their text, as it stands in documents, is cast to the same value.
KEY_TYPES = {"uuid", "text", "varchar", "bpchar", "int2", "int4", "int8", "numeric", "timestamptz", "timestamp", "date"}
USER_SEARCH_FAULT = "its only parameter must be $1::text, an e-mail address"
USER_LIST_FAULT = "its parameters must be $1::text, an e-mail address, and $2::bigint, an id"
FILES_AT_ONCE = 25
"""Their plans and query trees are in memory together."""
TIMES = {"timestamptz", "timestamp", "date"}
PARAMETER_TYPE_NAMES = {name.removeprefix("pg_catalog."): type_ for type_, name in PARAMETER_TYPES.items()}


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
    all that it reads, also behind views. `time` is the column that ranges of time select rows by. `key` is a list's
    order: the columns that a download is resumed by.
    """

    name: str
    sql: str
    columns: tuple[Column, ...]
    tables: tuple[tuple[str, str], ...]
    time: Column | None = None
    facts: Facts = msgspec.field(default_factory=Facts)
    key: tuple[Column, ...] = ()


class _Parameters(NamedTuple):
    """The types that a query's parameters must have, and the sentence about others, given what they are."""

    types: list[str]
    fault: Callable[[Sequence[str]], str]


class _Known(NamedTuple):
    """Facts about the database that all datasets share. `types` are those that were met."""

    functions: Functions
    types: Types


async def load_datasets(
    connection: Connection, directory: Path, *, user_id_type: str, forbidden: Sequence[str]
) -> tuple[Dataset, ...]:
    """The profile first, then the others by file name. Raises ConfigurationError for the first rule that is broken."""
    paths = list_paths(directory)
    read_decisions(directory)  # a dataset of that name would be missing from every export
    if not paths or paths[0].stem != PROFILE:
        raise ConfigurationError(f"CARRYOUT_DATASETS_DIR: {directory} holds no {PROFILE}.sql")
    known = _Known(await read_functions(connection), {})
    datasets: list[Dataset] = []
    async with within_transaction(connection):
        for first in range(0, len(paths), FILES_AT_ONCE):
            some = paths[first : first + FILES_AT_ONCE]
            inspected, fault = await _inspect_datasets(connection, some, known, user_id_type, forbidden)
            async with using_safe_search_path(connection):
                await _check_datasets(connection, inspected)
            if fault:
                raise fault
            datasets += map(_make_dataset, inspected)
    if repeated := _find_repeated(csv_names(datasets)):
        raise ConfigurationError(f"Two columns of the CSV would be called {repeated}: rename a dataset or a column")
    _check_links(datasets)
    return tuple(datasets)


async def load_user_lists(connection: Connection, directory: Path, *, forbidden: Sequence[str]) -> dict[str, Dataset]:
    """The lists of users in `directory`/users by file name. Raises ConfigurationError as `load_datasets` does.

    The first column is the integer `id`, and the rows are in its order, so that a list can be resumed.
    """
    paths = sorted((directory / LISTS_FOLDER).glob("*.sql"))
    types: Types = {}
    return {path.stem: await _load_user_list(connection, path, types, forbidden=forbidden) for path in paths}


async def load_lists(connection: Connection, directory: Path, *, forbidden: Sequence[str]) -> dict[str, Dataset]:
    """The operators' lists in `directory` by file name. Raises ConfigurationError as `load_datasets` does."""
    paths = [directory / f"{name}.sql" for name in list_names(directory)]
    types: Types = {}
    return {path.stem: await _load_list(connection, path, types, forbidden=forbidden) for path in paths}


def list_names(directory: Path) -> list[str]:
    """The names of the operators' lists in `directory`."""
    return sorted(path.stem for path in directory.glob("*.sql"))


async def load_user_search(connection: Connection, directory: Path, *, forbidden: Sequence[str]) -> Dataset | None:
    """The query in `directory`/requests/by_email.sql for the ids of users with an e-mail address; None without it.

    Raises ConfigurationError as `load_datasets` does.
    """
    path = directory / USER_SEARCH
    if not path.exists():
        return None
    with naming(USER_SEARCH):
        sql = _read(path)
        parameters = _Parameters(["text"], lambda _: USER_SEARCH_FAULT)
        columns, found = await _inspect(connection, sql, {}, parameters, forbidden)
        async with using_safe_search_path(connection):
            await check_column_names(connection, [found.row_plan])
        if [column.name for column in columns] != ["id"]:
            raise ConfigurationError("its only column must be id, the user's id")
    return Dataset(path.stem, sql, columns, tables(found.plan))


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


class _Inspected(msgspec.Struct, frozen=True):
    """A dataset's file as far as it can be checked by itself."""

    path: Path
    sql: str
    facts: Facts
    columns: tuple[Column, ...]
    found: Inspection
    judgement: Judgement


async def _inspect_datasets(
    connection: Connection, paths: Sequence[Path], known: _Known, user_id_type: str, forbidden: Sequence[str]
) -> tuple[list[_Inspected], ConfigurationError | None]:
    """Up to the first that breaks a rule, and its fault: those before it may break a rule that is checked later."""
    inspected = []
    for path in paths:
        try:
            inspected.append(await _inspect_dataset(connection, path, known, user_id_type, forbidden))
        except ConfigurationError as fault:
            return inspected, fault
    return inspected, None


async def _inspect_dataset(
    connection: Connection, path: Path, known: _Known, user_id_type: str, forbidden: Sequence[str]
) -> _Inspected:
    with naming(path.name):
        sql = _read(path)
        facts = read_facts(sql)
        if facts.parameters:
            raise ConfigurationError("a line `-- param:` is for operators' lists")
        parameters = _Parameters([user_id_type], partial(_user_id_fault, wanted=user_id_type))
        columns, found = await _inspect(connection, sql, known.types, parameters, forbidden)
        return _Inspected(path, sql, facts, columns, found, judge(found.tree, known.functions))


async def _check_datasets(connection: Connection, inspected: Sequence[_Inspected]) -> None:
    """Raise ConfigurationError for the first dataset that breaks a rule, by what PostgreSQL's catalog says.

    It is asked about all at once, and about each one only if one of them breaks a rule.
    """
    unique_keys = await read_unique_keys(connection, [one.found.plan for one in inspected])
    is_any_refused = await _is_any_refused(connection, inspected)
    for one in inspected:
        with naming(one.path.name):
            if is_any_refused:
                await check_column_names(connection, [one.found.row_plan])
            await one.judgement.pronounce(connection)
            if is_any_refused:
                await check_columns(connection, [one.judgement])
            if one.path.stem == PROFILE:
                _check_profile(one.columns, one.facts)
            else:
                has_order_by = _has_order_by(one.sql)
                await check_unique_order(connection, one.found.plan, unique_keys, has_order_by=has_order_by)
            _find_time(one.columns, one.facts)
            _check_about(one.columns, one.facts)
            _check_files(one.columns, one.facts)


async def _is_any_refused(connection: Connection, inspected: Sequence[_Inspected]) -> bool:
    try:
        await check_column_names(connection, [one.found.row_plan for one in inspected])
        await check_columns(connection, [one.judgement for one in inspected])
    except ConfigurationError:
        return True
    return False


def _make_dataset(one: _Inspected) -> Dataset:
    time = _find_time(one.columns, one.facts)
    return Dataset(one.path.stem, one.sql, one.columns, tables(one.found.plan), time, one.facts)


async def _load_user_list(connection: Connection, path: Path, types: Types, *, forbidden: Sequence[str]) -> Dataset:
    with naming(f"{LISTS_FOLDER}/{path.name}"):
        sql = _read(path)
        parameters = _Parameters([parameter.type for parameter in USER_LIST_PARAMETERS], lambda _: USER_LIST_FAULT)
        columns, found = await _inspect(connection, sql, types, parameters, forbidden)
        if columns[0].name != "id" or columns[0].type_name not in INTEGERS:
            raise ConfigurationError("its first column must be id, an integer")
        if not (_has_order_by(sql) and is_ordered_by_first_output(found.plan)):
            raise ConfigurationError("its ORDER BY must begin with the column that is id")
        async with using_safe_search_path(connection):
            await _check_order(connection, sql, found)
    facts = Facts(parameters=USER_LIST_PARAMETERS)
    return Dataset(path.stem, sql, columns, tables(found.plan), facts=facts, key=columns[:1])


async def _check_order(connection: Connection, sql: str, found: Inspection) -> None:
    await check_column_names(connection, [found.row_plan])
    unique_keys = await read_unique_keys(connection, [found.plan])
    await check_unique_order(connection, found.plan, unique_keys, has_order_by=_has_order_by(sql))


async def _load_list(connection: Connection, path: Path, types: Types, *, forbidden: Sequence[str]) -> Dataset:
    with naming(path.name, kind="List"):
        sql = _read(path)
        facts = read_facts(sql)
        if facts.files or facts.links:
            raise ConfigurationError("the lines `-- file:` and `-- link:` are for the users' datasets")
        async with connection.transaction(readonly=True):
            wanted = [parameter.type for parameter in facts.parameters]
            parameters = _Parameters(wanted, partial(_list_parameters_fault, wanted=wanted))
            columns, found = await _inspect(connection, sql, types, parameters, forbidden)
            async with using_safe_search_path(connection):
                await _check_order(connection, sql, found)
                key = tuple(columns[position] for position in await find_key(connection, found.plan, len(columns)))
        time = _find_time(columns, facts)
        _check_key(key)
        _check_about([*columns, *facts.parameters], facts)
    return Dataset(path.stem, sql, columns, tables(found.plan), time, facts, key)


@contextmanager
def naming(name: str, *, kind: str = "Dataset") -> Iterator[None]:
    """Raise a ConfigurationError that names the dataset for what is wrong with its file."""
    try:
        yield
    except UnicodeDecodeError:
        raise ConfigurationError(f"{kind} {name}: it is not UTF-8") from None
    except (UnsafeFileError, PermissionError) as error:  # no others: the database's outage is none of these
        raise ConfigurationError(f"{kind} {name}: it can't be read: {error.strerror}") from None
    except (ConfigurationError, asyncpg.PostgresError) as error:
        raise ConfigurationError(f"{kind} {name}: {error.args[0]}") from None


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
    connection: Connection, sql: str, types: Types, parameters: _Parameters, forbidden: Sequence[str]
) -> tuple[tuple[Column, ...], Inspection]:
    async with using_settings(connection, QUERIES["reveal_plans"]) as cleanup:
        statement = await connection.prepare(f'SELECT * FROM ({sql}) AS "row"', name="")  # noqa: S608 (an operator's file)
        given = [parameter.name for parameter in statement.get_parameters()]
        if [PARAMETER_TYPE_NAMES.get(name) for name in given] != parameters.types:
            raise ConfigurationError(parameters.fault(given))
        columns = await _columns(connection, statement.get_attributes(), types)
        names = [column.name for column in columns]
        check_names(names, forbidden)
        found = await inspect(connection, sql, parameters.types, cleanup)
    check_origins(found.plan, names, forbidden)
    return columns, found


def _check_text(name: str, code: str) -> None:
    if not NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise ConfigurationError("its file name must be lower-case letters, digits and underscores, and not reserved")
    if STAR.search(code):
        raise ConfigurationError("`*` would export columns that were not chosen; list the columns")


def _user_id_fault(given: Sequence[str], wanted: str) -> str:
    if len(given) != 1:
        return f"it must have exactly one parameter, $1, the user's id; it has {len(given)}"
    return f"$1 is {given[0]}, but user ids are {wanted} (CARRYOUT_USER_ID_TYPE): write $1::{wanted}"


def _list_parameters_fault(given: Sequence[str], wanted: Sequence[str]) -> str:
    declared = ", ".join(f"${number}::{type_}" for number, type_ in enumerate(wanted, start=1)) or "none"
    used = ", ".join(f"${number}::{type_}" for number, type_ in enumerate(given, start=1)) or "none"
    return f"its lines `-- param:` declare {declared}, but its SQL uses {used}"


async def _columns(connection: Connection, attributes: Sequence[asyncpg.Attribute], known: Types) -> tuple[Column, ...]:
    """Further types are added to `known`."""
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


def _check_key(key: Sequence[Column]) -> None:
    for column in key:
        if column.type_name not in KEY_TYPES:
            raise ConfigurationError(
                f"its ORDER BY has {column.name}, a {column.type_name}, which a download can't be resumed by: "
                f"order by columns of the types {', '.join(sorted(KEY_TYPES))}"
            )


def _check_about(described: Sequence[Column | ParameterFact], facts: Facts) -> None:
    for unknown in sorted(set(facts.columns) - {one.name for one in described}):
        raise ConfigurationError(f"`-- about {unknown}:` names none of its columns")


def _check_files(columns: Sequence[Column], facts: Facts) -> None:
    names = {column.name for column in columns}
    for file in facts.files:
        for unknown in {file.key, file.name or file.key} - names:
            raise ConfigurationError(
                f"`-- file: {file.key} from {file.store}` needs a column {unknown}, which it lacks"
            )


def _check_links(datasets: Sequence[Dataset]) -> None:
    columns = {dataset.name: {column.name for column in dataset.columns} for dataset in datasets}
    for dataset in datasets:
        for link in dataset.facts.links:
            with naming(f"{dataset.name}.sql"):
                line = f"`-- link: {link.column} to {link.section}.{link.key}`"
                if link.column not in columns[dataset.name]:
                    raise ConfigurationError(f"{line} needs a column {link.column}, which it lacks")
                if link.key not in columns.get(link.section, ()):
                    raise ConfigurationError(f"{line} names no column of another dataset")
