"""A source database with every shape of table, and dataset files tried on it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest
from msgspec import structs

from service.backends.database import Connection
from service.documents.datasets import Dataset, load_datasets
from service.errors import ConfigurationError
from service.settings import Settings
from tests.sql.databases import open_database

Folder: TypeAlias = dict[str, str | bytes]

SCHEMA = """
CREATE TABLE users (
  internal_id int PRIMARY KEY, id uuid NOT NULL UNIQUE, email text NOT NULL UNIQUE, name text, password_hash text,
  tags text[], settings jsonb
);
CREATE TABLE posts (
  id bigint PRIMARY KEY, user_id uuid NOT NULL REFERENCES users (id), title text, at timestamptz NOT NULL, loud boolean,
  number int
);
CREATE TABLE likes (
  post_id bigint NOT NULL REFERENCES posts, user_id uuid NOT NULL, at timestamptz NOT NULL,
  PRIMARY KEY (user_id, post_id)
);
CREATE TABLE avatars (user_id uuid PRIMARY KEY REFERENCES users (id), url text);
CREATE TABLE notes (code varchar(20) PRIMARY KEY, user_id uuid NOT NULL, parent varchar(20), draft boolean);
CREATE UNIQUE INDEX ON notes (user_id) WHERE draft;
CREATE UNIQUE INDEX ON notes (lower(code));
CREATE UNIQUE INDEX ON notes (parent);
CREATE TABLE orders (user_number int NOT NULL REFERENCES users, number int NOT NULL, PRIMARY KEY (user_number, number));
CREATE TABLE device_tokens (id int PRIMARY KEY, user_id uuid NOT NULL, platform text, token text);
CREATE TABLE "Odd Table" ("the id" int PRIMARY KEY, "User" uuid NOT NULL, "Group" text);
CREATE TABLE events (id bigint, user_id uuid NOT NULL, at timestamptz, kind text, PRIMARY KEY (at, id))
  PARTITION BY RANGE (at);
CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE MATERIALIZED VIEW digests AS SELECT id, user_id, title FROM posts;
CREATE UNIQUE INDEX ON digests (id) NULLS NOT DISTINCT;
CREATE MATERIALIZED VIEW drafts AS SELECT id, user_id FROM posts;
CREATE UNIQUE INDEX ON drafts (id);
CREATE TABLE marks (user_id uuid NOT NULL, number int NOT NULL, label text, UNIQUE (user_id, number) INCLUDE (label));
CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE visits (id bigint, user_id uuid NOT NULL, PRIMARY KEY (user_id, id)) PARTITION BY HASH (user_id);
CREATE TABLE visits_0 PARTITION OF visits FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE visits_1 PARTITION OF visits FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE parents (id int PRIMARY KEY, user_id uuid NOT NULL);
CREATE TABLE children (PRIMARY KEY (id)) INHERITS (parents);
CREATE VIEW people AS SELECT id, name AS called, password_hash AS fingerprint FROM users;
CREATE VIEW renamed_people AS SELECT u.id, u.memo FROM users AS u (c1, id, c3, name, memo);
CREATE TABLE entries (LIKE events INCLUDING INDEXES) PARTITION BY RANGE (at);
CREATE TABLE entries_2026 PARTITION OF entries FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE VIEW old_entries AS SELECT id, user_id, at, kind FROM entries;
ALTER TABLE entries RENAME kind TO kind_hash;
CREATE VIEW guarded_people WITH (security_barrier) AS SELECT id, password_hash AS fingerprint FROM users;
"""
(FORBIDDEN,) = [field.default for field in structs.fields(Settings) if field.name == "forbidden_columns"]
OPERATORS_FORBIDDEN = tuple(name for name in FORBIDDEN if name != "internal_id")
PROFILE = "SELECT id, email, name FROM users WHERE id = $1"


@asynccontextmanager
async def open_source(server_url: str) -> AsyncIterator[Connection]:
    async with open_database(server_url) as url:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(SCHEMA)
            yield connection
        finally:
            await connection.close()


async def load(source: Connection, folder: Path, files: Folder, *, user_id_type: str = "uuid") -> tuple[Dataset, ...]:
    for name, text in files.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return await load_datasets(source, folder, user_id_type=user_id_type, forbidden=FORBIDDEN)


async def refusal(source: Connection, folder: Path, files: Folder) -> str:
    with pytest.raises(ConfigurationError) as raised:
        await load(source, folder, files)
    return raised.value.detail
