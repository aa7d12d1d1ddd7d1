"""`carryout check`: verify that each table and each column of the database is decided."""

from pathlib import Path

import msgspec

from onboarding.ledger import Ledger, read_ledger
from onboarding.verdicts import Verdict
from service.backends.database import Connection


class Findings(msgspec.Struct, frozen=True):
    """Names of undecided tables and columns, and sentences about faults; all empty if everything is decided.

    `undecided_tables` lead to the user; `unlinked_tables` don't, with the reason to believe so, the most suspicious
    first.
    """

    undecided_tables: list[str]
    undecided_columns: list[str]
    contradictions: list[str]
    stale: list[str]
    unlinked_tables: dict[str, str] = {}

    @property
    def is_clean(self) -> bool:
        return not any(msgspec.structs.astuple(self))


async def check(connection: Connection, directory: Path) -> Findings:
    """Raises ConfigurationError if the directory has no profile, or the users' table can't be found."""
    return find_open(await read_ledger(connection, directory))


def find_open(ledger: Ledger) -> Findings:
    undecided = [entry for entry in ledger.tables if entry.verdict is Verdict.UNDECIDED]
    return Findings(
        undecided_tables=[entry.table.quoted for entry in undecided if entry.is_linked],
        undecided_columns=[
            f"{entry.table.quoted}.{column.column.quoted}"
            for entry in ledger.tables
            if entry.verdict is not Verdict.UNDECIDED
            for column in entry.undecided
        ],
        contradictions=list(ledger.contradictions),
        stale=list(ledger.stale),
        unlinked_tables={entry.table.quoted: entry.why for entry in undecided if not entry.is_linked},
    )
