"""Users by the thousand, keys and flags for the tests of the operators' half."""

from service.access.api_keys import KeyRepository, Scope
from service.access.flags import FlagRepository
from tests.support.factories import CANARY, Connection

_INSERT_USERS = """
INSERT INTO public.users (email, name, password_hash)
SELECT 'user-' || n || '@example.com', 'User "' || n || '", ' || repeat('x', n % 50 + $3::int), $2
FROM generate_series(1, $1::int) AS n
"""


async def create_users(connection: Connection, count: int, *, name_bytes: int = 0) -> None:
    """`name_bytes` is how much longer names are than a few dozen."""
    await connection.execute(_INSERT_USERS, count, CANARY, name_bytes)


async def create_key(connection: Connection, *scopes: str, name: str = "nightly") -> str:
    """The text of a new key, with every scope unless some are given."""
    _, text = await KeyRepository().create(connection, name=name, scopes=scopes or tuple(Scope), expires_in_days=None)
    return text


async def switch(connection: Connection, flag: str, *, enabled: bool) -> None:
    await FlagRepository().set(connection, flag, enabled=enabled)
