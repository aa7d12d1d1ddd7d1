-- name: measure_backlog
-- The backlog of exports, mails, events, files and requests, read from partial indexes on unfinished rows, and what the last sweep counted.
-- Ages in seconds.
SELECT queue.*, mails.*, events.*, files.*, missing.*, sweep.*, requests.*
FROM (
  SELECT count(*) AS queue_exports, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS queue_age
  FROM carryout.export_jobs
  WHERE status = 'pending'
) AS queue, (
  SELECT coalesce(extract(epoch FROM now() - min(coalesce(resent_at, created_at))), 0)::float8 AS mails_age,
         count(*) FILTER (WHERE refused) AS mails_refused
  FROM carryout.export_notifications
  WHERE state IN ('pending', 'sending')
) AS mails, (
  SELECT CASE WHEN wanted THEN coalesce((
           SELECT extract(epoch FROM now() - min(coalesce(resent_at, created_at)))::float8
           FROM carryout.export_events
           WHERE state IN ('pending', 'sending')
         ), 0) ELSE 0 END AS events_age,
         (wanted AND gone_at IS NOT NULL)::int AS receiver_gone
  FROM carryout.webhook
) AS events, (
  SELECT coalesce(extract(epoch FROM now() - min(expires_at)), 0)::float8 AS files_overdue
  FROM carryout.export_jobs
  WHERE status = 'completed' AND file_deleted_at IS NULL AND expires_at <= now()
) AS files, (
  SELECT count(*) AS files_missing
  FROM carryout.export_jobs
  WHERE file_missing_at IS NOT NULL AND file_deleted_at IS NULL AND expires_at > now()
) AS missing, (
  SELECT unknown_objects FROM carryout.sweep_lease
) AS sweep, (
  SELECT count(*) FILTER (WHERE due_at <= now()) AS requests_overdue,
         count(*) FILTER (WHERE due_at > now() AND due_at <= now() + interval '7 days') AS requests_due_soon
  FROM carryout.export_jobs
  WHERE due_at IS NOT NULL AND answered_at IS NULL
    AND (subject_missing AND subject_checked_at = 'infinity') IS NOT TRUE
) AS requests

-- name: read_clock
-- It fails for a role that has lost its rights, as requests do: they are checked although no row is read.
SELECT extract(epoch FROM clock_timestamp())::float8
WHERE NOT EXISTS (SELECT FROM carryout.export_jobs LIMIT 0)
