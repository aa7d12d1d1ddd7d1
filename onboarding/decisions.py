"""Decides for each column whether it may be exported, with the reason; doubtful columns stay undecided."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise

from guard.text import is_printable
from onboarding.catalog import Column, Table
from onboarding.links import PEOPLE, Kind, Link, Strength, find_stem
from onboarding.looking import Look
from onboarding.paths import Graph, Path, Rank, Relation
from onboarding.verdicts import Decision, Verdict
from onboarding.words import (
    ACTS_ON_THINGS,
    ADDRESS_WORDS,
    BEARER_WORDS,
    BYSTANDERS,
    CALLED_TABLES,
    CALLED_WITH,
    COLLECTIONS,
    ELSEWHERE,
    FREE_TEXT,
    ID_WORDS,
    LINK_WORDS,
    LISTS,
    MESSAGES,
    NOT_IN_NUMBERS,
    NOT_IN_SWITCHES,
    OF_ADDRESSES,
    OF_PAYEES,
    OF_PAYERS,
    OPENED_BY_ID,
    OTHERS,
    OTHERS_TABLES,
    OWN_THINGS,
    PAID_IN,
    PAID_OUT,
    PARTIES,
    PERSON_NAMES,
    PERSON_WORDS,
    PLAIN_CODES,
    PLAIN_LINKS,
    PLAIN_TEXT,
    REACTED_TO,
    REPORTED,
    SECRET_TABLE_WORDS,
    STAFF_ACTS,
    STAFF_NAMES,
    STAFF_ON_USERS,
    STAFF_TABLES,
    STAFF_TIMES,
    STAFF_WORDS,
    SUBSCRIPTIONS,
    TIMES,
    TYPE_WORDS,
    UPLOADERS,
    USERS_TABLES,
    VERIFICATIONS,
    VISITS,
    WRITERS,
    WRITES,
    is_called_like_users,
    is_secret,
    singular,
    snake,
    split_end,
    words,
)
from service.documents.datasets import INTEGERS
from service.documents.forbidden_columns import is_forbidden

EMAIL_WORDS = {"email", "mail", "emails"}
PLAIN_TYPES = {*INTEGERS, "bool", "numeric", "float4", "float8", "money", "date", "time", "timetz",
    "timestamp", "timestamptz", "interval"}  # fmt: skip
TEXT_TYPES = {"text", "varchar", "bpchar", "citext", "name"}
TIME_TYPES = {"date", "timestamp", "timestamptz"}
KEY_TYPES = {*INTEGERS, "uuid"}


class Judge:
    """Decides for one table; `path` is its path to the user, None for the users' own table."""

    def __init__(  # noqa: PLR0913 (each is one independent fact)
        self,
        graph: Graph,
        table: Table,
        path: Path | None,
        *,
        forbidden: Sequence[str],
        needed: Collection[str],
        looks: Mapping[tuple[str, str], Look],
    ) -> None:
        """`needed` are columns that find other tables' rows, or the operators' lists."""
        self._looks = looks
        self._graph = graph
        self._table = table
        self._path = path
        self._forbidden = forbidden
        self._needed = needed
        self._targets = {
            name: link.parent
            for link in reversed(graph.links_of(table))
            if link.kind is Kind.KEY and link.strength is not Strength.WEAK
            for name in link.columns
        }
        people = graph.links_to_people(table)
        self._people = {name for link in people for name in _columns_of_others(link)}
        self._way = set(path.links[0].columns) if path else set()
        is_of_user = table.quoted in graph.people
        self.others = [link for link in people if not set(link.columns) <= self._way]
        parties = [link for link in self.others if link.strength is not Strength.WEAK and not _is_bystander(link)]
        is_only = path is not None and path.relation is Relation.SUBJECT and path.links[0].columns in table.keys
        is_authors = path is not None and _is_authors(path) and all(map(_is_reaction, parties))
        shared = bool(parties) and not is_only and not is_authors
        self._is_own_row = is_of_user or (path is not None and path.depth == 1 and not shared)
        self._is_subject = self._is_own_row and (path is None or path.relation is Relation.SUBJECT)
        self._is_author = path is not None and path.depth == 1 and path.relation is Relation.AUTHOR
        self._is_below_own = path is not None and path.depth > 1 and _is_owners(path) and not parties
        self._is_link = bool(self.others) and path is not None and path.depth == 1
        self.order = self._find_order()

    def decide_all(self) -> list[Decision]:
        decisions = [self._decide(column) for column in self._table.columns]
        if any(one.verdict in {Verdict.EXPORT, Verdict.UNDECIDED} for one in decisions) or not self._is_subject:
            return decisions
        return [self._tell_presence(one) for one in decisions]

    def _tell_presence(self, decision: Decision) -> Decision:
        """The user's own id is exported where the row tells no more than that it is there."""
        is_own_id = decision.verdict is Verdict.KEY and decision.column.quoted in self._way and not self.others
        return Decision(decision.column, Verdict.EXPORT, "the user's own id") if is_own_id else decision

    def is_empty_without_others(self, decisions: Sequence[Decision]) -> bool:
        """Whether the row only links the user to another person, who isn't exported, and perhaps has a time."""
        exported = [decision.column for decision in decisions if decision.verdict is Verdict.EXPORT]
        return self._is_link and not any(map(self._tells, exported))

    def _tells(self, column: Column) -> bool:
        name, is_link = column.quoted, not LINK_WORDS.isdisjoint(words(column.name)[-1:])
        is_option = column.type_name in {*TIME_TYPES, "bool"} or column.type_name.startswith("_")
        is_silent = name in self.order or is_link or is_option
        return name in self._targets or not is_silent

    def _find_order(self) -> tuple[str, ...]:
        """The first unique key without a secret column; empty if the table has none."""
        keys = [key for key in self._table.unique_keys if not any(map(self._is_denied, key))]
        return keys[0] if keys else ()

    def _is_denied(self, quoted: str) -> bool:
        name = self._table.get_column(quoted).name
        return is_forbidden(name, self._forbidden) or is_secret(name)

    def _decide(self, column: Column) -> Decision:
        verdict, why = next(
            self._reasons(column), (Verdict.UNDECIDED, f"{column.type_name} is a type of unknown content")
        )
        if verdict is Verdict.UNDECIDED and self._look(column).is_constant:
            return Decision(column, Verdict.DENY, "all rows that were looked at have the same value")
        return Decision(column, verdict, why)

    def _look(self, column: Column) -> Look:
        return self._looks.get((self._table.quoted, column.quoted), Look())

    def _reasons(self, column: Column) -> Iterator[tuple[Verdict, str]]:
        """Verdicts by priority, the first wins: forbidden columns, then the row's owner, then the column's content."""
        if not is_printable(column.name):  # without the invisible character, it may be a secret's name
            yield Verdict.UNDECIDED, "its name has invisible characters"
        if is_secret(column.name):
            yield Verdict.DENY, "a secret, by its name"
        if is_forbidden(column.name, self._forbidden):
            verdict = Verdict.KEY if column.quoted in {*self._way, *self._needed} else Verdict.DENY
            yield verdict, "its name is in CARRYOUT_FORBIDDEN_COLUMNS"
        yield from self._link_reasons(column)
        if self._look(column).is_token:
            yield Verdict.DENY, "its values look like tokens"
        yield from self._name_reasons(column)
        yield from self._type_reasons(column)

    def _link_reasons(self, column: Column) -> Iterator[tuple[Verdict, str]]:
        name = column.quoted
        if self._path is None and name in self._graph.users.own:
            yield Verdict.EXPORT, f"points to the user's own row of {self._targets[name]}"
        if self._path is None and name == self._graph.users.id_column.quoted:
            yield Verdict.EXPORT, "the user's id"
        is_own_table = self._table.quoted in self._graph.own_tables
        if self._path and self._path.depth == 1 and name in self._way and not is_own_table:
            yield Verdict.KEY, "the user's own id, which the profile has"
        if name in self._people:
            verdict = Verdict.KEY if name in self.order else Verdict.DENY
            yield verdict, "another person"
        if name in self._targets:
            yield from self._target_reasons(column, self._targets[name])
        is_plain_key = column.type_name in {*KEY_TYPES, *TIME_TYPES} or find_stem(column.name) == ()
        if name in self.order and is_plain_key and self._is_unguessable(column):
            yield from self._bearer_id_reasons()
        if name in self.order and is_plain_key:
            yield Verdict.EXPORT, "part of the row's own key"

    def _target_reasons(self, column: Column, target: str) -> Iterator[tuple[Verdict, str]]:
        """`target` is the quoted table that the column points to."""
        if self._path and self._is_of_people(target):
            yield Verdict.KEY if column.quoted in self.order else Verdict.UNDECIDED, "may be another person"
        if not self._is_own_row and not OWN_THINGS.isdisjoint(words(column.name)):
            yield Verdict.UNDECIDED, "may be another person's"
        if _is_of_staff(self._graph.catalog.tables[target]):
            yield Verdict.UNDECIDED, "leads to what the staff write or do"
        if column.type_name in KEY_TYPES | TEXT_TYPES:
            yield Verdict.EXPORT, f"points to {target}"

    def _bearer_id_reasons(self) -> Iterator[tuple[Verdict, str]]:
        if singular(words(self._table.name)[-1]) == "session":
            yield Verdict.KEY, "the id of a session, which may work as a key"
        if is_hook(self._table) and not any(map(_is_address_or_secret, self._table.columns)):
            yield Verdict.KEY, "the id of a hook without another secret, which may work as a key"
        if not VERIFICATIONS.isdisjoint(words(self._table.name)):
            yield Verdict.KEY, "the id of a verification, which may work as a key"
        is_opened = singular(words(self._table.name)[-1]) in OPENED_BY_ID
        if is_opened and not any(is_secret(column.name) for column in self._table.columns):
            yield Verdict.KEY, "an id without another secret, which may open the row for anyone who has it"

    def _is_unguessable(self, column: Column) -> bool:
        return column.type_name not in {*INTEGERS, *TIME_TYPES}

    def _is_of_people(self, quoted: str) -> bool:
        return snake(self._graph.catalog.tables[quoted].name) in USERS_TABLES

    def _name_reasons(self, column: Column) -> Iterator[tuple[Verdict, str]]:
        parts, type_name = split_end(column.name), _element_type(column)
        if self._is_of_type(column, parts):
            yield Verdict.EXPORT, "says what the id beside it points to"
        if type_name in TEXT_TYPES and not LINK_WORDS.isdisjoint(parts[-1:]):
            yield from _link_text_reasons(parts, self._table)
            if self._path and not UPLOADERS.isdisjoint(words(self._path.links[0].columns[-1])):
                yield Verdict.UNDECIDED, "a link to a file, which may work as a key"
        if self._is_own_row and parts[-1] in ID_WORDS and column.quoted in self._graph.numbers:
            yield Verdict.EXPORT, f"tells the user's rows of {self._graph.numbers[column.quoted]} apart"
        if self._is_own_row and parts[-1] in ID_WORDS and not ELSEWHERE.isdisjoint(parts):
            yield Verdict.EXPORT, "an id that another system gave"
        if parts and (parts[-1] in ID_WORDS or column.type_name == "uuid"):
            yield Verdict.UNDECIDED, "an id that no foreign key explains"
        if column.type_name in {"inet", "cidr", "macaddr", "macaddr8"} or not ADDRESS_WORDS.isdisjoint(parts):
            yield (Verdict.EXPORT, "") if self._is_subject else (Verdict.DENY, "may be another person's address")
        if self._is_staffs(column, parts) and not _is_plain_code(parts):
            yield Verdict.UNDECIDED, "may be written by staff, or work as a key"
        yield from self._others_reasons(column, parts)

    def _is_staffs(self, column: Column, parts: Sequence[str]) -> bool:
        found = STAFF_WORDS - NOT_IN_SWITCHES if column.type_name in PLAIN_TYPES else STAFF_WORDS
        if column.type_name in TIME_TYPES:
            found = found | STAFF_TIMES
        if self._path is None:
            found = found | STAFF_ON_USERS
        said = {*parts, *(part.removeprefix("is") for part in parts)}  # istrusted
        return not found.isdisjoint(said) or snake(column.name) in STAFF_NAMES

    def _others_reasons(self, column: Column, parts: Sequence[str]) -> Iterator[tuple[Verdict, str]]:
        """Names of what may be another person's."""
        others = OTHERS - NOT_IN_NUMBERS if column.type_name in PLAIN_TYPES else OTHERS
        if not others.isdisjoint(parts[:-1]):
            yield Verdict.UNDECIDED, "may be about another person"
        if self._is_payees(column, parts):
            yield Verdict.UNDECIDED, "may be the payee's"
        if self._is_payers(column, parts):
            yield Verdict.UNDECIDED, "may be the payer's"
        is_address = "address" in parts and is_called_like_users(self._table.name)
        if self._is_made_for_another and (is_address or _is_about_people(column)):
            yield Verdict.UNDECIDED, "may be about another person, whom the user made the row for"
        if column.type_name in TEXT_TYPES and not EMAIL_WORDS.isdisjoint(parts[-1:]) and not self._is_of_addresses():
            yield Verdict.UNDECIDED, "an address that may be another person's"

    def _is_payees(self, column: Column, parts: Sequence[str]) -> bool:
        is_paid_out = singular(words(self._table.name)[-1]) in PAID_OUT
        return is_paid_out and column.type_name in TEXT_TYPES and not OF_PAYEES.isdisjoint(parts)

    def _is_payers(self, column: Column, parts: Sequence[str]) -> bool:
        is_paid_in = self._is_made_for_another and singular(words(self._table.name)[-1]) in PAID_IN
        return is_paid_in and column.type_name in TEXT_TYPES and not OF_PAYERS.isdisjoint(parts)

    @property
    def _is_made_for_another(self) -> bool:
        """Whether the user only made or runs the row, which then may describe another person."""
        return self._path is not None and self._path.relation is not Relation.SUBJECT

    def _is_of_type(self, column: Column, parts: Sequence[str]) -> bool:
        """Whether it is the type of a polymorphic pair: `owner_type` beside `owner_id`."""
        is_type = self._is_own_row and parts[-1] in TYPE_WORDS and (column.type_name in TEXT_TYPES or column.is_enum)
        stem = tuple(parts[:-1])
        return (
            is_type
            and bool(stem)
            and any(
                find_stem(one.name) == stem and words(one.name) != words(column.name) for one in self._table.columns
            )
        )

    def _is_of_addresses(self) -> bool:
        """Whether the table's addresses are the user's: their own row, or one about their accounts or addresses."""
        name = self._table.name
        is_of_user = self._path is None or self._table.quoted in self._graph.people or is_called_like_users(name)
        return is_of_user or not OF_ADDRESSES.isdisjoint(words(name)[-1:])

    def _type_reasons(self, column: Column) -> Iterator[tuple[Verdict, str]]:
        name, plain = snake(column.name), _element_type(column) in PLAIN_TYPES or column.is_enum
        if column.type_name == "tsvector":
            yield Verdict.DENY, "a search index, made of other columns"
        if name in TIMES and column.type_name in TIME_TYPES:
            yield Verdict.EXPORT, ""
        if plain and not self._is_own_row and self._path and self._path.depth == 1:
            yield Verdict.UNDECIDED, "the row names several people, and its owner is unclear"
        if plain:
            yield Verdict.EXPORT, ""
        if _element_type(column) in TEXT_TYPES:
            yield self._decide_text(column)

    def _decide_text(self, column: Column) -> tuple[Verdict, str]:
        last = split_end(column.name)[-1]
        is_free = last in FREE_TEXT
        if is_free and self._is_subject and any(map(_is_writer, self.others)):
            return Verdict.UNDECIDED, "free text that another person may have written"
        if not (self._is_own_row or self._is_author or (self._is_below_own and not is_free)):
            return Verdict.UNDECIDED, "free text in a row that isn't the user's alone"
        if not PLAIN_TEXT.isdisjoint({last, singular(last)}) or _is_plain_code(split_end(column.name)):
            return Verdict.EXPORT, ""
        return Verdict.UNDECIDED, "text of an unknown kind"


def _is_owners(path: Path) -> bool:
    """Whether the row hangs on one that is the user's, by its owner and not by what others do."""
    return path.relation is Relation.SUBJECT and path.rank <= Rank.BELOW


def _link_text_reasons(parts: Sequence[str], table: Table) -> Iterator[tuple[Verdict, str]]:
    """A link may let in anyone who has it."""
    if not BEARER_WORDS.isdisjoint(parts):
        yield Verdict.DENY, "a link that may work as a key, by its name"
    if PLAIN_LINKS.isdisjoint(parts) and (is_hook(table) or not CALLED_TABLES.isdisjoint(words(table.name))):
        yield Verdict.DENY, "a link that may work as a key, by its table's name"
    if PLAIN_LINKS.isdisjoint(parts) and any(not CALLED_WITH.isdisjoint(words(one.name)) for one in table.columns):
        yield Verdict.UNDECIDED, "a link that the application may call, by the columns beside it"
    if len(parts) > 1 and PLAIN_LINKS.isdisjoint(parts):
        yield Verdict.UNDECIDED, "a link, which may work as a key"


def _element_type(column: Column) -> str:
    """The type, of an array that of its elements."""
    return column.type_name.removeprefix("_")


def _is_plain_code(parts: Sequence[str]) -> bool:
    """Whether it is a code or a key that opens nothing: `country_code`, `public_key`."""
    *_, before, last = ("", *parts)
    return (last == "code" and before in PLAIN_CODES) or (last == "key" and before == "public")


def is_hook(table: Table) -> bool:
    return "hook" in table.name.lower()


def _is_address_or_secret(column: Column) -> bool:
    return not LINK_WORDS.isdisjoint(words(column.name)) or is_secret(column.name)


def _is_bystander(link: Link) -> bool:
    """Whether the link names a person who only acts on the row, by its name."""
    return not BYSTANDERS.isdisjoint(find_stem(link.columns[-1].strip('"')))


def _is_writer(link: Link) -> bool:
    return not WRITERS.isdisjoint(find_stem(link.columns[-1].strip('"')))


def _is_authors(path: Path) -> bool:
    """Whether the user wrote the row, by the name of the linking column."""
    return path.relation < Relation.RUNS or not WRITES.isdisjoint(words(path.links[0].columns[-1]))


def _columns_of_others(link: Link) -> Iterator[str]:
    """Without those that a row shares with the rows of its own table, such as the tenant."""
    for column, target in zip(link.columns, link.parent_columns, strict=True):
        if (link.child, column) != (link.parent, target):
            yield column


def _is_reaction(link: Link) -> bool:
    parts = words(link.columns[-1])
    return not REACTED_TO.isdisjoint(parts) and MESSAGES.isdisjoint(parts)


def find_table_denial(table: Table) -> str | None:
    """The reason to deny the whole table, if its name gives one."""
    if SECRET_TABLE_WORDS.isdisjoint(words(table.name)):
        return None
    return "it holds secrets, by its name"


def find_table_doubt(graph: Graph, path: Path, *, trust_names: bool) -> str | None:
    """The reason to doubt that the rows are the user's, if there is one."""
    if not graph.catalog.tables[path.table].is_printable:
        return "its name has invisible characters: check whom its rows belong to"
    return next(_doubts(graph, path, trust_names=trust_names), None)


def _doubts(graph: Graph, path: Path, *, trust_names: bool) -> Iterator[str]:
    if any(is_secret(column) for link in path.links for column in (*link.columns, *link.parent_columns)):
        yield "a secret column links its rows to the user"
    for link in path.links:
        if link.strength is Strength.WEAK and not (trust_names and link.kind is Kind.KEY):
            yield link.why
        if link.parent in graph.people and path.relation is Relation.OTHER:
            yield f"{link.columns[-1]} names the user, but the row may belong to another person"
    if path.depth > 1 and path.relation is not Relation.SUBJECT:
        yield "rows below one that the user made or runs may belong to other people"
    if _is_on_list_of_another(graph, path):
        yield "the list that its rows are on may be another person's"
    if path.depth > 1 and _is_act_of_visitor(graph, path):
        yield "it is about visitors of what is the user's, by the rows that it points to"
    yield from _party_doubts(graph, path)
    for link in path.links:
        yield from _table_doubts(graph, path, link)


def _party_doubts(graph: Graph, path: Path) -> Iterator[str]:
    """Doubts about rows that name another person, who may be the one that they are of."""
    way = path.links[0]
    for link in graph.links_to_people(graph.catalog.tables[path.table]):
        is_party = link.strength is not Strength.WEAK and not _is_bystander(link) and not _is_reaction(link)
        if path.depth > 1 and is_party and link != way:
            yield f"its rows may be another person's, whom {link.columns[-1]} names"
        if link != way and _is_in_deal(way) and _is_in_deal(link):
            yield f"its rows are of two parties, by {way.columns[-1]} and {link.columns[-1]}"


def _table_doubts(graph: Graph, path: Path, link: Link) -> Iterator[str]:
    """Doubts about the table where `link` of the path begins."""
    table = graph.catalog.tables[link.child]
    named = "it" if link.child == path.table else table.quoted
    is_extension = link.columns in table.keys or table.quoted in graph.people
    if not is_extension and singular(words(table.name)[-1]) in OTHERS_TABLES:
        yield f"{named} is about other people, by its name"
    if not is_extension and link in path.links[: path.depth - 1] and singular(words(table.name)[-1]) in VISITS:
        yield f"{named} is about visitors of what is the user's, by its name"
    if not is_extension and _has_subscribers(table):
        yield f"{named} is about people who subscribe, by its name and their addresses"
    if find_table_denial(table) or is_secret(table.name):
        yield f"{named} holds secrets, by its name"
    if link in path.links[: path.depth - 1] and any(map(_is_about_people, table.columns)):
        yield f"{table.quoted} may be about other people, by its columns"
    if not STAFF_TABLES.isdisjoint(words(table.name)):
        yield f"the staff may write about users in {named}, by its name"
    if is_staffs_act(table):
        yield f"{named} may hold what the staff do to things of others, by its name"
    if is_about_reports(graph, table):
        yield f"the staff may write about users in {named}, by the table that it is about"
    if is_note_on_thing(graph, table):
        yield f"{named} may be the staff's notes, by its name"


def _is_on_list_of_another(graph: Graph, path: Path) -> bool:
    """Whether the row says that the user is on a list, such as `list_accounts`, and each list is some person's."""
    table = graph.catalog.tables[path.table]
    return path.depth == 1 and any(
        _is_list_with(one, table) and bool(graph.links_to_people(one)) for one in _things(graph, table)
    )


def _is_list_with(table: Table, entry: Table) -> bool:
    """Whether `entry` is, by the names, about what is on the lists of `table`."""
    called = singular(words(table.name)[-1])
    return called in LISTS or (called in COLLECTIONS and called in words(entry.name)[:-1])


def _is_act_of_visitor(graph: Graph, path: Path) -> bool:
    """Whether it points to a visit that names no user, at most by one step between."""
    way = {link.parent for link in path.links}
    beside = [one for one in _things(graph, graph.catalog.tables[path.table]) if one.quoted not in way]
    return any(
        singular(words(one.name)[-1]) in VISITS and not graph.links_to_people(one)
        for near in beside
        for one in (near, *_things(graph, near))
    )


def _things(graph: Graph, table: Table) -> list[Table]:
    """The tables that its rows point to, without the people's and itself."""
    aside = {table.quoted, *graph.people}
    names = [link.parent for link in graph.links_of(table) if link.kind is Kind.KEY and link.parent not in aside]
    return [graph.catalog.tables[name] for name in names if name in graph.catalog.tables]


def _is_in_deal(link: Link) -> bool:
    return not PARTIES.isdisjoint(find_stem(link.columns[-1].strip('"')))


def _is_of_staff(table: Table) -> bool:
    return is_staffs_act(table) or not STAFF_TABLES.isdisjoint(words(table.name))


def _has_subscribers(table: Table) -> bool:
    is_called_so = singular(words(table.name)[-1]) in SUBSCRIPTIONS
    return is_called_so and any(not EMAIL_WORDS.isdisjoint(words(column.name)[-1:]) for column in table.columns)


def is_staffs_act(table: Table) -> bool:
    """Whether its rows are acts of the staff on things that aren't the user's: `redactions`, `blocked_rooms`."""
    parts = words(table.name)
    things = [then for one, then in pairwise(parts) if one in ACTS_ON_THINGS]
    return not STAFF_ACTS.isdisjoint(parts) or any(singular(thing) not in PEOPLE for thing in things)


def is_about_reports(graph: Graph, table: Table) -> bool:
    """Whether it holds texts about a row that says whom others reported."""
    parents = (graph.catalog.tables.get(link.parent) for link in graph.links_of(table) if link.kind is Kind.KEY)
    return any(map(_is_written, table.columns)) and any(
        not REPORTED.isdisjoint(words(column.name)) and column.quoted in _columns_to_people(graph, parent)
        for parent in parents
        if parent
        for column in parent.columns
    )


def _is_written(column: Column) -> bool:
    return column.type_name in TEXT_TYPES and not FREE_TEXT.isdisjoint(words(column.name)[-1:])


def _columns_to_people(graph: Graph, table: Table) -> set[str]:
    return {name for link in graph.links_to_people(table) for name in link.columns}


def is_note_on_thing(graph: Graph, table: Table) -> bool:
    """Whether it holds a person's notes on something: `order_notes`, but neither `notes` nor `account_notes`."""
    *about, last = words(table.name)
    things = [link for link in graph.links_of(table) if link.kind is Kind.KEY and link.parent not in graph.people]
    is_of_notes = bool(about) and singular(last) == "note"
    return is_of_notes and bool(things) and bool(graph.links_to_people(table))


def _is_about_people(column: Column) -> bool:
    parts = set(words(column.name))
    return bool(parts & (PERSON_WORDS | ADDRESS_WORDS)) or snake(column.name) in PERSON_NAMES
