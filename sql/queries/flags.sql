-- name: list_feature_flags
SELECT name, enabled FROM carryout.feature_flags

-- name: set_feature_flag
INSERT INTO carryout.feature_flags (name, enabled) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET enabled = excluded.enabled, updated_at = now()
