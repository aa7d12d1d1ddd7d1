"""The decision about a table or a column, with its reason."""

from enum import StrEnum

import msgspec

from onboarding.catalog import Column, Table


class Verdict(StrEnum):
    """KEY columns find or order the rows, and aren't exported."""

    EXPORT = "export"
    KEY = "key"
    DENY = "deny"
    NOT_PERSONAL = "not personal"
    UNDECIDED = "undecided"


class Decision(msgspec.Struct, frozen=True):
    """`why` is the evidence. `proposal` is the likeliest verdict of an undecided column."""

    column: Column
    verdict: Verdict
    why: str
    proposal: Verdict | None = None


class TableDecision(msgspec.Struct, frozen=True):
    """A table without a dataset. `why` is the evidence; `suspicion` is higher, the likelier its rows are a person's."""

    table: Table
    verdict: Verdict
    why: str
    suspicion: int = 0
