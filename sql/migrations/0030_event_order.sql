-- The events of one export are numbered in the order in which their changes commit: each takes its number while it holds
-- the export's row. Without that, a download could commit after a deletion and be numbered before it, or the reverse, and
-- the receiver would be told in another order than that of the numbers.

CREATE OR REPLACE FUNCTION carryout.emit_event() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT (SELECT wanted FROM carryout.webhook) THEN
    RETURN NULL;
  END IF;
  PERFORM FROM carryout.export_jobs WHERE id = NEW.job_id FOR NO KEY UPDATE;
  INSERT INTO carryout.export_events (job_id, kind, webhook_id, data)
  SELECT job.id, substr(NEW.action, length('export:') + 1), 'evt_' || gen_random_uuid(), jsonb_build_object(
    'job_id', job.id,
    'user_id', job.user_id::text,
    'format', job.format,
    'status', job.status,
    'record_count', job.record_count,
    'size_bytes', job.size_bytes,
    'created_at', to_char(job.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'completed_at', to_char(job.completed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'expires_at', to_char(job.expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
  )
  FROM carryout.export_jobs AS job
  WHERE job.id = NEW.job_id;
  RETURN NULL;
END
$$;
