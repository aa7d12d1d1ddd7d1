-- Exports, and the trail of everything that happened to anyone's data.
-- The runner sets carryout.user_id_type (uuid, bigint or text) for this transaction.

DO $$
BEGIN
  EXECUTE format('CREATE DOMAIN carryout.user_id AS %s', current_setting('carryout.user_id_type'));
END
$$;

CREATE TABLE carryout.export_jobs (
  id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  user_id           carryout.user_id NOT NULL,
  format            text NOT NULL CHECK (format IN ('csv', 'json')),
  status            text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'processing', 'completed', 'failed')),
  queued            boolean NOT NULL,                      -- made by the worker and announced by mail
  created_at        timestamptz NOT NULL DEFAULT now(),
  estimated_records bigint NOT NULL CHECK (estimated_records >= 1),

  -- Claiming: attempt is the fencing number, one more with every claim; failures counts what went wrong.
  attempt           integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
  failures          integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
  run_after         timestamptz NOT NULL DEFAULT now(),
  enqueued_at       timestamptz,
  started_at        timestamptz,
  lease_expires_at  timestamptz,
  records_done      bigint NOT NULL DEFAULT 0 CHECK (records_done >= 0),

  completed_at      timestamptz,
  record_count      bigint CHECK (record_count >= 1),
  file_url          text CHECK (file_url LIKE 's3://_%/_%'),
  size_bytes        bigint CHECK (size_bytes >= 0),
  sha256            bytea CHECK (length(sha256) = 32),
  expires_at        timestamptz,
  file_deleted_at   timestamptz,                           -- the object is gone from S3
  error_message     text,                                  -- for the user
  error_cause       text,                                  -- for the operator

  idempotency_key   text CHECK (length(idempotency_key) BETWEEN 1 AND 255),
  request_id        text,
  traceparent       text,

  link_denied_at    timestamptz,                           -- of the last denial in the audit trail: of a wrong link,
  user_denied_at    timestamptz,                           -- and of another user

  CONSTRAINT leased_while_processing CHECK (
    (status = 'processing') = (lease_expires_at IS NOT NULL) AND (status <> 'processing' OR attempt >= 1)),
  CONSTRAINT completed_has_file CHECK (
    (status = 'completed') = (file_url IS NOT NULL)
    AND num_nulls(file_url, size_bytes, sha256, record_count, expires_at) IN (0, 5)),
  CONSTRAINT failed_says_why CHECK ((status = 'failed') = (error_message IS NOT NULL)),
  CONSTRAINT ended_at CHECK ((status IN ('completed', 'failed')) = (completed_at IS NOT NULL)),
  CONSTRAINT deleted_only_if_made CHECK (file_deleted_at IS NULL OR status = 'completed')
);

-- One running export per user: decided here, whoever asks and however often.
CREATE UNIQUE INDEX one_running_export_per_user ON carryout.export_jobs (user_id)
  WHERE status IN ('pending', 'processing');
CREATE UNIQUE INDEX one_export_per_idempotency_key ON carryout.export_jobs (user_id, idempotency_key)
  WHERE idempotency_key IS NOT NULL;
CREATE INDEX export_jobs_of_user ON carryout.export_jobs (user_id, created_at DESC, id DESC);
CREATE INDEX running_exports ON carryout.export_jobs (created_at) WHERE status IN ('pending', 'processing');
CREATE INDEX files_to_delete ON carryout.export_jobs (expires_at) WHERE status = 'completed' AND file_deleted_at IS NULL;
CREATE INDEX recent_exports ON carryout.export_jobs (completed_at DESC) WHERE status = 'completed';

CREATE TABLE carryout.export_audit (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  occurred_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor_type  text NOT NULL CHECK (actor_type IN ('user', 'key', 'link', 'system')),
  actor       text,                                        -- user id or key prefix; null for links and the system
  action      text NOT NULL CHECK (action ~ '^[a-z]+:[a-z_]+$'),
  user_id     carryout.user_id,                            -- whose data; null for lists of many
  job_id      uuid,                                        -- no foreign key: the trail outlives the job
  format      text,
  records     bigint CHECK (records >= 0),
  outcome     text,
  ip          inet,
  user_agent  text,
  request_id  text,
  CONSTRAINT named_actor CHECK ((actor_type IN ('user', 'key')) = (actor IS NOT NULL))
);
CREATE INDEX export_audit_of_job ON carryout.export_audit (job_id, id) WHERE job_id IS NOT NULL;
CREATE INDEX export_audit_of_user ON carryout.export_audit (user_id, occurred_at) WHERE user_id IS NOT NULL;
CREATE INDEX export_audit_by_time ON carryout.export_audit (occurred_at);

CREATE FUNCTION carryout.refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'carryout.export_audit is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON carryout.export_audit
  FOR EACH STATEMENT EXECUTE FUNCTION carryout.refuse_audit_change();
