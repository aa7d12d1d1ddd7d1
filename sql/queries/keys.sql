-- name: insert_api_key
INSERT INTO carryout.api_keys (name, prefix, key_hash, scopes, expires_at)
VALUES ($1, $2, $3, $4, now() + make_interval(days => $5))
RETURNING *, false AS expired

-- name: find_api_key
SELECT *, coalesce(expires_at <= now(), false) AS expired FROM carryout.api_keys WHERE prefix = $1

-- name: is_usable_api_key
SELECT EXISTS (
  SELECT FROM carryout.api_keys WHERE id = $1 AND revoked_at IS NULL AND coalesce(expires_at > now(), true)
)

-- name: list_api_keys
SELECT *, coalesce(expires_at <= now(), false) AS expired FROM carryout.api_keys ORDER BY created_at, id

-- name: revoke_api_key
UPDATE carryout.api_keys SET revoked_at = now()
WHERE name = $1 AND revoked_at IS NULL
RETURNING *, coalesce(expires_at <= now(), false) AS expired

-- name: touch_api_key
UPDATE carryout.api_keys SET last_used_at = now()
WHERE id = $1 AND (last_used_at IS NULL OR last_used_at <= now() - interval '1 minute')

-- name: claim_key_denial
UPDATE carryout.api_keys SET last_denied_at = now()
WHERE id = $1 AND (last_denied_at IS NULL OR last_denied_at <= now() - interval '1 minute')
RETURNING true
