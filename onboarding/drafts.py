"""Dataset files as text, from tables, paths and decisions."""

from collections.abc import Iterator, Sequence

import msgspec

from onboarding.catalog import Column, Table
from onboarding.comments import head_comment, verdict_comment
from onboarding.decisions import Decision, Verdict
from onboarding.paths import Graph, Link, Path
from onboarding.users_table import Users
from onboarding.words import HANDLES, snake
from service.datasets import MAX_NAME_CHARACTERS, NAME, PROFILE, RESERVED_NAMES


class Draft(msgspec.Struct, frozen=True):
    """A dataset file called `name`. `doubt` says why it mustn't be used before somebody has looked at it."""

    name: str
    table: Table
    path: Path | None
    decisions: tuple[Decision, ...]
    sql: str
    doubt: str | None = None

    @property
    def text(self) -> str:
        return f"-- undecided: {' '.join(self.doubt.split())}\n{self.sql}" if self.doubt else self.sql

    def columns(self, verdict: Verdict) -> list[Column]:
        return [decision.column for decision in self.decisions if decision.verdict is verdict]


def draft_profile(users: Users, email: str, decisions: Sequence[Decision], denied_tables: dict[str, str]) -> Draft:
    """`email` is the SQL of the e-mail address."""
    renamed = _profile_names(users, email)
    lines = [
        head_comment("users", [users.table.quoted]),
        *([head_comment("own", users.own)] if users.own else []),
        head_comment("table", [users.table.quoted]),
        *(verdict_comment("deny table", name, why) for name, why in denied_tables.items()),
        "SELECT",
        *_select_list(
            sorted(decisions, key=lambda one: _place(one.column, users, email)),
            renamed,
            "",
            extra=[] if _has(decisions, email) else [f"{email} AS email"],
        ),
        f"FROM {users.table.quoted}",
        f"WHERE {users.id_column.quoted} = $1::{users.user_id_type}",
    ]
    return Draft(PROFILE, users.table, None, tuple(decisions), "\n".join(lines) + "\n")


def draft_dataset(  # noqa: PLR0913 (each is one independent fact of the file)
    graph: Graph,
    path: Path,
    name: str,
    *,
    decisions: Sequence[Decision],
    order: Sequence[str],
    doubt: str | None,
    whom: Sequence[Link],
) -> Draft:
    """`whom` are links to other people, whose public names are offered in comments."""
    table = graph.catalog.tables[path.table]
    joins, condition, aliases = _joins(graph, path)
    prefix = f"{aliases[table.quoted]}." if joins else ""
    lines = [
        head_comment("table", [table.quoted]),
        *(f"-- also linked by {', '.join(link.columns)} to {link.parent}" for link in path.others),
        "SELECT",
        *_public_names(graph, whom, aliases[table.quoted] if joins else table.quoted),
        *_select_list(decisions, {}, prefix),
        f"FROM {table.quoted}{_alias(table, aliases) if joins else ''}",
        *joins,
        f"WHERE {condition}",
        *([f"ORDER BY {', '.join(prefix + column for column in order)}"] if order else []),
    ]
    return Draft(name, table, path, tuple(decisions), "\n".join(lines) + "\n", doubt)


def _profile_names(users: Users, email: str) -> dict[str, str]:
    """What it calls columns. None but the id and the address can be called so; `user_id` is what CSV calls the id."""
    renamed = {users.id_column.quoted: "id", email: "email"}
    clashing = [column for column in users.table.columns if column.name in {"id", "email", "user_id"}]
    return {column.quoted: f"{column.name}_2" for column in clashing} | renamed


def _place(column: Column, users: Users, email: str) -> int:
    """The id first, then the address."""
    return [users.id_column.quoted, email, column.quoted].index(column.quoted)


def _has(decisions: Sequence[Decision], quoted: str) -> bool:
    return any(decision.column.quoted == quoted for decision in decisions)


def _select_list(
    decisions: Sequence[Decision], renamed: dict[str, str], prefix: str, extra: Sequence[str] = ()
) -> Iterator[str]:
    """The last item that isn't a comment has no comma."""
    lines = []
    for decision in decisions:
        quoted = decision.column.quoted
        alias = renamed.get(quoted, quoted)
        item = f"{prefix}{quoted}" + ("" if alias == quoted else f" AS {alias}")
        if decision.verdict is Verdict.EXPORT:
            lines.append(f"{item},")
        elif decision.verdict is Verdict.UNDECIDED:
            lines.append(f"-- {item},  -- undecided: {decision.why}")
        else:
            lines.append(verdict_comment(decision.verdict, quoted, decision.why))
    lines[1:1] = [f"{item}," for item in extra]
    live = [number for number, line in enumerate(lines) if not line.startswith("--")]
    if live:
        # Last, so that comments above it can be uncommented as they are.
        lines.append(lines.pop(live[-1]).removesuffix(","))
    return (f"    {line}" for line in lines)


def _public_names(graph: Graph, whom: Sequence[Link], child: str) -> Iterator[str]:
    """Items for the select list; `child` is how the query calls the table."""
    for link in whom:
        by_name = {snake(column.name): column for column in graph.catalog.tables[link.parent].columns}
        handle = next((by_name[name] for name in HANDLES if name in by_name), None)
        if handle and len(link.columns) == 1:
            called = snake(link.columns[0]).removesuffix("_id")
            yield (
                f"    -- (SELECT other.{handle.quoted} FROM {link.parent} AS other"  # noqa: S608 (quoted by PostgreSQL)
                f" WHERE other.{link.parent_columns[0]} = {child}.{link.columns[0]}) AS {called}_name,"
                "  -- undecided: another person's public name"
            )


def _joins(graph: Graph, path: Path) -> tuple[list[str], str, dict[str, str]]:
    """JOIN lines along the path, the WHERE's condition, and the tables' aliases."""
    users = graph.users
    *joined, last = path.links
    if last.parent_columns != (users.id_column.quoted,):
        joined.append(last)
    on_the_way = [path.table, *(link.parent for link in joined)]
    aliases = _aliases([graph.catalog.tables[name] for name in on_the_way])
    lines = [
        f"JOIN {link.parent}{_alias(graph.catalog.tables[link.parent], aliases)} ON {_equation(link, aliases)}"
        for link in joined
    ]
    key = users.id_column.quoted if last in joined else last.columns[0]
    prefix = f"{aliases[on_the_way[-1]]}." if joined else ""
    return lines, f"{prefix}{key} = $1::{users.user_id_type}", aliases


def _equation(link: Link, aliases: dict[str, str]) -> str:
    child, parent = aliases[link.child], aliases[link.parent]
    pairs = zip(link.columns, link.parent_columns, strict=True)
    return " AND ".join(f"{child}.{column} = {parent}.{other}" for column, other in pairs)


def _aliases(tables: Sequence[Table]) -> dict[str, str]:
    """By quoted name: the bare names where these are unlike and need no quotes, else numbers."""
    names = [table.name for table in tables]
    if len(set(names)) == len(names) and all(table.quoted.endswith(f".{table.name}") for table in tables):
        return {table.quoted: table.name for table in tables}
    return {table.quoted: f"step_{number}" for number, table in enumerate(tables, start=1)}


def _alias(table: Table, aliases: dict[str, str]) -> str:
    alias = aliases[table.quoted]
    return "" if alias == table.name else f" AS {alias}"


class Names:
    """Gives datasets names that are allowed, and unlike in the CSV's header as well."""

    def __init__(self, profile_columns: Sequence[str]) -> None:
        self._taken = {PROFILE, *RESERVED_NAMES}
        self._header = set(profile_columns)

    def give(self, table: Table) -> str:
        columns = [column.name for column in table.columns]
        for candidate in _candidates(table):
            header = {f"{candidate}_{column}" for column in columns}
            if candidate not in self._taken and header.isdisjoint(self._header):
                self._taken.add(candidate)
                self._header |= header
                return candidate
        raise AssertionError("candidates have no end")


def _candidates(table: Table) -> Iterator[str]:
    """The table's name, the schema's before it, and numbers after it."""
    plain, qualified = (_fit(text) for text in (table.name, f"{table.schema}_{table.name}"))
    yield plain
    yield qualified
    number = 2
    while True:
        suffix = f"_{number}"
        yield plain[: MAX_NAME_CHARACTERS - len(suffix)] + suffix
        number += 1


def _fit(text: str) -> str:
    name = snake(text).encode("ascii", "ignore").decode()[:MAX_NAME_CHARACTERS]
    return name if NAME.fullmatch(name) else f"table_{name}"[:MAX_NAME_CHARACTERS]
