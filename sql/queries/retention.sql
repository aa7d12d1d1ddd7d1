-- name: purge_exports
SELECT carryout.purge_exports(make_interval(secs => $1), $2, $3)

-- name: purge_events
SELECT carryout.purge_events(make_interval(secs => $1), $2, $3)

-- name: count_purgeable
-- The rows that the two functions would delete.
SELECT
  (SELECT count(*) FROM carryout.export_jobs
   WHERE completed_at < now() - make_interval(secs => $1) AND (status = 'failed' OR file_deleted_at IS NOT NULL)
  ) AS exports,
  (SELECT count(*) FROM carryout.export_audit WHERE occurred_at < now() - make_interval(secs => $1)) AS events
