"""The part of their data that users ask for: fields of the body and the query, checked, as an ExportSpec."""

import datetime as dt
import re
import uuid
from collections.abc import Sequence
from typing import Annotated, Literal, NoReturn, Protocol

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.api.http.requests import parse_uuid
from service.bookkeeping.audit import Actor
from service.bookkeeping.exports import Export, ExportStatus
from service.documents.datasets import Column, Dataset
from service.documents.selection import instant_text, section_name
from service.errors import ExportNotFoundError, InvalidRequestError, InvalidValueError
from service.export_spec import ExportSpec
from service.exports import owner_checks
from service.formats import Format
from service.resources import Resources
from service.user_ids import UserId

INSTANT = re.compile(
    r"\d{4}-\d{2}-\d{2}(?:[Tt]\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?(?:[Zz]|[+-]\d{2}:\d{2}))?",
    re.ASCII,
)
FURTHEST_BEHIND_UTC = dt.timedelta(hours=12)
WANTED_INSTANT = (
    "must be a date as 2025-01-31, or a time with its zone as 2025-01-31T09:30:00Z, in the years 0001 to 9999"
)
EMPTY = '""'
WANTED_EXPORT = "since must be the job_id of a completed export of yours"

Sections = Annotated[
    list[str] | None, Meta(description="The sections to export; the profile is always included. Default: all.")
]
Start = Annotated[
    str | None,
    Meta(
        description="RFC 3339 date (in UTC) or date-time. Only rows from then on, in sections that have a time column."
    ),
]
End = Annotated[str | None, Meta(description="The same. Only rows before it.")]
Since = Annotated[
    str | None,
    Meta(
        description="An earlier completed export: only rows that may be newer than it. Not together with `from`.",
        extra_json_schema={"format": "uuid"},
    ),
]

Guard = Annotated[
    Literal["formulas", "none"],
    Meta(
        description="By default a text cell of a CSV that a spreadsheet would run gets a leading `'`. `none`, for "
        "machines, leaves it as it is."
    ),
]

BigNumbers = Annotated[
    Literal["number", "text"],
    Meta(description="`text` writes integers beyond ±2^53 as strings in JSON and NDJSON."),
]
BIG_FORMATS = (Format.JSON, Format.NDJSON)


class Variant(Protocol):
    """A query with the variants of formats."""

    @property
    def format(self) -> Format: ...

    @property
    def bom(self) -> str: ...

    @property
    def guard(self) -> str: ...

    @property
    def big(self) -> str: ...


def require_fitting(query: Variant) -> None:
    """Raise InvalidRequestError for a variant of another format than the one asked for."""
    if query.bom == "1" and query.format is not Format.CSV:
        raise InvalidRequestError("bom=1 is for format=csv only")
    if query.guard == "none" and query.format is not Format.CSV:
        raise InvalidRequestError("guard=none is for format=csv only")
    if query.big == "text" and query.format not in BIG_FORMATS:
        raise InvalidRequestError("big=text is for format=json and format=ndjson only")


class Filter(msgspec.Struct, frozen=True):
    """The part of the data that an export was asked for. A null selects all."""

    sections: Sections
    start: Annotated[str | None, Meta(description="The first moment selected.")] = msgspec.field(name="from")
    end: Annotated[str | None, Meta(description="The first moment left out.")] = msgspec.field(name="to")
    since: Annotated[uuid.UUID | None, Meta(description="The earlier export that `from` was derived from.")]


class Selection(msgspec.Struct, frozen=True):
    """A request's fields as they were given."""

    sections: Sequence[str] | None = None
    start: str | None = None
    end: str | None = None
    since: str | None = None


def view_filter(spec: ExportSpec) -> Filter | UnsetType:
    if not spec.is_filtered:
        return UNSET
    return Filter(list(spec.sections) or None, instant_text(spec.start), instant_text(spec.end), spec.since)


async def read_selection(  # noqa: PLR0913 (who asks, for whom, and for what)
    resources: Resources,
    actor: Actor,
    user_id: UserId,
    format_: Format,
    given: Selection,
    *,
    repeated: Export | None = None,
) -> ExportSpec:
    """Raises InvalidValueError for a section, a time or an export that can't be meant.

    An export that was new since an earlier one stays so if it is `repeated`, also when that one has expired.
    """
    datasets = resources.datasets
    sections = read_sections(datasets, given.sections)
    start, end = read_instant("from", given.start), read_instant("to", given.end)
    since = None
    if given.since is not None:
        if start is not None:
            raise InvalidValueError("since and from exclude each other: since says where the range begins")
        earlier = await _find_earlier(resources, actor, user_id, given.since)
        if earlier.expired and not (repeated and repeated.since_job_id == earlier.id):
            _refuse("expired or deleted")
        since = earlier.id
        start = _before(_begin_after(earlier), _list_times(datasets, sections))
    if start is not None and end is not None and start >= end:
        raise InvalidValueError(
            f"from must be before to, which is the first moment left out: from is {instant_text(start)}"
        )
    return ExportSpec(user_id, format_, sections, start, end, since)


def read_sections(datasets: Sequence[Dataset], given: Sequence[str] | None) -> tuple[str, ...]:
    """The names in the order of the document; empty for all."""
    if given is None:
        return ()
    known = [section_name(dataset) for dataset in datasets]
    if not given:
        raise InvalidValueError(f"sections must name at least one of {', '.join(known)}; leave it out for all")
    if unknown := [name for name in given if name not in known]:
        raise InvalidValueError(f"Unknown section {unknown[0] or EMPTY}: the sections are {', '.join(known)}")
    if repeated := [name for name in known if list(given).count(name) > 1]:
        raise InvalidValueError(f"sections names {repeated[0]} more than once")
    return tuple(name for name in known if name in given)


def read_instant(name: str, text: str | None) -> dt.datetime | None:
    """A date, or a time with its zone, in UTC. Raises InvalidValueError, which names the parameter."""
    if text is None:
        return None
    if not INSTANT.fullmatch(text) or text.startswith("0000"):
        raise InvalidValueError(f"{name} {WANTED_INSTANT}")
    try:
        instant = dt.datetime.fromisoformat(text.upper())
        return instant.astimezone(dt.UTC) if instant.tzinfo else instant.replace(tzinfo=dt.UTC)
    except ValueError:
        raise InvalidValueError(f"{name}: {text} is not a day and time of the calendar") from None
    except OverflowError:
        raise InvalidValueError(f"{name} {WANTED_INSTANT}, also in UTC") from None


async def _find_earlier(resources: Resources, actor: Actor, user_id: UserId, text: str) -> Export:
    job_id = parse_uuid(text)
    if job_id is None:
        raise InvalidValueError(f"{WANTED_EXPORT}, which is a UUID")
    try:
        earlier = await owner_checks.get_owned(resources, job_id, user_id, actor)
    except ExportNotFoundError:
        raise InvalidValueError(f"{WANTED_EXPORT}; there is none with this id") from None
    if earlier.status is not ExportStatus.COMPLETED:
        _refuse(earlier.status)
    return earlier


def _begin_after(earlier: Export) -> dt.datetime:
    """The time from which rows may be missing in the earlier export: that of its snapshot, or its own end."""
    if earlier.changes_from is None:
        _refuse("older than this feature")
    return min(earlier.changes_from, earlier.range_end or earlier.changes_from)


def _list_times(datasets: Sequence[Dataset], sections: Sequence[str]) -> list[Column]:
    times = [one.time for one in datasets if one.time and (not sections or section_name(one) in sections)]
    if not times:
        raise InvalidValueError("since needs a time, and none of these sections has a time column: leave it out")
    return times


def _before(start: dt.datetime, times: Sequence[Column]) -> dt.datetime:
    """`start` or, if one of `times` has no zone, the day on which it may be dated where clocks are furthest behind."""
    if all(time.type_name == "timestamptz" for time in times):
        return start
    return (start - FURTHEST_BEHIND_UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _refuse(state: str) -> NoReturn:
    raise InvalidValueError(f"{WANTED_EXPORT}; this one is {state}: give another one, or from")
