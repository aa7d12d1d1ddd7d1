"""The tree that PostgreSQL makes of a query before it plans it: every operator, cast and collation by its number, with
views resolved.

A plan is of no use where each comparison counts: before PostgreSQL 17 it doesn't show what `IN (SELECT …)` compares,
and it never says which operator an `=` is. Only a debugging setting gives the tree away: PostgreSQL logs it, to this
session too. Reference: PostgreSQL's manual, `debug_print_rewritten`; its src/include/nodes.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from service.backends.database import QUERIES, Connection, using_settings
from service.errors import ConfigurationError

Node: TypeAlias = dict[str, Any]

# As in PostgreSQL's pg_strtok: no other white space ends a token, and a name may have it.
TOKEN = re.compile(r"[(){}]|(?:\\.|[^ \n\t(){}\\])+", re.DOTALL)
NULL = "<>"
TYPE = "node"
QUERY = "({QUERY :commandType 1 "  # a SELECT's: the statement PREPARE has a tree of its own


class LoggedTree:
    """The text of the first query's tree that PostgreSQL logs."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def keep(self, _connection: Any, message: Any) -> None:
        if (message.detail or "").startswith(QUERY):
            self._texts.append(message.detail)

    @property
    def text(self) -> str:
        if not self._texts:
            raise ConfigurationError("PostgreSQL didn't send its query tree, which shows how ids are compared")
        return self._texts[0]


@asynccontextmanager
async def logged_tree(connection: Connection) -> AsyncIterator[LoggedTree]:
    """For a statement with the settings of `reveal_query_trees`; the tree is there at the end."""
    tree = LoggedTree()
    connection.add_log_listener(tree.keep)
    try:
        yield tree
        await asyncio.sleep(0)  # asyncpg calls listeners in the loop's next turn
    finally:
        connection.remove_log_listener(tree.keep)


async def read_query_tree(connection: Connection, sql: str) -> str:
    """The text of the query's tree, which `parse_query_tree` takes."""
    async with logged_tree(connection) as tree, using_settings(connection, QUERIES["reveal_query_trees"]):
        await connection.prepare(sql, name="")
    return tree.text


def parse_query_tree(text: str) -> Node:
    """The root, a QUERY. A node is a dict of its fields and its TYPE, a list a list, everything else a text."""
    root: Node = parse(text)[0]
    return root


def parse(text: str) -> Any:
    return _parse(TOKEN.findall(text)[::-1])


def _parse(tokens: list[str]) -> Any:
    """Two calls a level of the query's, so that Python's limit allows hundreds."""
    token = tokens.pop()
    if token == "{":  # noqa: S105
        return _parse_node(tokens)
    if token != "(":  # noqa: S105
        return None if token == NULL else token
    values = []
    while tokens[-1] != ")":
        values.append(_parse(tokens))
    tokens.pop()
    return values


def _parse_node(tokens: list[str]) -> Node:
    """A field has a value, which may look like a field's name: a view's owner chooses names that stand in the tree."""
    node = {TYPE: tokens.pop()}
    while tokens[-1] != "}":
        field = tokens.pop().removeprefix(":")
        node[field] = _parse(tokens)
        while tokens[-1] != "}" and not tokens[-1].startswith(":"):  # the bytes of a constant
            node[field] = f"{node[field]} {tokens.pop()}"
    tokens.pop()
    return node


def nodes_in(value: Any) -> Iterator[Node]:
    """The nodes directly within a node's fields, or a list."""
    if isinstance(value, dict):
        for part in value.values():
            yield from _nodes(part)
    elif isinstance(value, list):
        yield from _nodes(value)


def _nodes(value: Any) -> Iterator[Node]:
    if isinstance(value, dict):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _nodes(part)
