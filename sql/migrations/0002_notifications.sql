-- One row per mail. A mail is claimed before it is sent, so that nobody sends it twice.

CREATE TABLE carryout.export_notifications (
  id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  job_id          uuid NOT NULL REFERENCES carryout.export_jobs (id) ON DELETE CASCADE,
  kind            text NOT NULL CHECK (kind IN ('ready', 'failed')),
  state           text NOT NULL DEFAULT 'pending'
                    CHECK (state IN ('pending', 'sending', 'sent', 'failed', 'ambiguous', 'skipped')),
  attempts        integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  message_id      text NOT NULL UNIQUE,
  created_at      timestamptz NOT NULL DEFAULT now(),
  next_attempt_at timestamptz NOT NULL DEFAULT now(),
  lease_expires_at timestamptz,
  ended_at        timestamptz,
  last_error      text,
  UNIQUE (job_id, kind),
  CONSTRAINT leased_while_sending CHECK ((state = 'sending') = (lease_expires_at IS NOT NULL)),
  CONSTRAINT ended_at CHECK ((state IN ('pending', 'sending')) = (ended_at IS NULL))
);
CREATE INDEX mails_to_send ON carryout.export_notifications (next_attempt_at) WHERE state IN ('pending', 'sending');
