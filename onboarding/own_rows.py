"""Columns of the users' table that may lead to rows of one user alone, such as `account_id`: one answer about such a
column decides about all tables that hang on these rows.
"""

from collections import defaultdict
from pathlib import Path

import msgspec

from onboarding.comments import head_comment, read_comments
from onboarding.drafts import Draft
from onboarding.initializing import DOUBTED_SUFFIX, SUFFIX, Options, Outcome
from onboarding.links import Kind, Strength
from onboarding.questions import Edits, read_text
from service.documents.datasets import PROFILE


class OwnQuestion(msgspec.Struct, frozen=True):
    """Whether each row of the table `target`, which `column` leads to, is of one user alone. Names are quoted."""

    column: str
    target: str
    drafts: tuple[Draft, ...]


def list_own_questions(outcome: Outcome) -> list[OwnQuestion]:
    """Those on which undecided tables hang, the most important first."""
    users = outcome.drafts.users.table
    keys = {key.columns for key in users.foreign_keys}
    hanging: dict[tuple[str, str], list[Draft]] = defaultdict(list)
    for draft in outcome.drafts.datasets:
        for link in draft.path.links if draft.path and draft.doubt else ():
            is_open = link.kind is Kind.REVERSED and link.strength is Strength.WEAK
            if is_open and link.parent == users.quoted and link.parent_columns in keys:
                hanging[link.parent_columns[0], link.child].append(draft)
    questions = [OwnQuestion(column, target, tuple(drafts)) for (column, target), drafts in hanging.items()]
    return sorted(questions, key=lambda one: -len(one.drafts))


def own(options: Options, outcome: Outcome, question: OwnQuestion) -> tuple[Options, Edits]:
    """The options and edits with which `init` writes the tables' files again, if the rows are of one user alone.

    All undecided tables may have a better way then. Only files that are as `init` wrote them go.
    """
    profile = options.directory / f"{PROFILE}{SUFFIX}"
    columns = (*read_comments(profile).own, question.column)
    lines = [line for line in read_text(profile).splitlines() if not line.startswith("-- own: ")]
    edits: dict[Path, str | None] = {profile: "\n".join([head_comment("own", columns), *lines]) + "\n"}
    for draft in outcome.drafts.datasets:
        path = outcome.kept.get(draft.table.quoted, options.directory / f"{draft.name}{DOUBTED_SUFFIX}")
        if draft.doubt and path.name.endswith(DOUBTED_SUFFIX) and read_text(path) == draft.text:
            edits[path] = None
    names = tuple(outcome.drafts.users.table.get_column(column).name for column in columns)
    return msgspec.structs.replace(options, own=names, force=False), edits
