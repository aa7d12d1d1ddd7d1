-- One row per mail. A mail is claimed before it is sent, so that nobody sends it twice.

CREATE TABLE carryout.export_notifications (
  id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  job_id           uuid NOT NULL REFERENCES carryout.export_jobs (id) ON DELETE CASCADE,
  kind             text NOT NULL CHECK (kind IN ('ready', 'failed')),
  state            text NOT NULL DEFAULT 'pending'
                     CHECK (state IN ('pending', 'sending', 'sent', 'failed', 'ambiguous', 'skipped')),
  attempts         integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),  -- the fencing number, one more with every claim
  message_id       text NOT NULL UNIQUE,
  created_at       timestamptz NOT NULL DEFAULT now(),
  next_attempt_at  timestamptz NOT NULL DEFAULT now(),
  lease_expires_at timestamptz,
  data_started_at  timestamptz,                            -- from here on the server may have accepted the mail
  ended_at         timestamptz,
  last_error       text,                                   -- for the operator; holds no address

  UNIQUE (job_id, kind),
  CONSTRAINT leased_while_sending CHECK (
    (state = 'sending') = (lease_expires_at IS NOT NULL) AND (state <> 'sending' OR attempts >= 1)),
  CONSTRAINT data_before_outcome CHECK (
    (state <> 'pending' OR data_started_at IS NULL)
    AND (state NOT IN ('sent', 'ambiguous') OR data_started_at IS NOT NULL)),
  CONSTRAINT ended_at CHECK ((state IN ('pending', 'sending')) = (ended_at IS NULL))
);
CREATE INDEX mails_to_send ON carryout.export_notifications (next_attempt_at) WHERE state IN ('pending', 'sending');
