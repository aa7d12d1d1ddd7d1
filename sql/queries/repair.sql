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
-- The one that has been due for longest in this bucket. It is nobody else's for $2 seconds.
UPDATE carryout.export_jobs
SET delete_after = now() + make_interval(secs => $2)
WHERE id = (
  SELECT id FROM carryout.export_jobs
  WHERE status = 'completed' AND file_deleted_at IS NULL
    AND split_part(file_url, '/', 3) = $1 AND greatest(expires_at, delete_after) <= now()
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
-- Which of the objects exports/<job>/<attempt>.<format> are of our jobs, but nobody makes or may download them. An
-- object of a job we don't know is another installation's.
SELECT candidate.key
FROM unnest($1::text[], $2::uuid[], $3::int[]) AS candidate (key, job_id, attempt)
JOIN carryout.export_jobs AS job ON job.id = candidate.job_id
WHERE NOT (job.status = 'processing' AND job.attempt = candidate.attempt)
  AND NOT (job.status = 'completed' AND job.file_deleted_at IS NULL AND job.attempt = candidate.attempt)
