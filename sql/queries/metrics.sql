-- name: measure_queue
-- From the index of running exports alone.
SELECT count(*) AS depth, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_seconds
FROM carryout.export_jobs
WHERE status = 'pending'
