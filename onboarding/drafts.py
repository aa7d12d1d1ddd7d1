"""Dataset files as text, from tables, paths and decisions."""

import re
from collections.abc import Iterator, Sequence

import msgspec

from guard.text import is_printable, quote_identifier
from onboarding.catalog import Column, Table
from onboarding.comments import comment, head_comment, verdict_comment
from onboarding.links import Kind, Link
from onboarding.paths import Graph, Path
from onboarding.users_table import Users
from onboarding.verdicts import Decision, Verdict
from onboarding.words import FILE_KEYS, FILE_NAMES, HANDLES, STORED, TIMES_OF_CREATION, singular, snake, words
from service.documents.datasets import MAX_NAME_CHARACTERS, NAME, PROFILE, RESERVED_NAMES
from service.documents.datasets import TIMES as TYPES_OF_TIME

MAX_TITLE_CHARACTERS = 60
PLAIN = re.compile(r"\w+")
NOT_IN_NAMES = re.compile(r"[^a-z0-9_]")


class Label(msgspec.Struct, frozen=True):
    """The readable name, `column` of the row that `link` points to, which is exported as `alias`."""

    link: Link
    column: str
    alias: str


class ProfileLayout(msgspec.Struct, frozen=True):
    """`email` is the SQL of the e-mail address."""

    users: Users
    email: str

    def render(self, decisions: Sequence[Decision]) -> str:
        users, email = self.users, self.email
        lines = [
            head_comment("users", [users.table.quoted]),
            *([head_comment("own", users.own)] if users.own else []),
            head_comment("table", [users.table.quoted]),
            "SELECT",
            *_select_list(
                sorted(decisions, key=lambda one: _place(one.column, users, email)),
                _profile_names(users, email),
                "",
                extra=[] if _has(decisions, email) else [f"{email} AS email"],
            ),
            f"FROM {users.table.quoted}",
            f"WHERE {users.id_column.quoted} = $1::{users.user_id_type}",
        ]
        return "\n".join(lines) + "\n"


class DatasetLayout(msgspec.Struct, frozen=True):
    """`whom` are links to other people; comments offer their public names."""

    graph: Graph
    path: Path
    order: tuple[str, ...]
    whom: tuple[Link, ...]
    labels: tuple[Label, ...] = ()

    def render(self, decisions: Sequence[Decision]) -> str:
        table = self.graph.catalog.tables[self.path.table]
        joins, condition, aliases = _joins(self.graph, self.path)
        prefix = f"{aliases[table.quoted]}." if joins else ""
        kept = {one.column.quoted for one in decisions if one.verdict is Verdict.EXPORT}
        exported = [label for label in self.labels if label.link.columns[0] in kept]
        lines = [
            *_title_comment(table),
            *_time_comment(table, decisions),
            *_file_comments(table, decisions),
            head_comment("table", [table.quoted]),
            *(comment(f"also linked by {', '.join(link.columns)} to {link.parent}") for link in self.path.others),
            "SELECT",
            *_public_names(self.graph, self.whom, aliases[table.quoted] if joins else table.quoted),
            *_select_list(
                decisions, {}, prefix, extra=[_label_item(label, prefix or f"{table.quoted}.") for label in exported]
            ),
            f"FROM {table.quoted}{_alias(table, aliases) if joins else ''}",
            *joins,
            f"WHERE {condition}",
            *(
                [f"ORDER BY {', '.join([*(prefix + one for one in self.order), *_order_behind(self, aliases)])}"]
                if self.order
                else []
            ),
        ]
        return "\n".join(lines) + "\n"


class Draft(msgspec.Struct, frozen=True):
    """A dataset file called `name`. `doubt` is the reason why an operator must check it before use."""

    name: str
    table: Table
    path: Path | None
    decisions: tuple[Decision, ...]
    layout: ProfileLayout | DatasetLayout
    doubt: str | None = None

    @property
    def sql(self) -> str:
        return self.layout.render(self.decisions)

    @property
    def text(self) -> str:
        return f"{comment(f'undecided: {self.doubt}')}\n{self.sql}" if self.doubt else self.sql

    def columns(self, verdict: Verdict) -> list[Column]:
        return [decision.column for decision in self.decisions if decision.verdict is verdict]

    def decide(self, column: str, verdict: Verdict, why: str) -> "Draft":
        """The draft with another decision about the column, which is quoted."""
        decided = tuple(
            Decision(one.column, verdict, why) if one.column.quoted == column else one for one in self.decisions
        )
        return msgspec.structs.replace(self, decisions=decided)


def draft_profile(users: Users, email: str, decisions: Sequence[Decision]) -> Draft:
    """`email` is the SQL of the e-mail address."""
    return Draft(PROFILE, users.table, None, tuple(decisions), ProfileLayout(users, email))


def draft_dataset(  # noqa: PLR0913 (each is one independent fact of the file)
    graph: Graph,
    path: Path,
    name: str,
    *,
    decisions: Sequence[Decision],
    order: Sequence[str],
    doubt: str | None,
    whom: Sequence[Link],
    labels: Sequence[Label],
) -> Draft:
    """`whom` are links to other people; comments offer their public names."""
    layout = DatasetLayout(graph, path, tuple(order), tuple(whom), tuple(labels))
    return Draft(name, graph.catalog.tables[path.table], path, tuple(decisions), layout, doubt)


def _order_behind(layout: DatasetLayout, aliases: dict[str, str]) -> Iterator[str]:
    """The keys of the rows that lead here by a unique column of theirs: they prove that no row comes twice."""
    for link in layout.path.links:
        if link.kind is Kind.REVERSED and link.parent in aliases:
            parent = layout.graph.catalog.tables[link.parent]
            yield from (f"{aliases[link.parent]}.{name}" for key in parent.unique_keys[:1] for name in key)


def _time_comment(table: Table, decisions: Sequence[Decision]) -> list[str]:
    """The line `-- time:`, for an exported column that is called like the time at which a row came into being.

    A column without nulls goes before one with them, an indexed one before others, then the likelier name.
    """
    exported = [one.column for one in decisions if one.verdict is Verdict.EXPORT]
    dated = [
        column
        for column in exported
        if column.type_name in TYPES_OF_TIME
        and snake(column.name) in TIMES_OF_CREATION
        and PLAIN.fullmatch(column.name)
    ]
    if not dated:
        return []
    found = min(
        dated,
        key=lambda column: (
            not column.not_null,
            column.quoted not in table.indexed,
            TIMES_OF_CREATION.index(snake(column.name)),
        ),
    )
    return [head_comment("time", [found.name])]


def _file_comments(table: Table, decisions: Sequence[Decision]) -> Iterator[str]:
    """A proposal `-- -- file:` for each column that names an object in storage; no store is known yet, so it has no
    effect before an operator removes its first dashes.
    """
    offered = [one.column for one in decisions if one.verdict in {Verdict.EXPORT, Verdict.UNDECIDED}]
    by_name = {snake(column.name): column for column in offered if PLAIN.fullmatch(column.name)}
    called = next((by_name[name].name for name in FILE_NAMES if name in by_name), None)
    for column in by_name.values():
        if _is_file_key(table, column):
            file = f"{column.name} from uploads" + (f" as {called}" if called else "")
            yield comment(head_comment("file", [file]))


def _is_file_key(table: Table, column: Column) -> bool:
    *stem, last = words(column.name)
    stored = {singular(word) for word in (*stem, *words(table.name))}
    return last in FILE_KEYS and column.type_name in {"text", "varchar"} and not STORED.isdisjoint(stored)


def _title_comment(table: Table) -> list[str]:
    """The line `-- title:`, from a short comment of the table's; a colon would make it another fact."""
    text = table.comment.strip()
    is_title = 0 < len(text) <= MAX_TITLE_CHARACTERS and is_printable(text)
    return [head_comment("title", [text.removesuffix(".")])] if is_title else []


def _label_item(label: Label, prefix: str) -> str:
    link = label.link
    return (
        f"(SELECT label.{label.column} {label_source(link.parent)}"
        f" WHERE label.{link.parent_columns[0]} = {prefix}{link.columns[0]}) AS {label.alias}"
    )


def label_source(table: str) -> str:
    """The FROM of a readable name; `table` is quoted."""
    return f"FROM {table} AS label"


def _profile_names(users: Users, email: str) -> dict[str, str]:
    """Column aliases. `id` and `email` are reserved for the id and the address, `user_id` for the id in CSV."""
    renamed = {users.id_column.quoted: "id", email: "email"}
    clashing = [column for column in users.table.columns if column.name in {"id", "email", "user_id"}]
    return {column.quoted: f"{column.name}_2" for column in clashing} | renamed


def _place(column: Column, users: Users, email: str) -> int:
    """Sorts the id first, then the address."""
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
            lines.append(comment(f"{item},  -- undecided: {decision.why}"))
        else:
            lines.append(verdict_comment(decision.verdict, quoted, decision.why))
    lines[1:1] = [f"{item}," for item in extra]
    live = [number for number, line in enumerate(lines) if not line.startswith("--")]
    if live:
        # The live item moves to the end, so that the items above it can be uncommented as they are.
        lines.append(lines.pop(live[-1]).removesuffix(","))
    return (f"    {line}" for line in lines)


def _public_names(graph: Graph, whom: Sequence[Link], child: str) -> Iterator[str]:
    """Items for the select list; `child` is how the query calls the table."""
    for link in whom:
        by_name = {snake(column.name): column for column in graph.catalog.tables[link.parent].columns}
        handle = next((by_name[name] for name in HANDLES if name in by_name), None)
        if handle and len(link.columns) == 1:
            called = quote_identifier(f"{snake(link.columns[0]).removesuffix('_id')}_name")
            item = comment(
                f"(SELECT other.{handle.quoted} FROM {link.parent} AS other"  # noqa: S608 (quoted by PostgreSQL)
                f" WHERE other.{link.parent_columns[0]} = {child}.{link.columns[0]}) AS {called},"
                "  -- undecided: another person's public name"
            )
            yield f"    {item}"


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
    conditions = [
        f"{aliases[link.child] + '.' if joined else ''}{column} = {literal}"
        for link in path.links
        for column, literal in link.where
    ]
    return lines, " AND ".join([f"{prefix}{key} = $1::{users.user_id_type}", *conditions]), aliases


def _equation(link: Link, aliases: dict[str, str]) -> str:
    child, parent = aliases[link.child], aliases[link.parent]
    pairs = zip(link.columns, link.parent_columns, strict=True)
    return " AND ".join(f"{child}.{column} = {parent}.{other}" for column, other in pairs)


def _aliases(tables: Sequence[Table]) -> dict[str, str]:
    """Aliases by quoted name: the bare names if they are distinct and need no quotes, else numbers."""
    names = [table.name for table in tables]
    if len(set(names)) == len(names) and all(quote_identifier(name) == name for name in names):
        return {table.quoted: table.name for table in tables}
    return {table.quoted: f"step_{number}" for number, table in enumerate(tables, start=1)}


def _alias(table: Table, aliases: dict[str, str]) -> str:
    alias = aliases[table.quoted]
    return "" if alias == table.name else f" AS {alias}"


class Names:
    """Gives datasets valid names, which are also unambiguous in the CSV's header."""

    def __init__(self, profile_columns: Sequence[str]) -> None:
        self._taken = {PROFILE, *RESERVED_NAMES}
        self._header = set(profile_columns)

    def give(self, table: Table, labels: Sequence[str] = ()) -> str:
        columns = [*(column.name for column in table.columns), *labels]
        for candidate in _candidates(table):
            header = {f"{candidate}_{column}" for column in columns}
            if candidate not in self._taken and header.isdisjoint(self._header):
                self._taken.add(candidate)
                self._header |= header
                return candidate
        raise AssertionError("candidates have no end")


def _candidates(table: Table) -> Iterator[str]:
    """Candidates: the table's name, then with the schema's name before it, then with numbers after it."""
    plain, qualified = (_fit(text) for text in (table.name, f"{table.schema}_{table.name}"))
    yield plain
    yield qualified
    number = 2
    while True:
        suffix = f"_{number}"
        yield plain[: MAX_NAME_CHARACTERS - len(suffix)] + suffix
        number += 1


def _fit(text: str) -> str:
    name = NOT_IN_NAMES.sub("", snake(text))[:MAX_NAME_CHARACTERS]
    return name if NAME.fullmatch(name) else f"table_{name}"[:MAX_NAME_CHARACTERS]
