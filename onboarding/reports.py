"""What the commands print."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from onboarding.checking import Findings
from onboarding.decisions import Verdict
from onboarding.drafting import Drafts
from onboarding.drafts import Draft
from onboarding.initializing import DOUBTED_SUFFIX, SUFFIX, Outcome

HEADER = ("table", "linked by", "exported", "held back", "undecided", "file")
ROLE = "carryout_reader"


def report_outcome(outcome: Outcome, directory: Path) -> Iterator[str]:
    drafts = outcome.drafts
    yield from _table([HEADER, *(_row(draft, outcome.kept) for draft in drafts.datasets), *_denied_rows(drafts)])
    yield ""
    yield from _totals(outcome)
    yield ""
    yield from _role(drafts)
    yield ""
    yield "Settings:"
    yield f"    CARRYOUT_SOURCE_DATABASE_URL=postgresql://{ROLE}:…@host/database"
    yield f"    CARRYOUT_DATASETS_DIR={directory.resolve()}"
    yield f"    CARRYOUT_USER_ID_TYPE={drafts.users.user_id_type}"
    yield ""
    yield "The service loads these datasets against this database: verified."


def report_findings(findings: Findings) -> Iterator[str]:
    for title, found in (
        ("Tables that point to the user, and nobody has decided about:", findings.undecided_tables),
        ("Columns that nobody has decided about:", findings.undecided_columns),
        ("Contradictions:", findings.contradictions),
        ("Decisions about what isn't there:", findings.stale),
    ):
        if found:
            yield title
            yield from (f"    {one}" for one in found)
    if findings.is_clean:
        yield "Everything that points to the user is decided."


def _row(draft: Draft, kept: dict[str, Path]) -> Sequence[str]:
    way = " > ".join("+".join(link.columns) for link in draft.path.links) if draft.path else "-"
    held = len(draft.columns(Verdict.DENY)) + len(draft.columns(Verdict.KEY))
    suffix = DOUBTED_SUFFIX if draft.doubt else SUFFIX
    file = f"{kept[draft.table.quoted].name} (kept)" if draft.table.quoted in kept else f"{draft.name}{suffix}"
    exported = 0 if draft.doubt else len(draft.columns(Verdict.EXPORT))
    undecided = len(draft.columns(Verdict.UNDECIDED))
    return draft.table.quoted, way, str(exported), str(held), "all" if draft.doubt else str(undecided), file


def _denied_rows(drafts: Drafts) -> Iterator[Sequence[str]]:
    for table in drafts.denied_tables:
        yield table, "-", "0", "all", "0", f"denied in profile{SUFFIX}"


def _totals(outcome: Outcome) -> Iterator[str]:
    datasets = outcome.drafts.datasets[1:]
    doubted = [draft for draft in datasets if draft.doubt]
    sure = [draft for draft in datasets if not draft.doubt]
    columns = sum(len(draft.columns(Verdict.UNDECIDED)) for draft in (outcome.drafts.profile, *sure))
    yield (
        f"{len(datasets) + len(outcome.drafts.denied_tables)} tables point to {outcome.drafts.users.table.quoted}: "
        f"{len(sure)} are exported, {len(doubted)} undecided, {len(outcome.drafts.denied_tables)} denied; "
        f"{columns} columns of those exported are undecided; {outcome.list_count} lists for operators."
    )
    for draft in doubted:
        yield f"    {draft.name}{DOUBTED_SUFFIX}: {draft.doubt}"
    if doubted:
        yield f"Rename such a file to {SUFFIX} when it is right, or write `-- deny table …: why` into any file."


def _role(drafts: Drafts) -> Iterator[str]:
    yield "A role that can read what the datasets read, and nothing else:"
    yield f"    CREATE ROLE {ROLE} LOGIN PASSWORD '…';"
    granted = _find_granted(drafts)
    for schema in sorted({draft.table.quoted_schema for draft in drafts.datasets if draft.table.quoted in granted}):
        yield f"    GRANT USAGE ON SCHEMA {schema} TO {ROLE};"
    for table, columns in sorted(granted.items()):
        yield f"    GRANT SELECT ({', '.join(sorted(columns))}) ON {table} TO {ROLE};"


def _find_granted(drafts: Drafts) -> dict[str, set[str]]:
    """What leaves, and what finds and orders the rows, by quoted table."""
    granted: dict[str, set[str]] = defaultdict(set)
    for draft in drafts.datasets:
        if draft.doubt:
            continue
        read = draft.columns(Verdict.EXPORT) + draft.columns(Verdict.KEY)
        granted[draft.table.quoted] |= {column.quoted for column in read}
        for link in draft.path.links if draft.path else ():
            granted[link.child] |= set(link.columns)
            granted[link.parent] |= set(link.parent_columns)
    granted[drafts.users.table.quoted] |= drafts.lists.columns
    return granted


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
