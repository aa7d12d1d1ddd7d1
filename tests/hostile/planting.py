"""Traps: functions, operators, casts and types that another role may make where unqualified names are looked up.

Which names are used is found by a program, in the SQL files and wherever the code renders SQL. PostgreSQL prefers an
exact match to one of its own that needs a conversion, so each name is planted for other types than its own, too.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import asyncpg

from service.settings import SQL_DIR
from tests.support.factories import Connection

TRAP = "planted trap"
ROOT = SQL_DIR.parent
# The driver has queries of its own.
DRIVER = Path(asyncpg.__file__).parent
WORD = re.compile(r"[a-z_][a-z0-9_]+")
OPERATOR = re.compile(r"[-+*/<>=~!@#%^&|]{1,3}")
BEHIND_KEYWORDS = {"=", "<>", "<", "<=", ">", ">=", "~~", "~~*"}  # IN, BETWEEN, CASE, IS DISTINCT FROM, LIKE …
GIVE_TRUTH = {"=", "<>", "<", "<=", ">", ">=", "~", "!~", "~~", "~~*", "@>", "<@"}
SHADOWED = ("text", "uuid", "int8", "int4", "bool", "name", "oid", "bytea", "timestamptz", "float8", "interval", "inet")
TYPES = (
    *SHADOWED, "varchar", "bpchar", "char", "int2", "numeric", "timestamp", "json", "jsonb", "regclass",
    "regnamespace", "_text", "_oid", "_int2", "record",
)  # fmt: skip
SIMILAR = {
    "text": ("varchar", "name", "bpchar"),
    "name": ("text", "varchar"),
    "int8": ("int4", "int2", "oid"),
    "int4": ("int8", "int2"),
    "oid": ("int4", "int8", "regclass"),
    "regclass": ("oid", "text"),
    "float8": ("int4", "numeric"),
    "interval": ("text",),
    "bytea": ("text",),
}
POLYMORPHIC = re.compile(r"any\w*")
MAX_VARIANTS = 200

_SIGNATURES = """
SELECT p.proname::text AS name, p.proretset AS many, p.prorettype::regtype::text AS gives,
       ARRAY(SELECT t.typname::text FROM unnest(p.proargtypes) WITH ORDINALITY AS a (oid, n)
             JOIN pg_type t ON t.oid = a.oid ORDER BY n) AS takes
FROM pg_proc p
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY ($1::text[])
"""
_OWN_TYPES = """
SELECT format('%I.%I', n.nspname, t.typname) FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE (n.nspname, t.typname) IN (('carryout', 'user_id'), ('public', 'mood'))
"""


def read_sources() -> str:
    """All text that SQL is made of."""
    folders = [ROOT / name for name in ("sql", "service", "worker", "onboarding")]
    paths = [path for folder in folders for path in folder.rglob("*") if path.suffix in {".sql", ".py"}]
    return "\n".join(path.read_text(encoding="utf-8") for path in [*paths, *DRIVER.glob("*.py")])


async def find_functions(connection: Connection, text: str) -> set[str]:
    """The names of PostgreSQL's functions that are words in `text`."""
    query = "SELECT DISTINCT proname::text FROM pg_catalog.pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace"
    return {name for (name,) in await connection.fetch(query)} & set(WORD.findall(text.lower()))


async def find_operators(connection: Connection, text: str) -> set[str]:
    """The names of PostgreSQL's operators that stand in `text`, or behind its keywords."""
    known = {name for (name,) in await connection.fetch("SELECT DISTINCT oprname::text FROM pg_catalog.pg_operator")}
    return known & (BEHIND_KEYWORDS | set(OPERATOR.findall(text)))


async def plant(connection: Connection) -> set[str]:
    """The names of all traps, which are in the schema public, and raise an error that the server's log shows too."""
    sources = read_sources()
    functions, operators = await find_functions(connection, sources), await find_operators(connection, sources)
    own = [name for (name,) in await connection.fetch(_OWN_TYPES)]
    types = [_qualified(name) for name in TYPES] + own
    signatures = await connection.fetch(_SIGNATURES, sorted(functions))
    statements = [
        *_functions(signatures, types),
        *_operators(operators, [name for name in types if name != _qualified("record")]),
        *(_domain(name) for name in SHADOWED),
        *(_cast(name, to) for name in own if name == "public.mood" for to in ("text", "varchar", "json", "jsonb")),
    ]
    for some in _batched(statements):
        await connection.execute(";\n".join(some))
    return functions | operators


def _qualified(name: str) -> str:
    return f'pg_catalog."{name}"'


def _batched(statements: Sequence[str]) -> Iterator[Sequence[str]]:
    return (statements[start : start + 500] for start in range(0, len(statements), 500))


def _trap(name: str, takes: Sequence[str], gives: str) -> str:
    return (
        f'CREATE FUNCTION public."{name}"({", ".join(takes)}) RETURNS {gives} LANGUAGE plpgsql IMMUTABLE '
        f"AS $$ BEGIN RAISE EXCEPTION '{TRAP}: {name}({', '.join(takes)})'; END $$"
    )


def _functions(signatures: Sequence[asyncpg.Record], types: Sequence[str]) -> Iterator[str]:
    made = set()
    for signature in signatures:
        gives = signature["gives"]
        if POLYMORPHIC.fullmatch(gives) or gives in {"internal", "cstring", '"any"', "trigger", "event_trigger"}:
            gives = "pg_catalog.text"
        for takes in _variants(signature["takes"], types):
            if (signature["name"], takes) not in made:
                made.add((signature["name"], takes))
                yield _trap(signature["name"], takes, f"SETOF {gives}" if signature["many"] else gives)


def _variants(takes: Sequence[str], types: Sequence[str]) -> Iterator[tuple[str, ...]]:
    if {"internal", "cstring"} & set(takes):
        return
    choices = [
        types if POLYMORPHIC.fullmatch(name) else [_qualified(each) for each in (name, *SIMILAR.get(name, ()))]
        for name in takes
    ]
    yield from itertools.islice(itertools.product(*choices), MAX_VARIANTS)
    if takes and takes[-1] == "any":  # VARIADIC
        for number in (2, 3, 4):
            more = itertools.product(*choices[:-1], *[types[:6]] * number)
            yield from itertools.islice(more, MAX_VARIANTS)


def _operators(operators: set[str], types: Sequence[str]) -> Iterator[str]:
    for left, right in itertools.product(types, types):
        yield _trap("planted_truth", (left, right), "pg_catalog.bool")
        yield _trap("planted_value", (left, right), left)
    for name, left, right in itertools.product(sorted(operators), types, types):
        function = "planted_truth" if name in GIVE_TRUTH else "planted_value"
        yield f"CREATE OPERATOR public.{name} (FUNCTION = public.{function}, LEFTARG = {left}, RIGHTARG = {right})"


def _domain(name: str) -> str:
    check = f"public.planted_truth(VALUE::pg_catalog.{name}, VALUE::pg_catalog.{name})"
    return f"CREATE DOMAIN public.{name} AS pg_catalog.{name} CHECK ({check})"


def _cast(name: str, to: str) -> str:
    trap = _trap(f"planted_{to}", (name,), f"pg_catalog.{to}")
    return f"{trap};\nCREATE CAST ({name} AS pg_catalog.{to}) WITH FUNCTION public.planted_{to}({name}) AS IMPLICIT"
