"""Holds real answers to the API's document."""

import re
from collections.abc import Iterator
from typing import Any, TypeAlias

import httpx
import jsonschema_rs

from service.api.app import ROUTES

Json: TypeAlias = dict[str, Any]
Seen: TypeAlias = tuple[str, str, str, str]
"""Method, path, status, and what tells answers of one status apart: the media type, or a problem's detail."""

PROBLEM = "application/problem+json"


class Witness:
    """To be called with every answer; `seen` are the documented ones that there were."""

    def __init__(self, document: Json) -> None:
        self.document = document
        self.seen: set[Seen] = set()

    async def __call__(self, response: httpx.Response) -> None:
        """An event hook of httpx. Fails for an answer that isn't documented, or isn't as documented."""
        await response.aread()
        method = response.request.method
        path = _template(response)
        answer = self.document["paths"][path][method.lower()]["responses"].get(str(response.status_code))
        assert answer, f"{method} {path}: {response.status_code} is undocumented: {response.text}"
        self._check_headers(response, answer)
        kind = "" if method == "HEAD" else self._check_body(response, answer)
        self.seen.add((method, path, str(response.status_code), kind))

    def _check_headers(self, response: httpx.Response, answer: Json) -> None:
        headers = self.document["components"]["headers"]
        given = {name for name in headers if name in response.headers}
        assert given <= answer["headers"].keys(), f"undocumented: {given - answer['headers'].keys()}"
        assert {name for name in answer["headers"] if headers[name]["required"]} <= given
        for name in given:
            text = response.headers[name]
            self.validate(headers[name]["schema"], int(text) if text.isdecimal() else text)

    def _check_body(self, response: httpx.Response, answer: Json) -> str:
        if "content" not in answer:
            assert not response.content
            return ""
        media_type: str = response.headers["content-type"].partition(";")[0]
        schema = answer["content"][media_type].get("schema", {})
        is_document = response.status_code != 206 and media_type.endswith(("/json", "+json"))
        body: Any = response.json() if is_document else response.text
        self.validate(schema, body)
        return normalized(body["detail"]) if media_type == PROBLEM else media_type

    def validate(self, schema: Json, instance: Any) -> None:
        """A reference to a component has no members beyond those that the component names."""
        closed = {} if "type" in schema else {"unevaluatedProperties": False}
        whole = {**schema, **closed, "components": self.document["components"]}
        validator = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
        assert [error.message for error in validator.iter_errors(instance)] == []


def documented(document: Json) -> Iterator[Seen]:
    """All that a document says may be seen."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                kinds = {""} if method == "head" else _kinds(answer)
                yield from ((method.upper(), path, status, kind) for kind in kinds)


def normalized(detail: str) -> str:
    """Without its numbers."""
    return re.sub(r"\d+", "N", detail)


def _kinds(answer: Json) -> set[str]:
    """The detail of a problem. Error pages of browsers aren't told apart."""
    content: Json = answer.get("content", {"": {}})
    if PROBLEM not in content:
        return set(content)
    return {normalized(example["value"]["detail"]) for example in content[PROBLEM]["examples"].values()}


def _template(response: httpx.Response) -> str:
    """The route's path; that of an operators' list is its own."""
    path = response.request.url.path
    matching = (route.path for route in ROUTES if route.path_regex.match(path) and _answers(route.methods, response))
    return next(matching, path)


def _answers(methods: set[str] | None, response: httpx.Response) -> bool:
    return response.request.method in (methods or ())
