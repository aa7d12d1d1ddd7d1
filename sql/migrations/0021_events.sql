-- Events: what happened to an export, sent to the application as webhooks. A trigger of the audit trail writes them, so
-- that no change can leave its event out, and none is sent of a change that was rolled back.

CREATE TABLE carryout.webhook (
  only_row boolean PRIMARY KEY CHECK (only_row),
  wanted boolean NOT NULL,                   -- a worker that has a receiver was the last to start
  receiver bytea,                            -- the SHA-256 of its URL, which may hold a secret
  gone_at timestamptz                        -- it answered 410 then: nothing is sent until an operator resends
);
INSERT INTO carryout.webhook (only_row, wanted) VALUES (true, false);

CREATE TABLE carryout.export_events (
  id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  job_id           uuid NOT NULL REFERENCES carryout.export_jobs (id) ON DELETE CASCADE,
  kind             text NOT NULL,
  webhook_id       text NOT NULL UNIQUE,
  data             jsonb NOT NULL,            -- as the export was then, so that each attempt sends the same
  state            text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'sending', 'sent', 'failed')),
  attempts         integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  created_at       timestamptz NOT NULL DEFAULT now(),
  next_attempt_at  timestamptz NOT NULL DEFAULT now(),
  lease_expires_at timestamptz,
  data_started_at  timestamptz CHECK (data_started_at IS NULL), -- an event may be sent twice: it has the same id then
  ended_at         timestamptz,
  last_error       text,
  refused          boolean NOT NULL DEFAULT false,
  resent_at        timestamptz,
  earlier_attempts integer NOT NULL DEFAULT 0 CHECK (earlier_attempts >= 0),

  CONSTRAINT leased_while_sending CHECK (
    (state = 'sending') = (lease_expires_at IS NOT NULL) AND (state <> 'sending' OR attempts >= 1)),
  CONSTRAINT ended_at CHECK ((state IN ('pending', 'sending')) = (ended_at IS NULL))
);
CREATE INDEX events_to_send ON carryout.export_events (next_attempt_at) WHERE state IN ('pending', 'sending');
CREATE INDEX unsent_events_by_export ON carryout.export_events (job_id, id) WHERE state IN ('pending', 'sending');
CREATE INDEX events_by_export ON carryout.export_events (job_id);

CREATE FUNCTION carryout.emit_event() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
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
  WHERE job.id = NEW.job_id AND (SELECT wanted FROM carryout.webhook);
  RETURN NULL;
END
$$;

CREATE TRIGGER emit_event AFTER INSERT ON carryout.export_audit FOR EACH ROW
  WHEN (NEW.action IN ('export:completed', 'export:failed', 'export:downloaded', 'export:expired', 'export:deleted'))
  EXECUTE FUNCTION carryout.emit_event();
