"""Each secret rotated under load, by the numbered steps of docs/rotation.md: no request may fail."""

import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias
from urllib.parse import urlsplit

import jwt
import redis.asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from devstack.roles import with_role
from devstack.sample import READER
from service.access.tokens import create_token
from service.backends.database import connect
from service.settings import from_env
from tests.chaos.client import User
from tests.week.load import TOKEN_SECONDS, Issue
from tests.week.manual import fill_in, read_code, read_steps
from tests.week.week import Week

LINKS, TOKENS, PEM = "CARRYOUT_LINK_SECRETS", "CARRYOUT_JWT_SECRET", "CARRYOUT_JWT_PUBLIC_KEY_FILE"
DATABASE, SOURCE, REDIS = "CARRYOUT_DATABASE_URL", "CARRYOUT_SOURCE_DATABASE_URL", "CARRYOUT_REDIS_URL"
S3_KEY, S3_SECRET, SMTP = "CARRYOUT_S3_ACCESS_KEY_ID", "CARRYOUT_S3_SECRET_ACCESS_KEY", "CARRYOUT_SMTP_URL"

Act: TypeAlias = Callable[[list[str]], Awaitable[None]]


async def walk(week: Week, section: str, *acts: Act) -> str:
    """Take the steps of a section in turn, under load. An act gets the code that its step shows."""
    async with week.under_load():
        for step, act in zip(read_steps("rotation.md", section), acts, strict=True):
            await act(read_code(step))
            await week.settle()
    return f"{len(acts)} steps, {week.without_failure(section)}"


async def rotate_link_secrets(week: Week) -> str:
    names = {"OLD": week.environ[LINKS], "NEW": secrets.token_hex(32)}

    async def give(code: list[str]) -> None:
        await week.roll(**{LINKS: fill_in(code[0], names)})

    async def give_last(code: list[str]) -> None:
        week.load.links.clear()  # a week has passed, and their links have ended
        await give([code[-1]])

    refused = await week.carryout("serve", **{LINKS: "{OLD};{NEW}".format(**names)})
    week.require((refused.status, "LINK_SECRETS" in refused.err) == (2, True), f"secrets with a semicolon: {refused}")
    return await walk(week, "Link secrets", give, give, give_last)


async def rotate_jwt_secret(week: Week) -> str:
    names = {"OLD": week.environ[TOKENS], "NEW": secrets.token_hex(32)}

    async def give(code: list[str]) -> None:
        await week.roll(**{TOKENS: fill_in(code[0], names)})

    async def issue(_code: list[str]) -> None:
        settings = from_env(week.environ | {TOKENS: names["NEW"]})
        week.load.change_issuer(lambda user: create_token(settings, str(user.id), TOKEN_SECONDS))

    return await walk(week, "The secret of tokens", give, issue, give)


async def rotate_public_key(week: Week) -> str:
    """The installation trusts an issuer's key first, instead of a shared secret."""
    path = week.nginx.folder / "issuer.pem"
    first, second = _Issuer(), _Issuer()
    path.write_bytes(first.pem)
    await week.roll(**{TOKENS: "", PEM: str(path)})
    week.load.change_issuer(first.issue)

    async def append(_code: list[str]) -> None:
        path.write_bytes(path.read_bytes() + second.pem)
        await week.roll()

    async def issue(_code: list[str]) -> None:
        week.load.change_issuer(second.issue)

    async def remove(_code: list[str]) -> None:
        path.write_bytes(path.read_bytes().removeprefix(first.pem))
        await week.roll()

    return await walk(week, "The public key of tokens", append, issue, remove)


class _Issuer:
    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.pem = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.issue: Issue = self._issue

    def _issue(self, user: User) -> str:
        now = int(time.time())
        return jwt.encode({"sub": str(user.id), "iat": now, "exp": now + TOKEN_SECONDS}, self._key, "ES256")


async def rotate_serving_role(week: Week) -> str:
    """The oracle keeps the first role: one of its own is rotated."""
    first, second = (f"service_{secrets.token_hex(4)}" for _ in range(2))
    await week.roll(**await _prepare_role(week, first))
    names, given = {"carryout_service": first, "carryout_service_2": second}, dict[str, str]()

    async def create(code: list[str]) -> None:
        await _execute(week, fill_in(code[0], names))
        given.update(await _give_password(week, second))

    async def migrate(code: list[str]) -> None:
        migrated = await week.carryout(*code[0].split()[1:], **given)
        week.require(migrated.status == 0, f"migrate for the new role: {migrated.err}")

    async def restart(_code: list[str]) -> None:
        await week.roll(**given)

    async def drop(code: list[str]) -> None:
        await _execute(week, fill_in(code[0], names))

    return await walk(week, DATABASE, create, migrate, restart, drop)


async def _prepare_role(week: Week, role: str) -> dict[str, str]:
    await _execute(week, f"CREATE ROLE {role} LOGIN")
    given = await _give_password(week, role)
    migrated = await week.carryout("migrate", **given)
    week.require(migrated.status == 0, f"migrate for a role: {migrated.err}")
    return given


async def _give_password(week: Week, role: str, setting: str = DATABASE) -> dict[str, str]:
    """The setting for the role."""
    password = secrets.token_hex(16)
    await _execute(week, f"ALTER ROLE {role} PASSWORD '{password}'")
    return {setting: with_role(week.environ[setting], role, password)}


async def _execute(week: Week, statement: str) -> None:
    async with connect(week.world.database_url) as server:
        await server.execute(statement)


async def rotate_reader(week: Week) -> str:
    second = f"reader_{secrets.token_hex(4)}"
    names = {"carryout_reader": READER, "carryout_reader_2": second}

    async def create(code: list[str]) -> None:
        await _execute(week, fill_in(code[0], names))

    async def restart(_code: list[str]) -> None:
        await week.roll(**await _give_password(week, second, SOURCE))

    async def lock(code: list[str]) -> None:
        await _execute(week, fill_in(code[0], names))

    answer = await walk(week, SOURCE, create, restart, lock)
    await _execute(week, f"ALTER ROLE {READER} LOGIN")  # the oracle reads by it
    return answer


async def rotate_redis_password(week: Week) -> str:
    url = urlsplit(week.environ[REDIS])
    assert url.password
    names = {"OLD": url.password, "NEW": secrets.token_hex(16)}
    changed = url._replace(netloc=f":{names['NEW']}@{url.hostname}:{url.port}").geturl()

    async def add(code: list[str]) -> None:
        async with redis.asyncio.Redis.from_url(url.geturl()) as connection:
            await connection.execute_command(*fill_in(code[0], names).split())

    async def restart(_code: list[str]) -> None:
        await week.roll(**{REDIS: changed})

    async def remove(code: list[str]) -> None:
        async with redis.asyncio.Redis.from_url(changed) as connection:
            await connection.execute_command(*fill_in(code[0], names).split())
            await connection.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    return await walk(week, "Redis", add, restart, remove)


async def rotate_s3_key(week: Week) -> str:
    """The embedded S3 reads its keys at its start, so the first and the last step are taken while no user asks."""
    first = (week.environ[S3_KEY], week.environ[S3_SECRET])
    second = (f"second{secrets.token_hex(8)}", secrets.token_hex(20))
    _, restart, _ = read_steps("rotation.md", "S3")
    await _let_in(week, first, second)
    async with week.under_load():
        await week.roll(**dict(zip(read_code(restart), second, strict=True)))
        await week.settle()
    answers = [week.without_failure("S3")]
    await _let_in(week, second)
    async with week.under_load():
        await week.settle()
    answers.append(week.without_failure("S3, with the second key alone"))
    await _let_in(week, second, first)  # the oracle's
    return "; ".join(answers)


async def _let_in(week: Week, *keys: tuple[str, str]) -> None:
    store = week.scene.stack.object_store
    assert store
    store._environ["RCLONE_AUTH_KEY"] = ",".join(f'"{key},{secret}"' for key, secret in keys)
    await store.stop()
    await store.start()
    await week.until(lambda: week.fleet.are_ready(week.load.http), "the APIs to reach S3")


async def rotate_smtp_password(week: Week) -> str:
    old, new, smtp = secrets.token_hex(16), secrets.token_hex(16), week.scene.smtp
    smtp.passwords.add(old)
    await week.roll(**{SMTP: smtp.login_url(old)})

    async def create(_code: list[str]) -> None:
        smtp.passwords.add(new)

    async def restart(code: list[str]) -> None:
        await week.roll(**{code[0]: smtp.login_url(new)})

    async def delete(_code: list[str]) -> None:
        smtp.passwords.discard(old)

    before = len(smtp.mails)
    answer = await walk(week, "SMTP", create, restart, delete)
    async with week.world.database() as connection:
        refused = await connection.fetchval(
            "SELECT count(*) FROM carryout.export_notifications WHERE last_error LIKE '%535%'"
        )
    week.require(not refused, f"{refused} mails were refused while the password was rotated")
    week.require(len(smtp.mails) > before, "no mail was sent while the password was rotated")
    return f"{answer}; {len(smtp.mails) - before} mails sent, {refused} refused"
