"""The document: valid, complete, the same each time, and served so that it needn't be fetched twice."""

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from service.api.app import ROUTES
from service.api.docs import fix_document
from service.api.lists import list_routes
from service.api.openapi import create_document
from service.api.reference import REFERENCE
from service.documents.comments import Facts, ParameterFact
from service.documents.datasets import Column, Dataset
from tests.api.witness import Json, Witness
from tests.conftest import PUBLIC_URL

PRINT_ETAG = f"""
from service.api.app import ROUTES
from service.api.docs import fix_document
from service.api.openapi import create_document
from service.api.reference import REFERENCE
print(fix_document(create_document(ROUTES, REFERENCE, public_url={PUBLIC_URL!r})).etag)
"""


ID = Column("id", "uuid", "U", "pg_catalog.uuid")
LISTS = {
    "orders": Dataset(
        "orders",
        "",
        columns=(ID, Column("at", "timestamptz", "D", "pg_catalog.timestamptz")),
        tables=(),
        time=Column("at", "timestamptz", "D", "pg_catalog.timestamptz"),
        facts=Facts(title="Orders", parameters=[ParameterFact("number", "bigint"), ParameterFact("email", "text")]),
        key=(ID,),
    )
}
ALL_ROUTES = (*ROUTES, *list_routes(LISTS, public_url=PUBLIC_URL))


@pytest.fixture(scope="module")
def document() -> Json:
    created: Json = json.loads(fix_document(create_document(ALL_ROUTES, REFERENCE, public_url=PUBLIC_URL)).body)
    return created


def test_names_the_key_and_the_parameters_of_each_list(document: Json) -> None:
    (list_,) = [path for path in document["paths"] if path.startswith("/api/v1/lists/")]
    assert list_ == "/api/v1/lists/orders"
    parameters = {one["name"]: one for one in document["paths"][list_]["get"]["parameters"] if "name" in one}
    assert set(parameters) == {"format", "bom", "guard", "big", "after", "updated_since", "number", "email"}
    assert parameters["after"]["schema"]["x-carryout-key"] == ["id"]
    assert parameters["number"]["schema"]["type"] == "integer"
    assert not any(one["required"] for one in parameters.values())


def test_is_openapi_3_1(document: Json) -> None:
    assert document["openapi"] == "3.1.0"
    OPENAPI_31_VALIDATOR.validate(document)
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)


def test_has_every_route_and_no_other(document: Json) -> None:
    routes = {
        (route.path, method.lower())
        for route in ALL_ROUTES
        if route.include_in_schema
        for method in (route.methods or set()) - {"HEAD"}
    }
    operations = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert {(path, method) for path, method in operations if method != "head"} == routes
    assert {route.path for route in ROUTES if not route.operation} == {
        "/",
        "/embedded",
        "/assets/{name}",
        "/docs/{name}",
    }


def test_operations_have_names_of_their_own(document: Json) -> None:
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    names = {operation["operationId"] for operation in operations}
    assert len(names) == len(operations)
    assert {operation["tags"][0] for operation in operations} == {tag["name"] for tag in document["tags"]}


def test_all_references_lead_somewhere(document: Json) -> None:
    text = json.dumps(document)
    for kind, entries in document["components"].items():
        for name in entries:
            used = f'"#/components/{kind}/{name}"' in text or f'"{name}": []' in text
            assert used, f"{kind}/{name} is never used"
    for reference in _find(document, "$ref"):
        _, components, kind, name = reference.split("/")
        assert name in document[components][kind], reference
    operation_ids = set(_find(document["paths"], "operationId"))
    assert operation_ids == {
        operation["operationId"] for methods in document["paths"].values() for operation in methods.values()
    }


def test_problems_are_objects_that_generators_of_clients_understand(document: Json) -> None:
    """openapi-python-client drops what merges a constant into a type by `allOf`."""
    schemas = document["components"]["schemas"]
    problems = [schema for schema in schemas.values() if "const" in schema.get("properties", {}).get("status", {})]
    assert len(problems) > 15
    for schema in problems:
        assert {"type", "title", "status", "detail", "request_id"} <= set(schema["required"])
    assert list(_find(schemas, "allOf")) == []


def test_no_member_of_a_body_has_a_default(document: Json) -> None:
    """openapi-typescript takes one that has for a member that can't be left out."""
    body = document["components"]["schemas"]["CreateExport"]
    assert body["required"] == ["format"]
    assert list(_find(body, "default")) == []


def test_examples_are_what_their_schemas_say(document: Json) -> None:
    witness = Witness(document)
    contents = list(_contents(document))
    examples = [(content.get("schema", {}), content["example"]) for content in contents if "example" in content]
    for content in contents:
        examples += [(content["schema"], example["value"]) for example in content.get("examples", {}).values()]
    headers = document["components"]["headers"].values()
    parameters = document["components"]["parameters"].values()
    examples += [(part["schema"], part["example"]) for part in (*headers, *parameters) if "example" in part]
    assert len(examples) > 50
    for schema, example in examples:
        witness.validate(schema, example)


async def test_is_the_same_in_every_process() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PRINT_ETAG, stdout=asyncio.subprocess.PIPE, env={"PYTHONHASHSEED": "1"}
    )
    output, _ = await process.communicate()
    document = create_document(ROUTES, REFERENCE, public_url=PUBLIC_URL)
    assert output.decode().strip() == fix_document(document).etag


async def test_is_served_until_it_changes(idle_api: httpx.AsyncClient, document: Json) -> None:
    response = await idle_api.get("/openapi.json")
    served = response.json()
    own = {path for path in served["paths"] if path.startswith("/api/v1/lists/")}
    assert own == {"/api/v1/lists/activity", "/api/v1/lists/users"}
    assert {path: served["paths"][path] for path in served["paths"].keys() - own} == {
        path: described for path, described in document["paths"].items() if path != "/api/v1/lists/orders"
    }
    assert response.headers["content-type"] == "application/json"
    assert document["servers"] == [{"url": PUBLIC_URL}]
    etag = response.headers["etag"]
    for tags in (etag, f"W/{etag}", f'"other", {etag}'):
        again = await idle_api.get("/openapi.json", headers={"If-None-Match": tags})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert (await idle_api.get("/openapi.json", headers={"If-None-Match": '"other"'})).status_code == 200


def _contents(document: Json) -> Iterator[Json]:
    for methods in document["paths"].values():
        for operation in methods.values():
            for part in (operation.get("requestBody", {}), *operation["responses"].values()):
                yield from part.get("content", {}).values()


def _find(value: Any, name: str) -> list[Any]:
    """The values of that name, however deep."""
    if isinstance(value, list):
        return [found for item in value for found in _find(item, name)]
    if not isinstance(value, dict):
        return []
    return [item for key, item in value.items() if key == name] + _find(list(value.values()), name)
