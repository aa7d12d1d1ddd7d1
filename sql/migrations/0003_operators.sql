-- Keys of machines and administrators, and switches for their exports.

CREATE TABLE carryout.api_keys (
  id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name           text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
  prefix         text NOT NULL UNIQUE,                     -- shown in lists and in the audit trail
  key_hash       bytea NOT NULL UNIQUE CHECK (length(key_hash) = 32),
  scopes         text[] NOT NULL CHECK (cardinality(scopes) >= 1),
  created_at     timestamptz NOT NULL DEFAULT now(),
  expires_at     timestamptz,
  revoked_at     timestamptz,
  last_used_at   timestamptz,                              -- to the minute
  last_denied_at timestamptz                               -- of the last denial in the audit trail
);
CREATE UNIQUE INDEX one_usable_key_per_name ON carryout.api_keys (name) WHERE revoked_at IS NULL;

-- Only flags that somebody switched; the others have their default from the settings.
CREATE TABLE carryout.feature_flags (
  name       text PRIMARY KEY CHECK (name ~ '^[a-z]+:[a-z_]+$'),
  enabled    boolean NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE carryout.export_audit ADD COLUMN subject text; -- the list, key or flag it is about; null for exports
