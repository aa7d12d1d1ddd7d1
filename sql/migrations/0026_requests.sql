-- squawk-ignore-file require-concurrent-index-creation
-- The reason: indexes of the desk's exports alone, of which there are none yet: writes wait for one read of the table.
-- Exports that an operator has asked for on a user's behalf: all columns but answered_at have a value then, and none has
-- one for a user's own. An older release inserts a user's own.

ALTER TABLE carryout.export_jobs
  ADD COLUMN requested_by text,        -- the name of the API key
  ADD COLUMN reason text,              -- for the user to read
  ADD COLUMN received_at timestamptz,  -- when the user's letter or call came
  ADD COLUMN due_at timestamptz,       -- art. 12(3) GDPR: one calendar month later, in UTC
  ADD COLUMN answered_at timestamptz;  -- the link was mailed, the file downloaded, or the export ended by its user

-- Rows that are there have none of them, so reading them all under a lock would prove nothing.
ALTER TABLE carryout.export_jobs ADD CONSTRAINT request_is_whole CHECK (
  num_nulls(requested_by, reason, received_at, due_at) IN (0, 4) AND (answered_at IS NULL OR due_at IS NOT NULL)
) NOT VALID;

CREATE INDEX requests_by_time ON carryout.export_jobs (created_at DESC, id DESC) WHERE requested_by IS NOT NULL;
CREATE INDEX requests_by_key ON carryout.export_jobs (idempotency_key)
  WHERE requested_by IS NOT NULL AND idempotency_key IS NOT NULL;
CREATE INDEX unanswered_requests ON carryout.export_jobs (user_id, due_at)
  WHERE due_at IS NOT NULL AND answered_at IS NULL;
