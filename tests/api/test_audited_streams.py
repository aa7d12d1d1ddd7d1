"""The audit trail of streams whose clients leave: each start has one end, and counts only records that were sent."""

import asyncio
from collections.abc import Mapping

import pytest
from starlette.types import ASGIApp, Message, Scope

from service.api.app import create_app
from service.resources import Resources
from tests.api.problems import bearer
from tests.conftest import Token
from tests.support.factories import Connection, create_user, list_audit
from tests.support.operators import create_key, create_users

EVENTS = {
    "/api/export/stream": ("export:stream_started", "export:streamed"),
    "/api/v1/users/export": ("users:export_started", "users:exported"),
}
LEAVING = 60


class Client:
    """One that asks, and takes the head and nothing more. It leaves when it is to, or when its first chunk comes."""

    def __init__(self, app: ASGIApp, path: str, headers: Mapping[str, str]) -> None:
        self._app = app
        self._scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"format=csv",
            "headers": [(name.lower().encode(), value.encode()) for name, value in {"Host": "x", **headers}.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        self.left = asyncio.Event()

    async def ask(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200
        else:
            self.left.set()
            await asyncio.Event().wait()


@pytest.fixture
async def credentials(database: Connection, token: Token) -> Mapping[str, Mapping[str, str]]:
    await create_users(database, 1_000)
    user_id = await create_user(database, activity=1_000)
    return {
        "/api/export/stream": bearer(token(user_id)),
        "/api/v1/users/export": {"X-API-Key": await create_key(database)},
    }


@pytest.mark.parametrize("path", EVENTS)
async def test_records_that_were_never_sent_are_not_counted(
    resources: Resources, database: Connection, credentials: Mapping[str, Mapping[str, str]], path: str
) -> None:
    await Client(create_app(resources), path, credentials[path]).ask()
    *_, started, ended = await list_audit(database)
    assert (started["action"], ended["action"]) == EVENTS[path]
    assert (ended["records"], ended["outcome"]) == (0, "client_gone")


@pytest.mark.parametrize("path", EVENTS)
async def test_each_start_has_its_end(
    resources: Resources, database: Connection, credentials: Mapping[str, Mapping[str, str]], path: str
) -> None:
    """Also where the client leaves while the start is being recorded."""
    app, loop = create_app(resources), asyncio.get_running_loop()
    await Client(app, path, credentials[path]).ask()  # connects
    asked_at = loop.time()
    await Client(app, path, credentials[path]).ask()
    whole_seconds = loop.time() - asked_at
    for number in range(LEAVING):
        client = Client(app, path, credentials[path])
        loop.call_later(whole_seconds * number / LEAVING, client.left.set)
        await client.ask()
    actions = [event["action"] for event in await list_audit(database)]
    started, ended = (actions.count(action) for action in EVENTS[path])
    assert started == ended > 0
