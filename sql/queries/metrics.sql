-- name: measure_backlog
-- What waits, from the indexes of what isn't done alone: exports, mails, and files whose time is over. Ages in seconds.
SELECT queue.*, mails.*, files.*
FROM (
  SELECT count(*) AS queue_exports, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS queue_age
  FROM carryout.export_jobs
  WHERE status = 'pending'
) AS queue, (
  SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS mails_age
  FROM carryout.export_notifications
  WHERE state IN ('pending', 'sending')
) AS mails, (
  SELECT coalesce(extract(epoch FROM now() - min(expires_at)), 0)::float8 AS files_overdue
  FROM carryout.export_jobs
  WHERE status = 'completed' AND file_deleted_at IS NULL AND expires_at <= now()
) AS files
