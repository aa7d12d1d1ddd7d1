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
SET status = 'failed', lease_expires_at = NULL, completed_at = now(), failures = failures + 1, queued = true,
    error_message = $2, error_cause = coalesce(error_cause || '; ', '') || 'its worker was lost'
WHERE id IN (
  SELECT id FROM carryout.export_jobs
  WHERE status = 'processing' AND lease_expires_at <= now() AND failures + 1 >= $1
  LIMIT $3
  FOR UPDATE SKIP LOCKED
)
RETURNING *

-- name: list_ended_files
-- In our bucket: what another one holds would only stand in the way of the rest. So would the oldest, if the storage
-- didn't give them up (a retention period); by chance, workers also seldom meet at the same file.
SELECT * FROM carryout.export_jobs
WHERE status = 'completed' AND file_deleted_at IS NULL AND expires_at <= now() AND starts_with(file_url, $1)
ORDER BY random()
LIMIT $2

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
