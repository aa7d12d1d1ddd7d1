-- name: take_forgotten_exports
-- Due exports that no queue entry of the last seconds stands for: Redis lost it, or their worker is gone.
UPDATE carryout.export_jobs
SET enqueued_at = now()
WHERE id IN (
  SELECT id FROM carryout.export_jobs
  WHERE ((status = 'pending' AND run_after <= now())
         OR (status = 'processing' AND lease_expires_at <= now() AND failures + 1 < $1))
    AND (enqueued_at IS NULL OR enqueued_at <= now() - make_interval(secs => $2))
  ORDER BY created_at
  LIMIT $3
  FOR UPDATE SKIP LOCKED
)
RETURNING *

-- name: fail_lost_exports
UPDATE carryout.export_jobs
SET status = 'failed', lease_expires_at = NULL, completed_at = now(), failures = failures + 1,
    error_message = $2, error_cause = coalesce(error_cause || '; ', '') || 'its worker was lost'
WHERE id IN (
  SELECT id FROM carryout.export_jobs
  WHERE status = 'processing' AND lease_expires_at <= now() AND failures + 1 >= $1
  LIMIT $3
  FOR UPDATE SKIP LOCKED
)
RETURNING *

-- name: claim_ended_file
-- The one that has been due for longest in this bucket and behind this prefix. No other worker can claim it for $2 seconds.
-- An earlier prefix may begin as our keys do: behind it, keys follow that do so again.
UPDATE carryout.export_jobs
SET delete_after = now() + make_interval(secs => $2)
WHERE id = (
  SELECT id FROM carryout.export_jobs
  WHERE status = 'completed' AND file_deleted_at IS NULL
    AND split_part(file_url, '/', 3) = $1 AND greatest(expires_at, delete_after) <= now()
    AND starts_with(file_url, $3) AND substr(file_url, length($3)) NOT LIKE '%/exports/%'
  ORDER BY greatest(expires_at, delete_after)
  LIMIT 1
  FOR UPDATE SKIP LOCKED
)
RETURNING *

-- name: put_off_deletion
-- Until the file has been kept as long again as it is now, a minute at least and $2 seconds at most.
UPDATE carryout.export_jobs
SET delete_after = now() + least(greatest(now() - expires_at, interval '1 minute'), make_interval(secs => $2))
WHERE id = $1 AND file_deleted_at IS NULL

-- name: forget_old_idempotency_keys
UPDATE carryout.export_jobs SET idempotency_key = NULL
WHERE idempotency_key IS NOT NULL AND created_at <= now() - interval '24 hours'

-- name: list_orphaned_keys
-- Orphans among the objects exports/<job>/<attempt>-<mark>.<format>: no running or completed export owns them. An object
-- of an unknown job may belong to another installation.
SELECT candidate.key
FROM unnest($1::text[], $2::uuid[], $3::int[]) AS candidate (key, job_id, attempt)
JOIN carryout.export_jobs AS job ON job.id = candidate.job_id
WHERE NOT (job.status = 'processing' AND job.attempt = candidate.attempt)
  AND NOT (job.status = 'completed' AND job.file_deleted_at IS NULL AND job.attempt = candidate.attempt)

-- name: list_unknown_jobs
SELECT candidate.id
FROM unnest($1::uuid[]) AS candidate (id)
WHERE NOT EXISTS (SELECT FROM carryout.export_jobs AS job WHERE job.id = candidate.id)

-- name: list_mismatched_files
-- Exports from $1 (not included) to $2 whose row and storage differ: marked as missing, and among the URLs
-- $3 that the storage has; or neither; with $5 also those that are marked and not there. At most $4 of them, in the order
-- of their ids.
SELECT job.*, here.url IS NOT NULL AS present
FROM carryout.export_jobs AS job
LEFT JOIN unnest($3::text[]) AS here (url) ON here.url = job.file_url
WHERE job.id > $1 AND job.id <= $2
  AND job.status = 'completed' AND job.file_deleted_at IS NULL AND job.expires_at > now()
  AND ((here.url IS NOT NULL) = (job.file_missing_at IS NOT NULL) OR ($5 AND here.url IS NULL))
ORDER BY job.id
LIMIT $4

-- name: list_files_elsewhere
-- The next $3 files after the export $2 whose URLs don't begin with $1; also those whose links have ended.
SELECT *, expires_at <= now() AS expired
FROM carryout.export_jobs
WHERE id > $2 AND status = 'completed' AND file_deleted_at IS NULL AND NOT starts_with(file_url, $1 || id || '/')
ORDER BY id
LIMIT $3

-- name: note_missing_file
-- A repeated request with its idempotency key shall make another file.
UPDATE carryout.export_jobs SET file_missing_at = clock_timestamp(), idempotency_key = NULL
WHERE id = $1 AND status = 'completed' AND file_url = $2
  AND file_deleted_at IS NULL AND file_missing_at IS NULL AND expires_at > clock_timestamp()
RETURNING *

-- name: note_found_file
-- At $2, where its file is now: where it was, or in another bucket.
UPDATE carryout.export_jobs SET file_missing_at = NULL, file_url = $2
WHERE id = $1 AND status = 'completed' AND file_deleted_at IS NULL
RETURNING *

-- name: find_mark
SELECT mark FROM carryout.installation

-- name: claim_subject_checks
-- Exports whose user wasn't looked for in the last $1 seconds: those that run, have a working link, or are to be told of
-- by mail. Those that have expired meanwhile are looked at by claim_ended_subject_checks, once their files are gone.
WITH unended AS (
  SELECT id FROM carryout.export_jobs
  WHERE (status IN ('pending', 'processing') OR (status = 'completed' AND file_deleted_at IS NULL))
    AND coalesce(subject_checked_at, created_at) <= pg_catalog.now() - pg_catalog.make_interval(secs => $1)
  ORDER BY coalesce(subject_checked_at, created_at)
  LIMIT $2
  FOR UPDATE SKIP LOCKED
), announced AS (
  SELECT job.id
  FROM carryout.export_notifications AS mail
  JOIN carryout.export_jobs AS job ON job.id = mail.job_id
  WHERE mail.state = 'pending' AND job.status = 'failed'
    AND coalesce(job.subject_checked_at, job.created_at) <= pg_catalog.now() - pg_catalog.make_interval(secs => $1)
  LIMIT $2
  FOR UPDATE OF job SKIP LOCKED
), claimed AS (
  UPDATE carryout.export_jobs
  SET subject_checked_at = CASE WHEN expires_at <= pg_catalog.now() THEN 'infinity' ELSE pg_catalog.now() END
  WHERE id IN (SELECT id FROM unended UNION ALL SELECT id FROM announced)
  RETURNING *
)
SELECT * FROM claimed WHERE subject_checked_at < 'infinity'

-- name: claim_ended_subject_checks
-- Exports that have failed, or whose file is gone, and whose user wasn't looked for in the last $1 seconds; not those that
-- are kept from users already.
UPDATE carryout.export_jobs
SET subject_checked_at = pg_catalog.now()
WHERE id IN (
  SELECT id FROM carryout.export_jobs
  WHERE (status = 'failed' OR (status = 'completed' AND file_deleted_at IS NOT NULL))
    AND NOT (subject_missing AND coalesce(subject_checked_at = 'infinity', false))
    AND coalesce(nullif(subject_checked_at, 'infinity'), created_at)
        <= pg_catalog.now() - pg_catalog.make_interval(secs => $1)
  ORDER BY coalesce(nullif(subject_checked_at, 'infinity'), created_at)
  LIMIT $2
  FOR UPDATE SKIP LOCKED
)
RETURNING *

-- name: note_subject
UPDATE carryout.export_jobs SET subject_missing = $2 WHERE id = $1 AND subject_missing <> $2

-- name: disown_exports
-- The ended exports of $1 until $2: none of them is shown to the next user with this id.
UPDATE carryout.export_jobs
SET subject_missing = true, subject_checked_at = 'infinity', idempotency_key = NULL
WHERE user_id = $1 AND created_at <= $2
  AND (status = 'failed' OR (status = 'completed' AND expires_at <= pg_catalog.clock_timestamp()))

-- name: take_sweep_lease
-- By the worker $1, for $2 seconds from now; also to keep it. No row while another worker has it.
UPDATE carryout.sweep_lease SET holder = $1, expires_at = now() + make_interval(secs => $2)
WHERE holder = $1 OR expires_at <= now()
RETURNING true

-- name: end_sweep_lease
UPDATE carryout.sweep_lease SET expires_at = now(), unknown_objects = coalesce($2, unknown_objects) WHERE holder = $1
