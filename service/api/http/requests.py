"""Strict parsing of requests."""

import re
import uuid
from collections.abc import Set as AbstractSet
from typing import TypeVar
from urllib.parse import parse_qsl
from urllib.request import parse_http_list

import msgspec
from starlette.requests import Request

from languages.choice import find_accepted
from service.errors import ExportNotFoundError, InvalidRequestError, InvalidValueError, UnsupportedMediaTypeError
from service.strict_json import DuplicateNameError, parse_strictly

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

INCOMPLETE_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
NOT_JSON = "The body is not valid JSON"
ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # after an even number of backslashes
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
MAX_QUOTED = 64


async def read_json(request: Request, type_: type[T], *, wanted: str) -> T:
    """The body as `type_`, a Struct that forbids unknown fields; `wanted` describes a valid body in errors.

    Raises UnsupportedMediaTypeError, InvalidRequestError for invalid JSON, and InvalidValueError, naming the field,
    for JSON that isn't a `type_`.
    """
    _require_json(request)
    body = await request.body()
    if not body:
        raise InvalidRequestError("The body is empty: send a JSON object")
    _check_syntax(body)
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.ValidationError as error:
        raise InvalidValueError(f"{error}: {wanted}") from None
    except msgspec.DecodeError:
        raise InvalidRequestError(NOT_JSON) from None


def query_params(request: Request, allowed: AbstractSet[str]) -> dict[str, str]:
    """The query parameters. Raises InvalidRequestError if one is unknown or repeated."""
    params: dict[str, str] = {}
    for name, value in _parse_query(request.scope["query_string"]):
        _require_known(name, allowed)
        if name in params:
            raise InvalidRequestError(f"Query parameter given more than once: {name}")
        params[name] = value
    return params


def read_query(request: Request, type_: type[S]) -> S:
    """The query parameters as `type_`; its fields are the known parameters. Raises InvalidRequestError."""
    given = query_params(request, set(type_.__struct_fields__))
    try:
        return msgspec.convert(given, type_, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(str(error)) from None


def repeated_param(request: Request, allowed: str) -> list[str]:
    """The values of the only known query parameter, which may be repeated. Raises InvalidRequestError."""
    pairs = _parse_query(request.scope["query_string"])
    for name, _ in pairs:
        _require_known(name, {allowed})
    return [value for _, value in pairs]


def job_id_of(request: Request) -> uuid.UUID:
    """The export's id. Raises ExportNotFoundError if it isn't a UUID, as for an unknown id."""
    job_id = parse_uuid(request.path_params["job_id"])
    if job_id is None:
        raise ExportNotFoundError
    return job_id


def parse_uuid(text: str) -> uuid.UUID | None:
    """None if it isn't a UUID with its hyphens; `uuid.UUID` also takes braces, and digits of other scripts."""
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return None
    return parsed if str(parsed) == text.lower() else None


def bearer_token(request: Request) -> str:
    """The token of `Authorization: Bearer …` (RFC 6750); empty if there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def prefers(request: Request, wanted: str) -> bool:
    """Whether the client has the preference (RFC 7240). Unknown preferences are ignored, as the RFC demands."""
    preferences = [preference for line in request.headers.getlist("prefer") for preference in parse_http_list(line)]
    return any(preference.partition(";")[0].strip().lower() == wanted for preference in preferences)


def idempotency_key(request: Request) -> str | None:
    """The Idempotency-Key, if any. Raises InvalidRequestError."""
    key = request.headers.get("idempotency-key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidRequestError("Idempotency-Key must be 1 to 255 visible ASCII characters")
    return key


def weights(request: Request, header: str) -> dict[str, float]:
    """The items of an Accept header, in lower case, with their weights (RFC 9110, 12.4.2): 0 to 1.

    An invalid weight counts as 0.
    """
    items = ",".join(request.headers.getlist(header)).lower().split(",")
    return dict(_weighed(item) for item in items)


def accepted_language(request: Request) -> str | None:
    """The language of its Accept-Language header that has a catalogue, if any."""
    return find_accepted(weights(request, "Accept-Language"))


def client_ip(request: Request) -> str | None:
    """The client's address as ProxyMiddleware determined it; None if unknown."""
    return request.client.host if request.client else None


def _weighed(item: str) -> tuple[str, float]:
    name, *parameters = (part.strip() for part in item.split(";"))
    given = dict(parameter.partition("=")[::2] for parameter in parameters)
    try:
        weight = float(given.get("q", "1"))
    except ValueError:
        return name, 0.0
    return name, weight if 0 <= weight <= 1 else 0.0


def _require_json(request: Request) -> None:
    media_type = request.headers.get("Content-Type", "").partition(";")[0]
    if media_type.strip().lower() != "application/json":
        raise UnsupportedMediaTypeError("The body must be declared as Content-Type: application/json")


def _check_syntax(body: bytes) -> None:
    """Refuse two things that msgspec accepts: duplicate keys, and NUL characters, which PostgreSQL can't store.

    Syntax is checked before values, because msgspec stops at the first error of either kind.
    """
    try:
        parse_strictly(body)
    except DuplicateNameError as error:
        name = (
            error.name[:MAX_QUOTED].encode(errors="replace").decode()
        )  # JSON can encode lone surrogates, which UTF-8 can't
        raise InvalidRequestError(f"The body has a duplicate key: {name}") from None
    except (ValueError, RecursionError):
        raise InvalidRequestError(NOT_JSON) from None
    if ESCAPED_NUL.search(body):
        raise InvalidValueError("The body contains a NUL character")


def _require_known(name: str, allowed: AbstractSet[str]) -> None:
    if name not in allowed:
        raise InvalidRequestError(f"Unknown query parameter: {name[:MAX_QUOTED]}")


def _parse_query(raw: bytes) -> list[tuple[str, str]]:
    try:
        query = raw.decode("ascii")
        if INCOMPLETE_ESCAPE.search(query):
            raise InvalidRequestError("The query string has an incomplete percent escape")
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict")
    except ValueError:
        raise InvalidRequestError("The query string is not UTF-8") from None
    if any("\0" in text for pair in pairs for text in pair):
        raise InvalidRequestError("The query string contains a NUL character")
    return pairs
