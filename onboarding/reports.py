"""The output of the commands as text."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from onboarding.checking import Findings
from onboarding.drafting import Drafts
from onboarding.drafts import Draft
from onboarding.grants import ROLE
from onboarding.initializing import DOUBTED_SUFFIX, SUFFIX, Outcome
from onboarding.user_lists import LIST_NAMES
from onboarding.verdicts import Verdict
from service.documents.datasets import DECISIONS_FILE, LISTS_FOLDER

LISTED = 20
HEADER = ("table", "linked by", "exported", "held back", "undecided", "file")


def report_outcome(outcome: Outcome, directory: Path) -> Iterator[str]:
    drafts = outcome.drafts
    yield from _table([HEADER, *(_row(draft, outcome.kept) for draft in drafts.datasets), *_denied_rows(drafts)])
    yield ""
    yield from report_totals(outcome)
    yield ""
    if outcome.grants_fault:
        yield f"{outcome.grants_fault}, with `carryout check --grants`."
    else:
        yield from _role(outcome.grants)
    yield ""
    yield from _settings(directory, drafts.users.user_id_type)
    yield ""
    yield "The service loads these datasets against this database: verified."


def report_next_steps(grants: Sequence[str], directory: Path, user_id_type: str) -> Iterator[str]:
    yield from _role(grants)
    yield ""
    yield from _settings(directory, user_id_type)


def report_findings(findings: Findings) -> Iterator[str]:
    for title, found in (
        ("Undecided tables that point to the user:", findings.undecided_tables),
        ("Undecided columns:", findings.undecided_columns),
        (
            "Undecided tables that nothing links to the user, the most suspicious first:",
            [f"{table}: {why}" for table, why in findings.unlinked_tables.items()],
        ),
        ("Contradictions:", findings.contradictions),
        ("Decisions about tables or columns that don't exist:", findings.stale),
    ):
        if found:
            yield title
            yield from (f"    {one}" for one in found)
    if findings.is_clean:
        yield "Each table and each column of the database is decided."


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
    for table in drafts.denied:
        yield table, "-", "0", "all", "0", f"denied in {DECISIONS_FILE}"


def report_summary(outcome: Outcome) -> Iterator[str]:
    profile, *datasets = outcome.drafts.datasets
    doubted = [draft for draft in datasets if _is_doubted(draft, outcome.kept)]
    sure = [draft for draft in datasets if draft not in doubted]
    written = [draft for draft in (profile, *sure) if draft.table.quoted not in outcome.kept]
    columns = sum(len(draft.columns(Verdict.UNDECIDED)) for draft in written)
    yield (
        f"{len(datasets) + len(outcome.drafts.denied)} tables point to {outcome.drafts.users.table.quoted}: "
        f"{len(sure)} are exported, {len(doubted)} undecided, {len(outcome.drafts.denied)} denied; "
        f"{columns} columns of those exported are undecided; {outcome.list_count} lists for operators."
    )
    if outcome.kept:
        yield f"{len(outcome.kept)} existing files are kept: `carryout check` lists what is undecided in them."
    yield (
        f"Mails go to {outcome.drafts.address.why}."
        if outcome.drafts.address.is_known
        else f"{outcome.drafts.address.why}."
    )
    if outcome.drafts.unread:
        yield f"Not looked at, for lack of a right or of time: {', '.join(outcome.drafts.unread)}."


def report_totals(outcome: Outcome) -> Iterator[str]:
    yield from report_summary(outcome)
    if not outcome.kept:
        yield f"Decisions left to you: {outcome.drafts.questions}."
    yield from _apart(outcome)
    yield from _missing_lists(outcome)
    yield from (f"{file} is not written: {why}" for file, why in outcome.refused.items())
    doubted = [draft for draft in outcome.drafts.datasets[1:] if _is_doubted(draft, outcome.kept)]
    for draft in doubted:
        if draft.table.quoted not in outcome.kept:
            yield f"    {draft.name}{DOUBTED_SUFFIX}: {draft.doubt}"
    if doubted:
        yield f"Rename such a file to {SUFFIX} when you have checked it, or write `-- deny table …: why` into any file."


def _is_doubted(draft: Draft, kept: dict[str, Path]) -> bool:
    """Whether a kept file is undecided shows in its name."""
    path = kept.get(draft.table.quoted)
    return path.name.endswith(DOUBTED_SUFFIX) if path else draft.doubt is not None


def _apart(outcome: Outcome) -> Iterator[str]:
    """The tables without a link to the user."""
    apart = [one for one in outcome.drafts.tables if one.verdict is not Verdict.DENY]
    asked = [one for one in apart if one.verdict is Verdict.UNDECIDED]
    if apart:
        yield (
            f"Tables without a link to it: {len(apart) - len(asked)} are not personal, {len(asked)} undecided "
            f"(in {DECISIONS_FILE}), the most suspicious first:"
            if asked
            else f"Tables without a link to it: {len(apart)} are not personal (in {DECISIONS_FILE})."
        )
    yield from (f"    {one.table.quoted}: {one.why}" for one in asked[:LISTED])
    if len(asked) > LISTED:
        yield f"    and {len(asked) - LISTED} more"


def _missing_lists(outcome: Outcome) -> Iterator[str]:
    lists, table = outcome.drafts.lists, outcome.drafts.users.table
    if lists.lacking and outcome.list_count == 0:
        files = " and ".join(f"{LISTS_FOLDER}/{name}{SUFFIX}" for name in LIST_NAMES)
        yield f"{files} are not written: {table.quoted} lacks {lists.lacking}. Write them yourself if needed."


def _role(grants: Sequence[str]) -> Iterator[str]:
    yield "A role that can read only the columns that the files read:"
    yield from (f"    {statement}" for statement in grants)
    yield "After you decide about more columns, print it again: `carryout check --grants`."


def _settings(directory: Path, user_id_type: str) -> Iterator[str]:
    yield "Settings:"
    yield f"    CARRYOUT_SOURCE_DATABASE_URL=postgresql://{ROLE}:…@host/database"
    yield f"    CARRYOUT_DATASETS_DIR={directory.resolve()}"
    yield f"    CARRYOUT_USER_ID_TYPE={user_id_type}"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
