-- name: lock_user
SELECT pg_advisory_xact_lock(hashtextextended('carryout:user:' || $1::text, 0))

-- name: insert_export
INSERT INTO carryout.export_jobs
  (user_id, format, queued, estimated_records, idempotency_key, request_id, traceparent,
   enqueued_at, status, attempt, started_at, lease_expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, now(),
  CASE WHEN $3 THEN 'pending' ELSE 'processing' END,
  CASE WHEN $3 THEN 0 ELSE 1 END,
  CASE WHEN $3 THEN NULL ELSE now() END,
  CASE WHEN $3 THEN NULL ELSE now() + make_interval(secs => $8) END)
ON CONFLICT (user_id) WHERE status IN ('pending', 'processing') DO NOTHING
RETURNING *

-- name: find_running_export
SELECT * FROM carryout.export_jobs WHERE user_id = $1 AND status IN ('pending', 'processing')

-- name: forget_idempotency_key
UPDATE carryout.export_jobs SET idempotency_key = NULL
WHERE user_id = $1 AND idempotency_key = $2 AND created_at <= now() - interval '24 hours'

-- name: find_by_idempotency_key
SELECT *, coalesce(expires_at <= now(), false) AS expired
FROM carryout.export_jobs
WHERE user_id = $1 AND idempotency_key = $2 AND created_at > now() - interval '24 hours'

-- name: find_rate_wait
-- Seconds until the user may export again: when the oldest of the last $2 accepted in this hour is an hour old.
SELECT ceil(extract(epoch FROM created_at + interval '1 hour' - now()))::int
FROM carryout.export_jobs
WHERE user_id = $1 AND created_at > now() - interval '1 hour'
ORDER BY created_at DESC
OFFSET $2::int - 1 LIMIT 1

-- name: find_export
SELECT *, coalesce(expires_at <= now(), false) AS expired,
  extract(epoch FROM expires_at - now())::float AS seconds_left
FROM carryout.export_jobs WHERE id = $1

-- name: list_exports
SELECT *, coalesce(expires_at <= now(), false) AS expired
FROM carryout.export_jobs
WHERE user_id = $1
  AND ($2::uuid IS NULL
       OR (created_at, id) < (SELECT created_at, id FROM carryout.export_jobs WHERE id = $2 AND user_id = $1))
ORDER BY created_at DESC, id DESC
LIMIT $3

-- name: list_latest_exports
-- Without a user it reads the whole table, a third of a second for a million exports: no index is worth its upkeep.
WITH latest AS (
  SELECT *
  FROM carryout.export_jobs
  WHERE ($1::carryout.user_id IS NULL OR user_id = $1)
    AND ($2::text IS NULL OR status = $2)
    AND ($3::float8 IS NULL OR created_at >= now() - make_interval(secs => $3))
  ORDER BY created_at DESC, id DESC
  LIMIT $4
)
SELECT latest.id, latest.user_id::text, latest.status, latest.format, latest.record_count, latest.size_bytes,
       latest.created_at, latest.completed_at, latest.expires_at, latest.file_deleted_at,
       mail.state AS mail, latest.error_message, latest.error_cause, mail.last_error AS mail_cause
FROM latest
LEFT JOIN carryout.export_notifications AS mail ON mail.job_id = latest.id
ORDER BY latest.created_at DESC, latest.id DESC

-- name: list_unended_exports
SELECT * FROM carryout.export_jobs
WHERE user_id = $1
  AND (status IN ('pending', 'processing') OR (status = 'completed' AND expires_at > now()))

-- name: claim_export
-- A lost lease counts as a failure, so that an export which kills its worker can't do so for ever.
UPDATE carryout.export_jobs
SET status = 'processing',
    queued = true,
    attempt = attempt + 1,
    failures = failures + (status = 'processing')::int,
    records_done = 0,
    started_at = now(),
    lease_expires_at = now() + make_interval(secs => $2)
WHERE id = $1
  AND ((status = 'pending' AND run_after <= now())
       OR (status = 'processing' AND lease_expires_at <= now() AND failures + 1 < $3))
RETURNING *

-- name: renew_lease
-- An attempt that has just completed is still ours.
UPDATE carryout.export_jobs
SET lease_expires_at = CASE status WHEN 'processing' THEN now() + make_interval(secs => $3) END,
    records_done = greatest(records_done, $4)
WHERE id = $1 AND status IN ('processing', 'completed') AND attempt = $2
RETURNING id

-- name: complete_export
UPDATE carryout.export_jobs
SET status = 'completed', lease_expires_at = NULL, completed_at = now(),
    record_count = $3, records_done = $3, file_url = $4, size_bytes = $5, sha256 = $6,
    expires_at = now() + make_interval(secs => $7)
WHERE id = $1 AND status = 'processing' AND attempt = $2
RETURNING *

-- name: retry_export
UPDATE carryout.export_jobs
SET status = 'pending', lease_expires_at = NULL, enqueued_at = NULL, failures = failures + $5,
    run_after = now() + make_interval(secs => $3), error_cause = $4
WHERE id = $1 AND status = 'processing' AND attempt = $2
RETURNING *

-- name: note_unqueued
UPDATE carryout.export_jobs SET enqueued_at = NULL WHERE id = $1 AND status = 'pending' AND attempt = $2

-- name: hand_back_export
UPDATE carryout.export_jobs
SET status = 'pending', lease_expires_at = NULL, enqueued_at = NULL
WHERE id = $1 AND status = 'processing' AND attempt = $2
RETURNING *

-- name: fail_export
UPDATE carryout.export_jobs
SET status = 'failed', lease_expires_at = NULL, completed_at = now(), failures = failures + 1,
    error_message = $3, error_cause = $4
WHERE id = $1 AND status = 'processing' AND attempt = $2
RETURNING *

-- name: cancel_export
UPDATE carryout.export_jobs
SET status = 'failed', lease_expires_at = NULL, completed_at = now(), error_message = $2
WHERE id = $1 AND status IN ('pending', 'processing')
RETURNING *

-- name: end_link
-- Not by now(), the transaction's beginning: whoever began earlier and comes later would end it a second time.
UPDATE carryout.export_jobs SET expires_at = clock_timestamp()
WHERE id = $1 AND status = 'completed' AND expires_at > clock_timestamp()
RETURNING *

-- name: mark_file_deleted
UPDATE carryout.export_jobs SET file_deleted_at = now()
WHERE id = $1 AND status = 'completed' AND file_deleted_at IS NULL
RETURNING *

-- name: claim_link_denial
UPDATE carryout.export_jobs SET link_denied_at = now()
WHERE id = $1 AND (link_denied_at IS NULL OR link_denied_at <= now() - interval '1 minute')
RETURNING *

-- name: claim_user_denial
UPDATE carryout.export_jobs SET user_denied_at = now()
WHERE id = $1 AND (user_denied_at IS NULL OR user_denied_at <= now() - interval '1 minute')
RETURNING *

-- name: estimate_completion
-- What recent exports took per record, times this one's records and those that wait ahead of it.
WITH recent AS (
  SELECT extract(epoch FROM completed_at - started_at) / greatest(record_count, 1) AS seconds_per_record
  FROM carryout.export_jobs
  WHERE status = 'completed' AND queued
  ORDER BY completed_at DESC
  LIMIT 50
), pace AS (
  SELECT coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds_per_record), 0.00005) AS seconds_per_record
  FROM recent
), ahead AS (
  SELECT coalesce(sum(other.estimated_records - other.records_done), 0) AS records
  FROM carryout.export_jobs AS mine
  JOIN carryout.export_jobs AS other
    ON other.status IN ('pending', 'processing') AND other.created_at < mine.created_at
  WHERE mine.id = $1
)
SELECT greatest(mine.run_after, now())
  + make_interval(secs => 1 + pace.seconds_per_record
                            * (ahead.records + greatest(mine.estimated_records - mine.records_done, 0)))
FROM carryout.export_jobs AS mine, pace, ahead
WHERE mine.id = $1
