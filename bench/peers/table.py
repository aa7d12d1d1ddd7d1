"""The export of every peer: the operators' full list."""

import os

DATABASE_URL = os.environ["DATABASE_URL"]
COLUMNS = ("id", "email", "name", "created_at", "updated_at", "is_active", "is_admin")
SELECT = (
    "SELECT internal_id AS id, email, name, created_at, updated_at, is_active, is_admin"
    " FROM public.users ORDER BY internal_id"
)
COPY = f"COPY ({SELECT}) TO STDOUT (FORMAT csv, HEADER)"
