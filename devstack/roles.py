"""The roles of Carryout's own schema, as an administrator creates them."""

from typing import Final
from urllib.parse import urlsplit

from service.backends.database import connect
from service.settings import SQL_DIR

OWNER: Final = "carryout_owner"
SERVICE: Final = "carryout_service"

_FORMAT_CHANGE = "SELECT pg_catalog.format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text)"
_IS_ITS_OWN = "SELECT nspowner = current_user::regrole FROM pg_catalog.pg_namespace WHERE nspname = 'carryout'"


async def make_roles(admin_url: str, role_urls: tuple[str, ...]) -> None:
    """Create the roles with the passwords of `role_urls`, and the schema of the migrating role.

    A schema that the administrator owns, as in earlier releases, is handed over to the migrating role.
    """
    async with connect(admin_url) as connection:
        await connection.execute((SQL_DIR / "roles.sql").read_text(encoding="utf-8"))
        for url in map(urlsplit, role_urls):
            await connection.execute(await connection.fetchval(_FORMAT_CHANGE, url.username, url.password))
        if await connection.fetchval(_IS_ITS_OWN):
            await connection.execute((SQL_DIR / "hand_over.sql").read_text(encoding="utf-8"))


def with_role(url: str, role: str, password: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{role}:{password}@{parts.hostname}:{parts.port}").geturl()
