"""The operators' lists of all users: two where the users' table has the columns, and one for ids of any type."""

from collections.abc import Sequence

import msgspec

from onboarding.addresses import Address
from onboarding.catalog import Column, Table
from onboarding.users_table import Users, find_email
from onboarding.words import NAMES, snake
from service.documents.datasets import INTEGERS, KEY_TYPES, TIMES
from service.documents.forbidden_columns import is_forbidden

LIST_NAMES = ("export", "export_full")
# The names that applications use for each further column of the full list.
FURTHER = {
    "created_at": ("created_at", "created_on", "date_joined", "joined_at", "inserted_at", "created", "creation_time"),
    "updated_at": ("updated_at", "updated_on", "modified_at", "last_modified", "updated", "modified"),
    "is_active": ("is_active", "active", "enabled", "is_enabled"),
    "is_admin": ("is_admin", "admin", "is_superuser", "superuser", "administrator"),
}


class UserLists(msgspec.Struct, frozen=True):
    """The files by name, which read `columns`; or the column that the table lacks."""

    files: dict[str, str] = {}
    columns: frozenset[str] = frozenset()
    lacking: str = ""


def draft_lists(users: Users) -> UserLists:
    table = users.table
    number, email, names = _find_number(users), find_email(table), _find_names(table)
    if number is None:
        return UserLists(lacking="an integer id")
    if email is None:
        return UserLists(lacking="an e-mail address")
    if not names:
        return UserLists(lacking="a name (or full_name, username, login, first_name with last_name…)")
    name = names[0].quoted if len(names) == 1 else f"concat_ws(' ', {', '.join(part.quoted for part in names)})"
    basic = [_item(number.quoted, "id"), _item(email.quoted, "email"), _item(name, "name")]
    further = {wanted: column for wanted, called in FURTHER.items() if (column := _find(table, called))}
    full = basic + [_item(column.quoted, wanted) for wanted, column in further.items()]
    read = {column.quoted for column in (number, email, *names, *further.values())}
    files = {name: _render(table, number, email, items) for name, items in zip(LIST_NAMES, (basic, full), strict=True)}
    return UserLists(files, frozenset(read))


def draft_users_list(users: Users, *, forbidden: Sequence[str]) -> str:
    """The list of the users by their id, with the columns of the lists above; empty if it couldn't be resumed."""
    table, id_ = users.table, users.id_column
    if not id_.not_null or id_.type_name not in KEY_TYPES:
        return ""
    email = find_email(table)
    further = {wanted: column for wanted, called in FURTHER.items() if (column := _find(table, called))}
    chosen = [id_, *([email] if email else []), *_find_names(table), *further.values()]
    columns = [one.quoted for one in dict.fromkeys(chosen) if not is_forbidden(one.name, forbidden)]
    where = ""
    facts = ["title: Users"]
    if (updated := further.get("updated_at")) and updated.type_name in TIMES and updated.quoted in columns:
        facts.append(f"time: {updated.quoted}")
    if email:
        facts.append("param: email text")
        where = f"WHERE $1::text IS NULL OR {email.quoted} = $1\n"
    lines = "\n".join(f"-- {fact}" for fact in facts)
    listed = ",\n    ".join(columns)
    return f"""\
{lines}
SELECT
    {listed}
FROM {table.quoted}
{where}ORDER BY {id_.quoted}
"""  # noqa: S608 (names quoted by PostgreSQL, for a file that people read before it runs)


def draft_user_search(users: Users, address: Address) -> str:
    """The search for the users whose mails go to an address; empty if none is known."""
    if not address.is_known:
        return ""
    return f"""\
-- The desk names a user by the address that mails go to; $1 is the address.
SELECT {_item(users.id_column.quoted, "id")}
FROM {users.table.quoted}
WHERE {f"{address.match} AND " if address.match else ""}{address.sql} = $1::text
"""  # noqa: S608 (names quoted by PostgreSQL, for a file that people read before it runs)


def _item(expression: str, wanted: str) -> str:
    return expression if expression == wanted else f"{expression} AS {wanted}"


def _find_number(users: Users) -> Column | None:
    """The integer column that identifies a user, if the table has one."""
    keys = [users.table.get_column(key[0]) for key in users.table.unique_keys if len(key) == 1]
    return next((column for column in (users.id_column, *keys) if column.type_name in INTEGERS), None)


def _find_names(table: Table) -> list[Column]:
    """The column of the name, or those of the first and the last name."""
    first, last = _find(table, ("first_name", "given_name")), _find(table, ("last_name", "family_name", "surname"))
    if first and last:
        return [first, last]
    whole = _find(table, NAMES)
    return [whole] if whole else []


def _find(table: Table, names: tuple[str, ...]) -> Column | None:
    by_name = {snake(column.name): column for column in table.columns}
    return next((by_name[name] for name in names if name in by_name), None)


def _render(table: Table, number: Column, email: Column, items: list[str]) -> str:
    columns = ",\n    ".join(items)
    return f"""\
-- $1 is an e-mail address, or null for all. $2 is the id of the last row the caller already has, or null.
SELECT
    {columns}
FROM {table.quoted}
WHERE ($1::text IS NULL OR {email.quoted} = $1) AND ($2::bigint IS NULL OR {number.quoted} > $2)
ORDER BY {number.quoted}
"""  # noqa: S608 (names quoted by PostgreSQL, for a file that people read before it runs)
