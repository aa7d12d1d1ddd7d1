"""Every fault: what it does to its target on entry, and how it is healed on exit."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import asyncpg
import redis.asyncio

from devstack.stack import Stack
from service.backends.database import CONNECTION_LOST, connect
from tests.chaos.fleet import APIS, WORKERS, Fleet, Member, signal_child
from tests.chaos.schedule import Kind
from tests.chaos.wire import State, Wire
from tests.faults.rubbish import enqueue, rubbish
from tests.support.smtp import DROP, HANG, LOSE, SmtpServer

LEASE_SECONDS = 6.0
MAX_CONNECTIONS = 200
PATIENCE_SECONDS = 2.0
LOOK_SECONDS = 0.005


@dataclass(frozen=True)
class Scene:
    """Everything that faults strike. `wires` lead from the service to its servers, by name."""

    stack: Stack
    database_url: str
    fleet: Fleet
    wires: dict[str, Wire]
    smtp: SmtpServer

    def signal_server(self, name: str, number: signal.Signals) -> None:
        signal_child(self.stack.data_dir / "run", name, number)


Strike: TypeAlias = Callable[[Scene, str], AbstractAsyncContextManager[None]]
KINDS: list[Kind] = []
STRIKES: dict[str, Strike] = {}


def _add(name: str, targets: tuple[str, ...], seconds: tuple[float, float], strike: Strike) -> None:
    KINDS.append(Kind(name, targets, seconds))
    STRIKES[name] = strike


async def _while_idle(member: Member) -> None:
    """A worker is to be struck in the middle of an export, if it begins one soon."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while member.name in WORKERS and not member.started_export():
                await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def _ended(number: signal.Signals, scene: Scene, target: str) -> AsyncIterator[None]:
    member = scene.fleet.members[target]
    await _while_idle(member)
    member.down()
    member.signal(number)
    yield
    member.up()


@asynccontextmanager
async def _frozen(scene: Scene, target: str) -> AsyncIterator[None]:
    member = scene.fleet.members[target]
    await _while_idle(member)
    member.signal(signal.SIGSTOP)
    yield
    member.signal(signal.SIGCONT)


@asynccontextmanager
async def _taken_over(scene: Scene, target: str) -> AsyncIterator[None]:
    """Two workers in the middle of one export: the frozen one wakes while the one that took over is frozen."""
    member = scene.fleet.members[target]
    await _while_idle(member)
    member.signal(signal.SIGSTOP)
    successor = await _successor(scene, member)
    if successor:
        successor.signal(signal.SIGSTOP)
    member.signal(signal.SIGCONT)
    yield
    if successor:
        successor.signal(signal.SIGCONT)


async def _successor(scene: Scene, member: Member) -> Member | None:
    """The worker that begins the export of a frozen one, if any does soon after its lease."""
    job_id = member.started_export()
    others = [scene.fleet.members[name] for name in WORKERS if name != member.name]
    with suppress(TimeoutError):
        async with asyncio.timeout(LEASE_SECONDS + PATIENCE_SECONDS):
            while job_id:
                for other in others:
                    if other.started_export() == job_id:
                        return other
                await asyncio.sleep(LOOK_SECONDS)
    return None


@asynccontextmanager
async def _frozen_server(scene: Scene, target: str) -> AsyncIterator[None]:
    scene.signal_server(target, signal.SIGSTOP)
    yield
    scene.signal_server(target, signal.SIGCONT)


@asynccontextmanager
async def _wire(state: State, scene: Scene, target: str) -> AsyncIterator[None]:
    scene.wires[target].state = state
    yield
    scene.wires[target].state = "whole"


@asynccontextmanager
async def _backends_terminated(scene: Scene, _target: str) -> AsyncIterator[None]:
    async with connect(scene.database_url) as connection:
        await connection.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name LIKE 'carryout%' AND pid % 2 = 0"""
        )
    yield


@asynccontextmanager
async def _connections_exhausted(scene: Scene, _target: str) -> AsyncIterator[None]:
    async with AsyncExitStack() as taken:
        with suppress(*CONNECTION_LOST, asyncpg.PostgresError):
            for _ in range(MAX_CONNECTIONS):
                connection = await asyncpg.connect(scene.database_url)
                taken.callback(connection.terminate)
        yield


@asynccontextmanager
async def _restarted(number: signal.Signals, scene: Scene, target: str) -> AsyncIterator[None]:
    servers = {"postgres": scene.stack.postgres, "redis": scene.stack.redis, "s3": scene.stack.object_store}
    server = servers[target]
    assert server
    scene.signal_server(target, number)
    await asyncio.shield(server.stop())
    yield
    await server.start()


@asynccontextmanager
async def _flushed(scene: Scene, _target: str) -> AsyncIterator[None]:
    async with _redis(scene) as connection:
        await connection.flushall()
    yield


@asynccontextmanager
async def _full(scene: Scene, _target: str) -> AsyncIterator[None]:
    async with _redis(scene) as connection:
        await connection.config_set("maxmemory", "1")
        yield
        await connection.config_set("maxmemory", "0")


@asynccontextmanager
async def _littered(scene: Scene, _target: str) -> AsyncIterator[None]:
    async with _redis(scene) as connection:
        for name, content in rubbish(scene.stack.data_dir / "exploded").items():
            await enqueue(connection, name, content)
    yield


@asynccontextmanager
async def _replies(step: str, reply: str, scene: Scene, _target: str) -> AsyncIterator[None]:
    scene.smtp.go_on.clear()
    scene.smtp.replies[step] = reply
    yield
    scene.smtp.replies.clear()
    scene.smtp.go_on.set()


def _redis(scene: Scene) -> "redis.asyncio.Redis":
    assert scene.stack.redis
    connection: redis.asyncio.Redis = redis.asyncio.Redis.from_url(scene.stack.redis.url)
    return connection


for _server, _states in {
    "postgres": ("refused", "hung", "slow", "cut"),
    "redis": ("refused", "hung", "slow", "cut"),
    "s3": ("refused", "hung", "slow", "cut", "500", "507"),
    "store": ("refused", "hung", "slow", "cut", "500"),
    "smtp": ("refused", "hung", "cut"),
    "receiver": ("refused", "hung", "slow", "cut"),
}.items():
    for _state in _states:
        _add(f"{_server} wire {_state}", (_server,), (1, 6), partial(_wire, _state))  # type: ignore[arg-type] # literals

for _group, _targets in {"api": APIS, "worker": WORKERS}.items():
    _add(f"{_group} SIGKILL", _targets, (0.1, 3), partial(_ended, signal.SIGKILL))
    _add(f"{_group} SIGTERM", _targets, (0.1, 3), partial(_ended, signal.SIGTERM))
    _add(f"{_group} frozen", _targets, (0.5, LEASE_SECONDS / 2), _frozen)
    _add(f"{_group} frozen past the lease", _targets, (LEASE_SECONDS + 1, LEASE_SECONDS + 4), _frozen)

_add("worker taken over", WORKERS, (1, LEASE_SECONDS / 2), _taken_over)
_add("postgres backends terminated", ("postgres",), (0, 0), _backends_terminated)
_add("postgres connections exhausted", ("postgres",), (2, 5), _connections_exhausted)
_add("postgres restarted fast", ("postgres",), (0, 3), partial(_restarted, signal.SIGINT))
_add("postgres restarted at once", ("postgres",), (0, 3), partial(_restarted, signal.SIGQUIT))
_add("postgres SIGKILL", ("postgres",), (0, 3), partial(_restarted, signal.SIGKILL))
_add("redis SIGKILL, empty", ("redis",), (0, 5), partial(_restarted, signal.SIGKILL))
_add("redis frozen", ("redis",), (1, 6), _frozen_server)
_add("redis flushed", ("redis",), (0, 0), _flushed)
_add("redis full", ("redis",), (2, 6), _full)
_add("redis littered", ("redis",), (0, 0), _littered)
_add("s3 SIGKILL", ("s3",), (0, 4), partial(_restarted, signal.SIGKILL))
_add("s3 frozen", ("s3",), (1, 6), _frozen_server)
_add("smtp greets with 421", ("smtp",), (2, 6), partial(_replies, "CONNECT", "421 try later"))
_add("smtp RCPT 451", ("smtp",), (2, 6), partial(_replies, "RCPT", "451 try later"))
_add("smtp RCPT 550", ("smtp",), (2, 6), partial(_replies, "RCPT", "550 nobody here"))
_add("smtp hangs after DATA", ("smtp",), (2, 8), partial(_replies, "MESSAGE", HANG))
_add("smtp drops after DATA", ("smtp",), (2, 6), partial(_replies, "MESSAGE", DROP))
_add("smtp accepts, and drops", ("smtp",), (2, 6), partial(_replies, "MESSAGE", LOSE))
_add("smtp drops after 250", ("smtp",), (2, 6), partial(_replies, "QUIT", DROP))
