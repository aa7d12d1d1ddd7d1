"""From a catalog to the drafts of all files."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from onboarding.addresses import Address, find_address
from onboarding.catalog import Catalog
from onboarding.decisions import Judge, find_table_denial, find_table_doubt
from onboarding.drafts import Draft, Label, Names, draft_dataset, draft_profile
from onboarding.groups import Group, group_columns
from onboarding.labels import find_labels
from onboarding.links import find_links
from onboarding.looking import Evidence
from onboarding.paths import Graph, Path
from onboarding.suspicions import suspect
from onboarding.user_lists import UserLists, draft_lists
from onboarding.users_table import Users
from onboarding.verdicts import Decision, TableDecision, Verdict


class Drafts(msgspec.Struct, frozen=True):
    """`datasets` begin with the profile; `tables` are those without a dataset, the most suspicious first.

    `groups` are questions about several columns at once. `unread` are the tables that couldn't be looked at.
    """

    users: Users
    address: Address
    datasets: tuple[Draft, ...]
    tables: tuple[TableDecision, ...]
    groups: tuple[Group, ...]
    lists: UserLists
    unread: tuple[str, ...] = ()

    @property
    def profile(self) -> Draft:
        return self.datasets[0]

    @property
    def questions(self) -> int:
        """How many decisions are left to an operator: a table, a group or a column each."""
        sure = [draft for draft in self.datasets if not draft.doubt]
        columns = sum(len(draft.columns(Verdict.UNDECIDED)) for draft in sure)
        grouped = sum(len(group.columns) for group in self.groups)
        asked = sum(one.verdict is Verdict.UNDECIDED for one in self.tables)
        return len(self.datasets) - len(sure) + asked + columns - grouped + len(self.groups)

    @property
    def denied(self) -> list[str]:
        return [one.table.quoted for one in self.tables if one.verdict is Verdict.DENY]


def draft_all(
    catalog: Catalog, users: Users, *, forbidden: Sequence[str], trust_names: bool, evidence: Evidence | None = None
) -> Drafts:
    """`evidence` is that of `look`, if values may be looked at."""
    evidence = evidence or Evidence(find_links(catalog, users))
    graph = Graph(catalog, users, evidence.links)
    paths = graph.find_paths()
    lists = draft_lists(users)
    denied = {path.table: why for path in paths if (why := find_table_denial(catalog.tables[path.table]))}
    needed = _find_needed(paths)
    needed[users.table.quoted] |= lists.columns
    judge = Judge(
        graph, users.table, None, forbidden=forbidden, needed=needed[users.table.quoted], looks=evidence.looks
    )
    address = find_address(graph, paths, trust_names=trust_names)
    profile = draft_profile(users, address.sql, judge.decide_all())
    names = Names([column.name for column in users.table.columns])
    datasets = []
    with_way = {users.table.quoted, *(path.table for path in paths)}
    for path in paths:
        table = catalog.tables[path.table]
        if path.table in denied or table.parents:
            continue
        judge = Judge(graph, table, path, forbidden=forbidden, needed=needed[path.table], looks=evidence.looks)
        labels = find_labels(graph, path, with_way)
        name = names.give(table, [label.alias for label in labels])
        datasets.append(_draft(graph, path, judge, name, labels=labels, trust_names=trust_names))
    drafts = (profile, *datasets)
    tables = tuple(_decide_tables(graph, paths, denied))
    return Drafts(users, address, drafts, tables, group_columns(catalog, drafts), lists, evidence.unread)


def _decide_tables(graph: Graph, paths: Sequence[Path], denied: Mapping[str, str]) -> Iterator[TableDecision]:
    """The decisions about tables without a dataset."""
    tables = graph.catalog.tables
    yield from (TableDecision(tables[name], Verdict.DENY, why) for name, why in denied.items())
    linked = {graph.users.table.quoted, *(path.table for path in paths)}
    shared = graph.find_shared()
    apart = [
        (suspect(graph, table, shared.get(table.quoted)), table)
        for table in tables.values()
        if table.quoted not in linked and not table.parents
    ]
    for (suspicion, why), table in sorted(apart, key=lambda one: (-one[0][0], one[1].quoted)):
        if denial := find_table_denial(table):
            yield TableDecision(table, Verdict.DENY, denial)
            continue
        verdict = Verdict.UNDECIDED if suspicion else Verdict.NOT_PERSONAL
        yield TableDecision(table, verdict, why, suspicion)


def _find_needed(paths: Sequence[Path]) -> dict[str, set[str]]:
    """Maps quoted tables to the columns that other tables' paths use."""
    needed: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        for link in path.links:
            needed[link.parent] |= set(link.parent_columns)
    return needed


def _draft(  # noqa: PLR0913 (each is one independent fact of the file)
    graph: Graph, path: Path, judge: Judge, name: str, *, labels: Sequence[Label], trust_names: bool
) -> Draft:
    decisions = judge.decide_all()
    doubt = find_table_doubt(graph, path, trust_names=trust_names) or _find_draft_doubt(judge, decisions)
    whom = judge.others if judge.is_empty_without_others(decisions) else []
    return draft_dataset(
        graph, path, name, decisions=decisions, order=judge.order, doubt=doubt, whom=whom, labels=labels
    )


def _find_draft_doubt(judge: Judge, decisions: Sequence[Decision]) -> str | None:
    if not judge.order:
        return "no key without a secret gives its rows a unique order"
    if not any(decision.verdict is Verdict.EXPORT for decision in decisions):
        return "no column certainly belongs to the user"
    if judge.is_empty_without_others(decisions):
        return (
            "its rows only name another person, who isn't exported: choose a column to name them by, or deny the table"
        )
    return None
