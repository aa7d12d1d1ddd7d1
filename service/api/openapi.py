"""The OpenAPI 3.1 document, made from routes, the types of their requests and answers, and errors as they are raised.

`service.api.reference` says what belongs to which route.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import groupby
from typing import Any, TypeAlias

import msgspec
from starlette.exceptions import HTTPException
from starlette.routing import Route

from service.api.errors import MEDIA_TYPE, find_problem, problem_headers, problem_members
from service.errors import ServiceError

Json: TypeAlias = dict[str, Any]
Refusal: TypeAlias = ServiceError | HTTPException

SCHEMAS = "#/components/schemas/"
REQUEST_ID = "0f8d5d3c2b7a4e519c6a1b2c3d4e5f60"


class ProblemDetails(msgspec.Struct, frozen=True):
    """RFC 9457. `type` tells problems of one status apart; `about:blank` means no more than the status."""

    type: str
    title: str
    status: int
    detail: str
    status_code: int
    request_id: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a status means. Each of `content` is a media type's schema and example; a Struct instance is JSON."""

    description: str
    example: msgspec.Struct | None = None
    content: Mapping[str, Json] = field(default_factory=dict)
    headers: Sequence[str] = ()
    """Names of `Reference.headers`."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Operations that take this answer's `job_id`, with what they do."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What a route does for one method. `refusals` are examples of the errors it answers with."""

    tag: str
    summary: str
    description: str = ""
    security: Sequence[str] = ()
    """Names of `Reference.security`; each alone suffices."""
    query: type[msgspec.Struct] | None = None
    headers: Sequence[str] = ()
    """Names of `Reference.parameters`."""
    body: msgspec.Struct | None = None
    answers: Mapping[int, Answer]
    refusals: Sequence[Refusal] = ()
    head: "Operation | None" = None
    """Where HEAD isn't just GET without its body."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """All that the document says beyond its routes; schemas are JSON Schema."""

    info: Json
    tags: Mapping[str, str]
    security: Mapping[str, Json]
    parameters: Mapping[str, Json]
    headers: Mapping[str, Json]
    fields: Mapping[type[ServiceError], type[msgspec.Struct]]
    """The further members of errors that have any."""
    operations: Mapping[Any, Operation]
    """By endpoint."""


def create_document(routes: Iterable[Route], reference: Reference, *, public_url: str) -> Json:
    """The document of all routes that are in the schema and in the reference."""
    operations = dict(_operations(routes, reference))
    schemas = _schemas(reference, [operation for operation, _ in operations.values()])
    paths: Json = {}
    for (method, path), (operation, operation_id) in operations.items():
        paths.setdefault(path, {})[method.lower()] = _operation(operation, operation_id, (method, path), schemas)
    return {
        "openapi": "3.1.0",
        "info": reference.info,
        "servers": [{"url": public_url}],
        "tags": [{"name": name, "description": text} for name, text in reference.tags.items()],
        "paths": paths,
        "components": {
            "schemas": _without_queries(schemas, reference),
            "parameters": reference.parameters,
            "headers": reference.headers,
            "securitySchemes": reference.security,
        },
    }


def _operations(
    routes: Iterable[Route], reference: Reference
) -> Iterable[tuple[tuple[str, str], tuple[Operation, str]]]:
    for route in routes:
        if route.include_in_schema and (operation := reference.operations.get(route.endpoint)):
            (method,) = set(route.methods or ()) - {"HEAD"}
            yield (method, route.path), (operation, route.endpoint.__name__)
            if operation.head:
                yield ("HEAD", route.path), (operation.head, f"{route.endpoint.__name__}_head")


def _schemas(reference: Reference, operations: Sequence[Operation]) -> Json:
    """Components of all types, queries among them, and one of each kind of problem."""
    types: list[type] = [ProblemDetails]
    problems: Json = {}
    for operation in operations:
        types += [type(answer.example) for answer in operation.answers.values() if answer.example]
        types += [type_ for type_ in (operation.query, operation.body and type(operation.body)) if type_]
        problems |= {_problem_name(error): _problem_schema(error, reference) for error in operation.refusals}
    types += reference.fields.values()
    _, components = msgspec.json.schema_components(types, ref_template=SCHEMAS + "{name}")
    return components | problems


def _without_queries(schemas: Json, reference: Reference) -> Json:
    queries = {operation.query.__name__ for operation in reference.operations.values() if operation.query}
    return {name: schema for name, schema in schemas.items() if name not in queries}


def _problem_name(error: Refusal) -> str:
    if isinstance(error, HTTPException):
        return HTTPStatus(error.status_code).phrase.replace(" ", "")
    return "InternalError" if type(error) is ServiceError else type(error).__name__.removesuffix("Error")


def _problem_schema(error: Refusal, reference: Reference) -> Json:
    problem = find_problem(error)
    constants = {"type": problem.type, "title": problem.title, "status": problem.status, "status_code": problem.status}
    parts: list[Json] = [
        {"$ref": SCHEMAS + ProblemDetails.__name__},
        {"properties": {name: {"const": value} for name, value in constants.items()}},
    ]
    if isinstance(error, ServiceError) and (fields := reference.fields.get(type(error))):
        parts.append({"$ref": SCHEMAS + fields.__name__})
    return {"title": problem.title, "allOf": parts}


def _operation(operation: Operation, operation_id: str, place: tuple[str, str], schemas: Json) -> Json:
    method, path = place
    parameters = [{"$ref": f"#/components/parameters/{name}"} for name in (*_path_names(path), *operation.headers)]
    if operation.query:
        parameters += _query_parameters(operation.query, schemas)
    described: Json = {
        "operationId": operation_id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": parameters,
        "security": [{name: []} for name in operation.security],
        "responses": _answers(operation) | _refusals(operation, as_page=method in {"GET", "HEAD"}),
    }
    if operation.description:
        described["description"] = operation.description
    if operation.body:
        described["requestBody"] = {"required": True, "content": _json_content(operation.body)}
    return described


def _path_names(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def _query_parameters(query: type[msgspec.Struct], schemas: Json) -> list[Json]:
    schema = schemas[query.__name__]
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema["required"],
            "description": property_.get("description", ""),
            "schema": _given(property_),
        }
        for name, property_ in schema["properties"].items()
    ]


def _given(schema: Json) -> Json:
    """A property's schema where it is given: a query can't say null, it leaves the parameter out."""
    rest = {name: value for name, value in schema.items() if name not in {"description", "anyOf"}}
    if rest.get("default", ...) is None:
        del rest["default"]
    present = [option for option in schema.get("anyOf", []) if option != {"type": "null"}]
    return rest | {name: value for option in present for name, value in option.items()}


def _answers(operation: Operation) -> Json:
    return {
        str(status): {
            "description": answer.description,
            "headers": _headers(["X-Request-ID", *answer.headers]),
            **({"content": content} if (content := _content(answer)) else {}),
            **({"links": _links(answer.links)} if answer.links else {}),
        }
        for status, answer in operation.answers.items()
    }


def _content(answer: Answer) -> Json:
    return {**(_json_content(answer.example) if answer.example else {}), **answer.content}


def _json_content(example: msgspec.Struct) -> Json:
    schema = {"$ref": SCHEMAS + type(example).__name__}
    return {"application/json": {"schema": schema, "example": msgspec.to_builtins(example)}}


def _links(links: Mapping[str, str]) -> Json:
    return {
        operation_id: {
            "operationId": operation_id,
            "parameters": {"job_id": "$response.body#/job_id"},
            "description": description,
        }
        for operation_id, description in links.items()
    }


def _headers(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _refusals(operation: Operation, *, as_page: bool) -> Json:
    by_status = groupby(
        sorted(operation.refusals, key=lambda error: find_problem(error).status),
        key=lambda error: find_problem(error).status,
    )
    return {str(status): _refusal(list(errors), as_page=as_page) for status, errors in by_status}


def _refusal(errors: Sequence[Refusal], *, as_page: bool) -> Json:
    """The answer of one status, which several kinds of problems may share; `as_page` if browsers get a page."""
    kinds = {_problem_name(error): find_problem(error).title for error in errors}
    refs = [{"$ref": SCHEMAS + name} for name in kinds]
    content = {
        "schema": refs[0] if len(refs) == 1 else {"oneOf": refs},
        "examples": {_slug(error.detail): {"value": _problem_example(error)} for error in errors},
    }
    headers = {name for error in errors for name in problem_headers(error)}
    return {
        "description": ", or ".join(kinds.values()),
        "headers": _headers(["X-Request-ID", *sorted(headers)]),
        "content": {MEDIA_TYPE: content} | ({"text/html": {"schema": {"type": "string"}}} if as_page else {}),
    }


def _slug(text: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in text.lower()).strip("-")


def _problem_example(error: Refusal) -> object:
    fields = error.fields if isinstance(error, ServiceError) else {}
    return msgspec.to_builtins(problem_members(find_problem(error), error.detail, REQUEST_ID, fields))
