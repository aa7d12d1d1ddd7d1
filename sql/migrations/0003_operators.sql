-- Keys of machines and administrators, and switches for their exports.

CREATE TABLE carryout.api_keys (
  id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name         text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 100),
  prefix       text NOT NULL UNIQUE,                       -- shown in lists and in the audit trail
  key_hash     bytea NOT NULL UNIQUE CHECK (length(key_hash) = 32),
  scopes       text[] NOT NULL CHECK (cardinality(scopes) >= 1),
  created_at   timestamptz NOT NULL DEFAULT now(),
  expires_at   timestamptz,
  revoked_at   timestamptz,
  last_used_at timestamptz
);

CREATE TABLE carryout.feature_flags (
  name       text PRIMARY KEY CHECK (name ~ '^[a-z]+:[a-z_]+$'),
  enabled    boolean NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION carryout.announce_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('carryout_changes', TG_TABLE_NAME);
  RETURN NULL;
END
$$;
CREATE TRIGGER announce_change AFTER INSERT OR UPDATE OR DELETE ON carryout.feature_flags
  FOR EACH STATEMENT EXECUTE FUNCTION carryout.announce_change();
CREATE TRIGGER announce_change AFTER INSERT OR UPDATE OF revoked_at, expires_at, scopes OR DELETE ON carryout.api_keys
  FOR EACH STATEMENT EXECUTE FUNCTION carryout.announce_change();
