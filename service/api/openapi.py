"""The OpenAPI 3.1 document, generated from routes, the types of their requests and responses, and example errors.

Each route carries its `Operation`, defined beside its endpoint. `service.api.reference` has the parts in common.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import groupby
from typing import Any, Protocol

import msgspec
from starlette.exceptions import HTTPException

from service.api.http.problems import MEDIA_TYPE, find_problem, problem_headers, problem_members
from service.api.operations import Answer, Json, Operation, Refusal
from service.errors import ServiceError

SCHEMAS = "#/components/schemas/"
REQUEST_ID = "0f8d5d3c2b7a4e519c6a1b2c3d4e5f60"


class ProblemDetails(msgspec.Struct, frozen=True):
    """RFC 9457. `type` distinguishes problems with the same status; `about:blank` adds nothing to the status."""

    type: str
    title: str
    status: int
    detail: str
    status_code: int
    request_id: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The parts of the document that don't belong to one route. Schemas are JSON Schema."""

    info: Json
    tags: Mapping[str, str]
    security: Mapping[str, Json]
    parameters: Mapping[str, Json]
    headers: Mapping[str, Json]
    fields: Mapping[type[ServiceError], type[msgspec.Struct]]
    """The extension members of errors that have some."""


class DocumentedRoute(Protocol):
    @property
    def path(self) -> str: ...

    @property
    def methods(self) -> Collection[str] | None: ...

    @property
    def endpoint(self) -> Callable[..., Any]: ...

    @property
    def operation(self) -> Operation | None: ...


def create_document(routes: Iterable[DocumentedRoute], reference: Reference, *, public_url: str) -> Json:
    """The document of all routes that have an operation."""
    operations = dict(_operations(routes))
    documented = [operation for operation, _ in operations.values()]
    schemas = _schemas(reference, documented)
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
            "schemas": _without_defaults(_without_queries(schemas, documented), documented),
            "parameters": reference.parameters,
            "headers": reference.headers,
            "securitySchemes": reference.security,
        },
    }


def _operations(routes: Iterable[DocumentedRoute]) -> Iterator[tuple[tuple[str, str], tuple[Operation, str]]]:
    for route in routes:
        if operation := route.operation:
            (method,) = set(route.methods or ()) - {"HEAD"}
            yield (method, route.path), (operation, route.endpoint.__name__)
            if operation.head:
                yield ("HEAD", route.path), (operation.head, f"{route.endpoint.__name__}_head")


def _schemas(reference: Reference, operations: Sequence[Operation]) -> Json:
    """Components for all types, including queries, and for each kind of problem."""
    types: list[type] = [ProblemDetails]
    refusals: dict[str, Refusal] = {}
    for operation in operations:
        types += [type(answer.example) for answer in operation.answers.values() if answer.example]
        types += [type_ for type_ in (operation.query, operation.body and type(operation.body)) if type_]
        refusals |= {_problem_name(error): error for error in operation.refusals}
    types += reference.fields.values()
    _, components = msgspec.json.schema_components(types, ref_template=SCHEMAS + "{name}")
    parts: list[type] = [ProblemDetails, *reference.fields.values()]
    members = {type_: components.pop(type_.__name__) for type_ in parts}
    return components | {name: _problem_schema(error, reference, members) for name, error in refusals.items()}


def _without_queries(schemas: Json, operations: Iterable[Operation]) -> Json:
    queries = {operation.query.__name__ for operation in operations if operation.query}
    return {name: schema for name, schema in schemas.items() if name not in queries}


def _without_defaults(schemas: Json, operations: Iterable[Operation]) -> Json:
    """Generators of clients demand a member that has a default, because answers always have it; bodies needn't."""
    bodies = {type(operation.body).__name__ for operation in operations if operation.body}
    return schemas | {name: _with_optional_members(schemas[name]) for name in bodies}


def _with_optional_members(schema: Json) -> Json:
    members = schema["properties"].items()
    optional = {name: {key: value for key, value in one.items() if key != "default"} for name, one in members}
    return schema | {"properties": optional}


def _problem_name(error: Refusal) -> str:
    if isinstance(error, HTTPException):
        return HTTPStatus(error.status_code).phrase.replace(" ", "")
    return "InternalError" if type(error) is ServiceError else type(error).__name__.removesuffix("Error")


def _problem_schema(error: Refusal, reference: Reference, members: Mapping[type, Json]) -> Json:
    """One flat object: generators of clients drop an `allOf` with constants."""
    problem = find_problem(error)
    constants = {"type": problem.type, "title": problem.title, "status": problem.status, "status_code": problem.status}
    fields = reference.fields.get(type(error)) if isinstance(error, ServiceError) else None
    parts = [members[ProblemDetails], *([members[fields]] if fields else [])]
    return {
        "title": problem.title,
        "type": "object",
        "properties": {name: schema for part in parts for name, schema in part["properties"].items()}
        | {name: {"const": value} for name, value in constants.items()},
        "required": [name for part in parts for name in part["required"]],
    }


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
    """A property's schema without null: a query leaves a parameter out instead."""
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
    """The response for one status, which several kinds of problems may share; `as_page` if browsers get a page."""
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
