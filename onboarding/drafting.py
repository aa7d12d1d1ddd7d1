"""From a catalog to the drafts of all files."""

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from onboarding.catalog import Catalog, Table
from onboarding.decisions import Decision, Judge, Verdict, find_table_denial, find_table_doubt
from onboarding.drafts import Draft, Names, draft_dataset, draft_profile
from onboarding.paths import Graph, Path, Relation
from onboarding.user_lists import UserLists, draft_lists
from onboarding.users_table import Users, find_email
from onboarding.words import snake
from service.errors import ConfigurationError


class Drafts(msgspec.Struct, frozen=True):
    """`datasets` begin with the profile; `denied_tables` point to the user too, by quoted name with the reason."""

    users: Users
    datasets: tuple[Draft, ...]
    denied_tables: dict[str, str]
    lists: UserLists

    @property
    def profile(self) -> Draft:
        return self.datasets[0]


def draft_all(catalog: Catalog, users: Users, *, forbidden: Sequence[str], trust_names: bool) -> Drafts:
    """Raises ConfigurationError if users have no e-mail address."""
    graph = Graph(catalog, users)
    paths = graph.find_paths()
    lists = draft_lists(users)
    denied = {path.table: why for path in paths if (why := find_table_denial(catalog.tables[path.table]))}
    needed = _find_needed(paths)
    needed[users.table.quoted] |= lists.columns
    judge = Judge(graph, users.table, None, forbidden=forbidden, needed=needed[users.table.quoted])
    profile = draft_profile(users, _email_sql(graph, paths, trust_names=trust_names), judge.decide_all(), denied)
    names = Names([column.name for column in users.table.columns])
    datasets = [
        _draft(
            graph,
            path,
            Judge(graph, catalog.tables[path.table], path, forbidden=forbidden, needed=needed[path.table]),
            names.give(catalog.tables[path.table]),
            trust_names=trust_names,
        )
        for path in paths
        if path.table not in denied
    ]
    return Drafts(users, (profile, *datasets), denied, lists)


def _find_needed(paths: Sequence[Path]) -> dict[str, set[str]]:
    """By quoted table, the columns that other tables' paths go through."""
    needed: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        for link in path.links:
            needed[link.parent] |= set(link.parent_columns)
    return needed


def _draft(graph: Graph, path: Path, judge: Judge, name: str, *, trust_names: bool) -> Draft:
    decisions = judge.decide_all()
    doubt = _find_draft_doubt(judge, decisions) or find_table_doubt(graph, path, trust_names=trust_names)
    whom = judge.others if judge.is_empty_without_others(decisions) else []
    return draft_dataset(graph, path, name, decisions=decisions, order=judge.order, doubt=doubt, whom=whom)


def _find_draft_doubt(judge: Judge, decisions: Sequence[Decision]) -> str | None:
    if not judge.order:
        return "no key without a secret gives its rows a unique order"
    if not any(decision.verdict is Verdict.EXPORT for decision in decisions):
        return "no column is sure to be the user's"
    if judge.is_empty_without_others(decisions):
        return "its rows name another person, who stays back, and say nothing without: choose how to name them, or deny"
    return None


def _email_sql(graph: Graph, paths: Sequence[Path], *, trust_names: bool) -> str:
    """The users' column, or the first one in a table of the user's addresses."""
    if own := find_email(graph.users.table):
        return own.quoted
    for path in paths:
        table = graph.catalog.tables[path.table]
        is_sure = path.relation is Relation.SUBJECT and not find_table_doubt(graph, path, trust_names=trust_names)
        if is_sure and len(path.links) == 1 and table.unique_keys and find_email(table):
            return _address_query(table, path)
    raise ConfigurationError(
        f"{graph.users.table.quoted} has no e-mail address, and no foreign key leads from one to it"
    )


def _address_query(table: Table, path: Path) -> str:
    link, email = path.links[0], find_email(table)
    assert email is not None
    condition = " AND ".join(
        f"address.{column} = {link.parent}.{target}"
        for column, target in zip(link.columns, link.parent_columns, strict=True)
    )
    first = [f"{column.quoted} DESC" for column in table.columns if snake(column.name) in {"primary", "is_primary"}]
    order = ", ".join(f"address.{column}" for column in (*first, *table.unique_keys[0]))
    return f"(SELECT address.{email.quoted} FROM {table.quoted} AS address WHERE {condition} ORDER BY {order} LIMIT 1)"  # noqa: S608 (names quoted by PostgreSQL)
