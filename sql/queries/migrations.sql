-- name: create_schema_migrations
DO $$
BEGIN
  -- Not IF NOT EXISTS alone: a role without CREATE on the database may still migrate a schema made for it.
  IF to_regnamespace('carryout') IS NULL THEN
    CREATE SCHEMA carryout;
  END IF;
  CREATE TABLE IF NOT EXISTS carryout.schema_migrations (
    name       text PRIMARY KEY,
    sha256     bytea NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
  );
END
$$

-- name: lock_migrations
LOCK TABLE carryout.schema_migrations IN SHARE ROW EXCLUSIVE MODE

-- name: list_migrations
SELECT name, sha256 FROM carryout.schema_migrations ORDER BY name

-- name: record_migration
INSERT INTO carryout.schema_migrations (name, sha256) VALUES ($1, $2)

-- name: find_user_id_type
SELECT format_type(typbasetype, typtypmod)
FROM pg_type
WHERE typname = 'user_id' AND typnamespace = 'carryout'::regnamespace
