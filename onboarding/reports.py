"""What the commands print."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from onboarding.checking import Findings
from onboarding.decisions import Verdict
from onboarding.drafting import Drafts
from onboarding.drafts import Draft
from onboarding.grants import ROLE
from onboarding.initializing import DOUBTED_SUFFIX, SUFFIX, Outcome
from onboarding.user_lists import LIST_NAMES
from service.datasets import LISTS_FOLDER

HEADER = ("table", "linked by", "exported", "held back", "undecided", "file")


def report_outcome(outcome: Outcome, directory: Path) -> Iterator[str]:
    drafts = outcome.drafts
    yield from _table([HEADER, *(_row(draft, outcome.kept) for draft in drafts.datasets), *_denied_rows(drafts)])
    yield ""
    yield from _totals(outcome)
    yield ""
    yield from _role(outcome)
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
    if draft.table.quoted in kept:
        return draft.table.quoted, way, "-", "-", "-", f"{kept[draft.table.quoted].name} (kept)"
    held = len(draft.columns(Verdict.DENY)) + len(draft.columns(Verdict.KEY))
    file = f"{draft.name}{DOUBTED_SUFFIX if draft.doubt else SUFFIX}"
    exported = 0 if draft.doubt else len(draft.columns(Verdict.EXPORT))
    undecided = len(draft.columns(Verdict.UNDECIDED))
    return draft.table.quoted, way, str(exported), str(held), "all" if draft.doubt else str(undecided), file


def _denied_rows(drafts: Drafts) -> Iterator[Sequence[str]]:
    for table in drafts.denied_tables:
        yield table, "-", "0", "all", "0", f"denied in profile{SUFFIX}"


def _totals(outcome: Outcome) -> Iterator[str]:
    profile, *datasets = outcome.drafts.datasets
    doubted = [draft for draft in datasets if _is_doubted(draft, outcome.kept)]
    sure = [draft for draft in datasets if draft not in doubted]
    written = [draft for draft in (profile, *sure) if draft.table.quoted not in outcome.kept]
    columns = sum(len(draft.columns(Verdict.UNDECIDED)) for draft in written)
    yield (
        f"{len(datasets) + len(outcome.drafts.denied_tables)} tables point to {outcome.drafts.users.table.quoted}: "
        f"{len(sure)} are exported, {len(doubted)} undecided, {len(outcome.drafts.denied_tables)} denied; "
        f"{columns} columns of those exported are undecided; {outcome.list_count} lists for operators."
    )
    if outcome.kept:
        yield f"{len(outcome.kept)} files are kept as they are: `carryout check` names what is undecided in them."
    yield from _missing_lists(outcome)
    for draft in doubted:
        if draft.table.quoted not in outcome.kept:
            yield f"    {draft.name}{DOUBTED_SUFFIX}: {draft.doubt}"
    if doubted:
        yield f"Rename such a file to {SUFFIX} when it is right, or write `-- deny table …: why` into any file."


def _is_doubted(draft: Draft, kept: dict[str, Path]) -> bool:
    """Of a kept file, its name tells."""
    path = kept.get(draft.table.quoted)
    return path.name.endswith(DOUBTED_SUFFIX) if path else draft.doubt is not None


def _missing_lists(outcome: Outcome) -> Iterator[str]:
    lists, table = outcome.drafts.lists, outcome.drafts.users.table
    if lists.lacking and outcome.list_count == 0:
        files = " and ".join(f"{LISTS_FOLDER}/{name}{SUFFIX}" for name in LIST_NAMES)
        yield f"{files} are not written: {table.quoted} lacks {lists.lacking}. Operators need files of yours."


def _role(outcome: Outcome) -> Iterator[str]:
    if outcome.grants_fault:
        yield f"{outcome.grants_fault}, with `carryout check --grants`."
        return
    yield "A role that can read what the files read, and nothing else:"
    yield from (f"    {statement}" for statement in outcome.grants)
    yield "When you have decided about more, print it again: `carryout check --grants`."


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
