"""Untrusted text made safe for sentences, terminals, comments and SQL statements: printable, quoted, bounded.

Names in a database, servers' answers, file names and headers may contain line breaks, escape sequences and
bidirectional control characters. SQL, log lines and terminals interpret all of these.
"""

import re
from functools import lru_cache
from typing import Final

# Longer than any sentence of our own. A name in PostgreSQL has at most 63 bytes.
MAX_CHARACTERS: Final = 2_500
PLAIN_IDENTIFIER: Final = re.compile(r"[a-z_][a-z0-9_$]*")
# Python calls these printable, but fonts show nothing of them: joiners, fillers, selectors of variants, an empty cell.
INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
QUOTED: Final = re.compile(r'"(?:[^"]|"")+"')
LAST_OF_FOUR_DIGITS: Final = 0xFFFF
# PostgreSQL's keywords that need quotes as a name in some context, in any supported version.
KEYWORDS: Final = frozenset(
    """
    all analyse analyze and any array as asc asymmetric authorization between bigint binary bit boolean both case cast
    char character check coalesce collate collation column concurrently constraint create cross current_catalog
    current_date current_role current_schema current_time current_timestamp current_user dec decimal default deferrable
    desc distinct do else end except exists extract false fetch float for foreign freeze from full grant greatest group
    grouping having ilike in initially inner inout int integer intersect interval into is isnull join json json_array
    json_arrayagg json_exists json_object json_objectagg json_query json_scalar json_serialize json_table json_value
    lateral leading least left like limit localtime localtimestamp merge_action national natural nchar none normalize
    not notnull null nullif numeric offset on only or order out outer overlaps overlay placing position precision
    primary real references returning right row select session_user setof similar smallint some substring symmetric
    system_user table tablesample then time timestamp to trailing treat trim true union unique user using values
    varchar variadic verbose when where window with xmlattributes xmlconcat xmlelement xmlexists xmlforest
    xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable
    """.split()  # noqa: SIM905 (a list would be one word a line)
)


def is_printable(text: str) -> bool:
    """Whether each character can be seen, and commands no terminal."""
    return text.isprintable() and not INVISIBLE.search(text)


def printable(text: str, *, max_characters: int | None = MAX_CHARACTERS) -> str:
    """The text as one line: control and invisible characters are escaped, and a text that is too long is truncated.

    Printable text is returned unchanged.
    """
    line = text if max_characters is None else text[: max_characters + 1]
    if not is_printable(line):
        line = "".join(character if is_printable(character) else _escape(character) for character in line)
    if max_characters is None or len(line) <= max_characters:
        return line
    return f"{line[: max_characters - 1]}…"


def printable_json(document: str) -> str:
    """The same document with escapes. In JSON, unprintable characters occur only in strings or as white space."""
    return "".join(
        character if is_printable(character) or character in "\n\r\t" else _escape_in_json(character)
        for character in document
    )


@lru_cache(maxsize=65_536)
def quote_identifier(name: str) -> str:
    """The name as SQL statements and comments need it: printable, on one line, never truncated.

    Unprintable characters become escapes that PostgreSQL reads back (its manual, "Lexical Structure", `U&"…"`).
    """
    if PLAIN_IDENTIFIER.fullmatch(name) and name not in KEYWORDS:
        return name
    doubled = name.replace('"', '""')
    if is_printable(name):
        return f'"{doubled}"'
    escaped = "".join(
        character if is_printable(character) else _escape_in_sql(character)
        for character in doubled.replace("\\", r"\\")
    )
    return f'U&"{escaped}"'


def unquote_identifier(text: str) -> str:
    """The name behind an identifier that PostgreSQL printed. PostgreSQL never prints `U&"…"`."""
    return text[1:-1].replace('""', '"') if QUOTED.fullmatch(text) else text


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _escape_in_json(character: str) -> str:
    units = character.encode("utf-16-be", errors="surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))


def _escape_in_sql(character: str) -> str:
    number = ord(character)
    return f"\\{number:04x}" if number <= LAST_OF_FOUR_DIGITS else f"\\+{number:06x}"
