"""The operators' full CSV, and users' small exports, as other stacks' own documentation builds them.

Each peer is a module that serves from the database in the variable `DATABASE_URL`, one process each.
"""

import sys
from typing import NamedTuple


class Peer(NamedTuple):
    """The port follows `command`; `source` is the documentation page that the peer follows, if it has one."""

    name: str
    command: tuple[str, ...]
    source: str


def _uvicorn(module: str) -> tuple[str, ...]:
    # A round of the others takes longer than uvicorn's 5 seconds, after which a client may find its connection closed.
    options = ("--no-access-log", "--log-level", "warning", "--timeout-keep-alive", "60", "--port")
    return (sys.executable, "-m", "uvicorn", f"bench.peers.{module}:app", *options)


def _gunicorn(module: str) -> tuple[str, ...]:
    options = ("--no-control-socket", "--timeout", "120", "--log-level", "warning", "--bind")
    return (sys.executable, "-m", "gunicorn", f"bench.peers.{module}:app", *options)


COPY_BUFFERED = "Starlette + psycopg COPY, in 64 KiB chunks"
COPY = "Starlette + psycopg COPY"
CORE = "FastAPI + SQLAlchemy, streamed"
ORM = "FastAPI + SQLAlchemy ORM, StringIO"
DJANGO = "Django StreamingHttpResponse, iterator()"

PEERS = (
    Peer(COPY_BUFFERED, _uvicorn("copy_buffered"), ""),
    Peer(COPY, _uvicorn("copy_rows"), "https://www.psycopg.org/psycopg3/docs/basic/copy.html#copying-block-by-block"),
    Peer(
        CORE,
        _uvicorn("sqlalchemy_stream"),
        "https://docs.sqlalchemy.org/en/20/orm/extensions/asyncio.html#synopsis-core",
    ),
    Peer(ORM, _uvicorn("sqlalchemy_orm"), "https://fastapi.tiangolo.com/tutorial/sql-databases/"),
    Peer(
        DJANGO,
        _gunicorn("django_iterator"),
        "https://docs.djangoproject.com/en/5.2/howto/outputting-csv/#streaming-csv-files",
    ),
)
SMALL_EXPORTS = Peer("FastAPI + SQLAlchemy + boto3", _uvicorn("small_exports"), "")
SELECT_ONE = Peer("a bare route that asks for 1", _uvicorn("select_one"), "")
