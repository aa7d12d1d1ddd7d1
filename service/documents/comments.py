"""Facts about a dataset that the schema can't hold, from the comments of its file.

-- title: Orders                      its name for people
-- about: Your orders, with prices     a description
-- about total: With taxes, in cents  the same of a column
-- time: placed_at                    the column that `from` and `to` filter by
-- purpose: To deliver them           the information of the GDPR's art. 15(1): purpose, kept (for how long),
-- kept: Ten years, by law            recipients, and source
-- file: storage_key from uploads as file_name  each row's file: the column with its key in a store that
                                   CARRYOUT_FILE_STORES names, and one with its name; may be repeated
-- link: post_id to posts.id       a column with the key of a row of another section, and its section and column there
-- param: email text               a list's parameter and its type, $1 for the first such line; null if it isn't given
-- deny total_cost: a business secret  a column, or `table schema.name`, that is left out, and the reason
"""

import re
from collections.abc import Iterator, Sequence

import msgspec

from guard.text import unquote_identifier
from service.errors import ConfigurationError

COMMENT_OR_QUOTED = re.compile(
    r"""--[^\n]*|/\*.*?\*/|(?P<quoted>\be'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|(\$\w*\$).*?\2)""",
    re.DOTALL | re.IGNORECASE,
)
IDENTIFIER = r'(?:[^\s:"]|"(?:[^"]|"")+")+'
FACT = re.compile(
    r"--[ \t]+(?P<head>title|about|time|purpose|kept|recipients|source|file|link|param|deny)"
    rf"(?:[ \t]+(?P<column>(?:table[ \t]+)?{IDENTIFIER}))?:[ \t]*(?P<text>.*\S)\s*"
)
FILE = re.compile(
    rf"(?P<key>{IDENTIFIER})[ \t]+from[ \t]+(?P<store>{IDENTIFIER})(?:[ \t]+as[ \t]+(?P<name>{IDENTIFIER}))?",
    re.IGNORECASE,
)
LINK = re.compile(rf"(?P<column>{IDENTIFIER})[ \t]+to[ \t]+(?P<section>[a-z][a-z0-9_]*)\.(?P<key>{IDENTIFIER})")

PARAMETER = re.compile(r"(?P<name>[a-z][a-z0-9_]*)[ \t]+(?P<type>[a-z]+)")
PARAMETER_TYPES = ("text", "uuid", "bigint", "numeric", "boolean", "date", "timestamptz")
RESERVED_PARAMETERS = {"format", "after", "updated_since", "bom", "guard", "big"}


class FileFact(msgspec.Struct, frozen=True):
    """The column that holds the keys of files in `store`, and the column with their names, if there is one."""

    key: str
    store: str
    name: str | None = None


class LinkFact(msgspec.Struct, frozen=True):
    """The column that holds keys of rows in `section`, whose column `key` they are."""

    column: str
    section: str
    key: str


class ParameterFact(msgspec.Struct, frozen=True):
    """A parameter of a list: its name in the query string, and its type in SQL."""

    name: str
    type: str


class Facts(msgspec.Struct):
    title: str = ""
    about: str = ""
    time: str | None = None
    purpose: str = ""
    kept: str = ""
    recipients: str = ""
    source: str = ""
    files: list[FileFact] = msgspec.field(default_factory=list)
    links: list[LinkFact] = msgspec.field(default_factory=list)
    parameters: list[ParameterFact] = msgspec.field(default_factory=list)
    columns: dict[str, str] = msgspec.field(default_factory=dict)
    """Descriptions by column name."""
    left_out: dict[str, str] = msgspec.field(default_factory=dict)
    """Reasons by what is denied."""


def without_semicolon(sql: str) -> str:
    """Without the semicolon that ends the statement; comments may stand behind it."""
    end = len(sql)
    for token in reversed([*COMMENT_OR_QUOTED.finditer(sql)]):
        if token["quoted"] or sql[token.end() : end].strip():
            break
        end = token.start()
    statement = sql[:end].rstrip()
    return statement.removesuffix(";") + sql[len(statement) :]


def read_facts(sql: str) -> Facts:
    """Raises ConfigurationError for a fact that is given twice, and for a file, link or parameter that isn't
    understood.
    """
    facts = Facts()
    for head, column, text in _lines(sql):
        if head == "about" and column:
            _set_once(facts.columns, column, text, f"about {column}")
        elif head == "file":
            facts.files.append(_read_file(column, text, facts.files))
        elif head == "link":
            facts.links.append(_read_link(column, text, facts.links))
        elif head == "param":
            facts.parameters.append(_read_parameter(column, text, facts.parameters))
        elif head == "deny":
            facts.left_out[column or ""] = text  # `carryout check` reads these lines, and refuses wrong ones
        elif getattr(facts, head):
            raise ConfigurationError(f"it has two lines `-- {head}:`")
        else:
            setattr(facts, head, text)
    return facts


def _lines(sql: str) -> Iterator[tuple[str, str | None, str]]:
    for token in COMMENT_OR_QUOTED.finditer(sql):
        if found := FACT.fullmatch(token[0]):
            yield found["head"], found["column"], found["text"]


def _read_file(column: str | None, text: str, earlier: Sequence[FileFact]) -> FileFact:
    found = FILE.fullmatch(text)
    if column or not found:
        raise ConfigurationError("its line `-- file:` must read as `-- file: key_column from store as name_column`")
    key, store = unquote_identifier(found["key"]), unquote_identifier(found["store"])
    name = unquote_identifier(found["name"]) if found["name"] else None
    if any(key == one.key for one in earlier):
        raise ConfigurationError(f"it has two lines `-- file: {key} from …`")
    return FileFact(key, store, name)


def _read_link(column: str | None, text: str, earlier: Sequence[LinkFact]) -> LinkFact:
    found = LINK.fullmatch(text)
    if column or not found:
        raise ConfigurationError("its line `-- link:` must read as `-- link: column to section.column`")
    name = unquote_identifier(found["column"])
    if any(name == one.column for one in earlier):
        raise ConfigurationError(f"it has two lines `-- link: {name} to …`")
    return LinkFact(name, found["section"], unquote_identifier(found["key"]))


def _read_parameter(column: str | None, text: str, earlier: Sequence[ParameterFact]) -> ParameterFact:
    found = PARAMETER.fullmatch(text)
    if column or not found or found["type"] not in PARAMETER_TYPES:
        types = ", ".join(PARAMETER_TYPES)
        raise ConfigurationError(f"its line `-- param:` must read as `-- param: name type`, with a type of {types}")
    if found["name"] in RESERVED_PARAMETERS:
        raise ConfigurationError(f"its line `-- param: {text}` takes a name that all lists use: choose another")
    if any(found["name"] == one.name for one in earlier):
        raise ConfigurationError(f"it has two lines `-- param: {found['name']} …`")
    return ParameterFact(found["name"], found["type"])


def _set_once(columns: dict[str, str], column: str, text: str, head: str) -> None:
    if column in columns:
        raise ConfigurationError(f"it has two lines `-- {head}:`")
    columns[column] = text
