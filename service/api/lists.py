"""The operators' lists of their own files, each with its path, its scope and its feature flag."""

import datetime as dt
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from service.access.api_keys import list_permission
from service.api import selections
from service.api.examples import UNKNOWN_PARAMETER
from service.api.http.requests import parse_uuid, query_params
from service.api.listings import Listing, list_refusals, require_unguarded
from service.api.operations import Answer, Json, Operation
from service.api.operators import require_operator
from service.api.routing import ExactRoute
from service.bookkeeping.audit import AuditAction
from service.documents.comments import ParameterFact
from service.documents.datasets import Dataset
from service.documents.encoding import EncoderOptions
from service.documents.lists import read_key, select_rows
from service.documents.schema import create_list_schema
from service.errors import InvalidRequestError, InvalidValueError
from service.formats import STREAMED_FORMATS, Format
from service.user_ids import BIGINT, parse_bigint

Endpoint = Callable[[Request], Awaitable[Response]]

PATH = "/api/v1/lists/{}"
UNSUPPORTED_FORMAT = f"format must be one of {', '.join(STREAMED_FORMATS)}"
KEY_MEMBER = "x-carryout-key"
NUMERIC = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?", re.ASCII)
DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
BOOLEANS = {"true": True, "false": False}


class Kind(NamedTuple):
    """A type of parameters: how a value is read, None for a wrong one, its words, and the documented type."""

    read: Callable[[str], object | None]
    words: str
    type: Any


def _read_numeric(text: str) -> Decimal | None:
    return Decimal(text) if NUMERIC.fullmatch(text) else None


def _read_date(text: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(text) if DAY.fullmatch(text) else None
    except ValueError:
        return None


def _read_time(text: str) -> dt.datetime | None:
    try:
        return selections.read_instant("", text)
    except InvalidValueError:
        return None


KINDS: Mapping[str, Kind] = {
    "text": Kind(str, "a text", str),
    "uuid": Kind(parse_uuid, "a UUID", uuid.UUID),
    "bigint": Kind(parse_bigint, "an integer", Annotated[int, Meta(ge=BIGINT.start, le=BIGINT.stop - 1)]),
    "numeric": Kind(_read_numeric, "a decimal number", float),
    "boolean": Kind(BOOLEANS.get, "true or false", bool),
    "date": Kind(_read_date, "a date as 2025-01-31", dt.date),
    "timestamptz": Kind(_read_time, "a date, or a time with its zone as 2025-01-31T09:30:00Z", str),
}


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of all lists. Those that a list declares, and `updated_since`, are added by `_query_type`."""

    format: Annotated[Literal["csv", "json", "ndjson", "xlsx"], Meta(description="The format; case is ignored.")] = (
        "csv"
    )
    after: Annotated[
        str | None, Meta(description="Only rows behind this key, to continue an interrupted download.")
    ] = None
    bom: Annotated[Literal["0", "1"], Meta(description="`1` puts a byte order mark before a CSV.")] = "0"
    guard: selections.Guard = "formulas"
    big: selections.BigNumbers = "number"


class Variant(msgspec.Struct, frozen=True):
    format: Format = Format.CSV
    bom: Literal["0", "1"] = "0"
    guard: Literal["formulas", "none"] = "formulas"
    big: Literal["number", "text"] = "number"


def list_routes(lists: Mapping[str, Dataset], *, public_url: str) -> tuple[ExactRoute, ...]:
    """A route for each list."""
    return tuple(
        ExactRoute(PATH.format(name), _endpoint(dataset, public_url), _operation(dataset))
        for name, dataset in lists.items()
    )


def _endpoint(dataset: Dataset, public_url: str) -> Endpoint:
    pointer = PATH.format(dataset.name).replace("/", "~1")  # RFC 6901
    description = f"{public_url}/openapi.json#/paths/{pointer}/get"

    async def export(request: Request) -> Response:
        return await _export(request, dataset, links={"Link": f'<{description}>; rel="describedby"'})

    export.__name__ = f"export_list_{dataset.name}"
    return export


async def _export(request: Request, dataset: Dataset, links: Mapping[str, str]) -> Response:
    permission = list_permission(dataset.name)
    key, actor = await require_operator(request, flag=permission, scope=permission)
    given = query_params(request, _known_parameters(dataset))
    variant = _read_variant(given)
    if variant.guard == "none":
        await require_unguarded(request, key, actor)
    guarded = variant.format is Format.CSV and variant.guard == "formulas"
    after = read_key(given["after"], dataset.key, guarded=guarded) if "after" in given else ()
    updated_since = selections.read_instant("updated_since", given.get("updated_since"))
    parameters = [_read_parameter(parameter, given) for parameter in dataset.facts.parameters]
    return Listing(
        key=key,
        actor=actor,
        flag=permission,
        query=select_rows(dataset, parameters, after=after, updated_since=updated_since),
        after=after,
        format=variant.format,
        options=EncoderOptions(
            bom=variant.bom == "1",
            unguarded=variant.guard == "none",
            big_as_text=variant.big == "text",
            filter=_filter(given, dataset),
        ),
        filename=f"{dataset.name}.{variant.format}",
        headers=links,
        started=AuditAction.LIST_EXPORT_STARTED,
        ended=AuditAction.LIST_EXPORTED,
        subject=list_permission(dataset.name).replace(":", "/"),
        extent=_extent(given, dataset),
    ).response(request)


def _known_parameters(dataset: Dataset) -> set[str]:
    declared = {parameter.name for parameter in dataset.facts.parameters}
    return {*ListQuery.__struct_fields__, *declared, *(["updated_since"] if dataset.time else [])}


def _read_variant(given: Mapping[str, str]) -> Variant:
    format_ = given.get("format", "csv").lower()
    if format_ not in STREAMED_FORMATS:
        raise InvalidRequestError(UNSUPPORTED_FORMAT)
    try:
        named = {name: given[name] for name in ("bom", "guard", "big") if name in given}
        variant = msgspec.convert({**named, "format": format_}, Variant)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(str(error)) from None
    selections.require_fitting(variant)
    return variant


def _read_parameter(parameter: ParameterFact, given: Mapping[str, str]) -> object:
    """The value, None if it isn't given. Raises InvalidValueError."""
    if parameter.name not in given:
        return None
    kind = KINDS[parameter.type]
    value = kind.read(given[parameter.name])
    if value is None:
        raise InvalidValueError(f"{parameter.name} must be {kind.words}")
    return value


def _selecting(given: Mapping[str, str], dataset: Dataset) -> list[str]:
    declared = [parameter.name for parameter in dataset.facts.parameters]
    return [name for name in (*declared, "updated_since", "after") if name in given]


def _filter(given: Mapping[str, str], dataset: Dataset) -> Mapping[str, object] | None:
    """The member `filter` of the document; None if all rows are wanted."""
    return {name: given[name] for name in _selecting(given, dataset)} or None


def _extent(given: Mapping[str, str], dataset: Dataset) -> str:
    """The names of the list's filters for the audit trail, which stores none of their values."""
    names = _selecting(given, dataset)
    return f"rows by {', '.join(names)}" if names else "all rows"


def _operation(dataset: Dataset) -> Operation:
    permission = list_permission(dataset.name)
    title = dataset.facts.title or dataset.name.replace("_", " ").capitalize()
    about = f"{dataset.facts.about.rstrip('.')}. " if dataset.facts.about else ""
    names = ", ".join(f"`{column.name}`" for column in dataset.key)
    wrong = _wrong_value(dataset)
    return Operation(
        tag="Lists",
        summary=f"List: {title}",
        description=f"{about}Ordered by {names}. The key needs the scope `{permission}`, and `users:unguarded` for "
        "`guard=none`. To continue a download that was cut, give the key of its last complete row as `after`.",
        security=["apiKey", "apiKeyAsBearer"],
        query=_query_type(dataset),
        headers=["Accept-Encoding"],
        answers={
            200: Answer(
                description="The list.",
                content=_contents(dataset),
                headers=["Content-Disposition", "Content-Encoding", "Link"],
            )
        },
        refusals=(
            InvalidRequestError(UNSUPPORTED_FORMAT),
            UNKNOWN_PARAMETER,
            *([InvalidValueError(wrong)] if wrong else []),
            *list_refusals(permission),
        ),
    )


def _wrong_value(dataset: Dataset) -> str | None:
    """An example of a refused value; None if the list takes any."""
    if dataset.time:
        return f"updated_since {selections.WANTED_INSTANT}"
    strict = [parameter for parameter in dataset.facts.parameters if parameter.type != "text"]
    return f"{strict[0].name} must be {KINDS[strict[0].type].words}" if strict else None


def _contents(dataset: Dataset) -> dict[str, Json]:
    header = ",".join(column.name for column in dataset.columns)
    end = '{"section":"end","records":0}\n'
    contents: Mapping[Format, Json] = {
        Format.CSV: {"schema": {"type": "string"}, "example": f"{header}\r\n"},
        Format.JSON: {"schema": create_list_schema(dataset)},
        Format.NDJSON: {"schema": {"type": "string"}, "example": end},
        Format.XLSX: {"schema": {"type": "string", "format": "binary"}},
    }
    return {format_.media_type.partition(";")[0]: content for format_, content in contents.items()}


def _query_type(dataset: Dataset) -> type[msgspec.Struct]:
    fields: list[tuple[str, Any, Any]] = [("after", _after_type(dataset), None)]
    if dataset.time:
        about = f"RFC 3339 date (in UTC) or date-time. Leaves out rows whose `{dataset.time.name}` is before it."
        fields.append(("updated_since", Annotated[str | None, Meta(description=about)], None))
    for parameter in dataset.facts.parameters:
        about = dataset.facts.columns.get(parameter.name, f"Selects rows. Must be {KINDS[parameter.type].words}.")
        type_ = KINDS[parameter.type].type
        fields.append((parameter.name, Annotated[type_ | None, Meta(description=about)], None))
    return msgspec.defstruct(f"ListQuery_{dataset.name}", fields, bases=(ListQuery,), frozen=True, kw_only=True)


def _after_type(dataset: Dataset) -> Any:
    names = [column.name for column in dataset.key]
    plain = " A single key may also be given as it is." if len(names) == 1 else ""
    about = (
        f"To continue an interrupted download: the key of its last complete row, as base64url without padding of the "
        f"JSON array of {', '.join(names)}, each the text that stands in the row.{plain}"
    )
    return Annotated[str | None, Meta(description=about, extra_json_schema={KEY_MEMBER: names})]
