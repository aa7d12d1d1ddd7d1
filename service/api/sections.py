"""The sections, formats and limits that users can ask for, and the schema of the documents."""

from contextlib import suppress
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from languages.choice import Wishes
from service.api.callers import require_access, require_user, resources_of
from service.api.examples import TOKEN_REFUSED, UNKNOWN_PARAMETER
from service.api.http.problems import UNEXPECTED
from service.api.http.requests import accepted_language, query_params
from service.api.http.responses import json_response
from service.api.operations import Answer, Operation
from service.api.routing import ExactRoute
from service.documents.datasets import PROFILE, Dataset
from service.documents.selection import section_name, title_of
from service.documents.snapshots import naming_failures, open_snapshot
from service.documents.subjects import find_locale
from service.errors import ServiceError
from service.formats import Format
from service.resources import Resources
from service.user_ids import UserId

MEDIA_TYPE = "application/schema+json"


class SectionColumn(msgspec.Struct, frozen=True):
    name: str
    type: Annotated[str, Meta(description="PostgreSQL's name of the type.")]
    description: str


class Section(msgspec.Struct, frozen=True):
    """A part of the document. `time` is the column that `from`, `to` and `since` select by; without, it is whole."""

    name: str
    title: str
    description: str
    columns: list[SectionColumn]
    time: str | None
    required: Annotated[bool, Meta(description="Whether it is in every document.")]


class OfferedFormat(msgspec.Struct, frozen=True):
    name: Format
    description: str
    media_type: str


class Limits(msgspec.Struct, frozen=True):
    max_records: int
    queued_from_records: Annotated[int, Meta(description="From so many records on, a worker makes the file.")]
    exports_per_hour: int
    streams_per_hour: int


class Offer(msgspec.Struct, frozen=True):
    sections: list[Section]
    formats: list[OfferedFormat]
    limits: Limits
    language: Annotated[str, Meta(description="The language of mails, packages and the page for this user.")]
    schema_sha256: Annotated[str, Meta(description="SHA-256 of the schema at `/api/export/schema`, in hexadecimal.")]


async def show_sections(request: Request) -> Response:
    access = await require_access(request)
    query_params(request, set())
    resources = resources_of(request)
    settings = resources.settings
    limits = Limits(
        settings.max_export_records,
        settings.small_export_records,
        settings.exports_per_hour,
        settings.streams_per_hour,
    )
    formats = [OfferedFormat(format_, format_.hint, format_.media_type) for format_ in Format]
    sections = [_section(dataset) for dataset in resources.datasets]
    language = Wishes(access.language, accepted_language(request)).choose(
        await _find_locale(resources, access.user_id), settings.language
    )
    return json_response(Offer(sections, formats, limits, language, resources.schema.digest.hex()))


async def show_schema(request: Request) -> Response:
    await require_user(request)
    query_params(request, set())
    return Response(resources_of(request).schema.body, media_type=MEDIA_TYPE)


async def _find_locale(resources: Resources, user_id: UserId) -> str | None:
    """The locale of the user's profile, if it has one. During an outage, none is found."""
    profile = resources.datasets[0]
    if all(column.name != "locale" for column in profile.columns):
        return None
    with suppress(ServiceError), naming_failures():
        async with open_snapshot(resources.source, resources.settings.acquire_timeout_seconds) as connection:
            return await find_locale(connection, profile, user_id)
    return None


def _section(dataset: Dataset) -> Section:
    name = section_name(dataset)
    return Section(
        name,
        title_of(dataset),
        dataset.facts.about,
        [
            SectionColumn(column.name, column.type_name, dataset.facts.columns.get(column.name, ""))
            for column in dataset.columns
        ],
        dataset.time.name if dataset.time else None,
        dataset.name == PROFILE,
    )


EXAMPLE = Offer(
    [
        Section("user", "Profile", "", [SectionColumn("id", "uuid", "")], None, required=True),
        Section("orders", "Orders", "", [SectionColumn("placed_at", "timestamptz", "")], "placed_at", required=False),
    ],
    [OfferedFormat(format_, format_.hint, format_.media_type) for format_ in Format],
    Limits(100_000, 1_000, 10, 60),
    "en",
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
)
SHOW_SECTIONS = Operation(
    tag="Exports",
    summary="Show what can be exported",
    description="Sections with their columns, formats and limits: values for the fields of an export's request.",
    security=["userToken"],
    answers={200: Answer(description="The sections, the formats and the limits.", example=EXAMPLE)},
    refusals=(UNKNOWN_PARAMETER, *TOKEN_REFUSED, UNEXPECTED),
)
SHOW_SCHEMA = Operation(
    tag="Exports",
    summary="Show the schema of JSON documents",
    description="JSON Schema 2020-12. Each export shows the SHA-256 of the schema that its document has.",
    security=["userToken"],
    answers={200: Answer(description="The schema.", content={MEDIA_TYPE: {"schema": {"type": "object"}}})},
    refusals=(UNKNOWN_PARAMETER, *TOKEN_REFUSED, UNEXPECTED),
)

ROUTES = (
    ExactRoute("/api/export/sections", show_sections, SHOW_SECTIONS),
    ExactRoute("/api/export/schema", show_schema, SHOW_SCHEMA),
)
