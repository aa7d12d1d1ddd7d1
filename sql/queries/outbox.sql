-- {outbox} is the table of an outbox, as of the mails or the events: see service/bookkeeping/outbox.py.

-- name: claim_due_entries
-- A lost claim is taken over only if it is certain that no server can have accepted the entry.
WITH due AS (
  SELECT id
  FROM {outbox} AS entry
  WHERE ((state = 'pending' AND next_attempt_at <= now())
      OR (state = 'sending' AND lease_expires_at <= now() AND data_started_at IS NULL
          AND coalesce(resent_at, created_at) > now() - make_interval(secs => $3)))
    AND {may_go}
  ORDER BY next_attempt_at
  LIMIT $1
  FOR UPDATE SKIP LOCKED
)
UPDATE {outbox} AS mine
SET state = 'sending', attempts = mine.attempts + 1, lease_expires_at = now() + make_interval(secs => $2)
FROM due
WHERE mine.id = due.id
RETURNING mine.*

-- name: begin_entry_data
UPDATE {outbox}
SET data_started_at = now(), lease_expires_at = now() + make_interval(secs => $3)
WHERE id = $1 AND state = 'sending' AND attempts = $2 AND lease_expires_at > now()
RETURNING *

-- name: retry_entry
-- Given up when the next attempt would come $5 seconds after the entry was wanted, or later.
WITH plan AS (
  SELECT id, now() + make_interval(secs => $3) < coalesce(resent_at, created_at) + make_interval(secs => $5) AS again
  FROM {outbox}
  WHERE id = $1
)
UPDATE {outbox} AS mine
SET state = CASE WHEN plan.again THEN 'pending' ELSE 'failed' END,
    next_attempt_at = now() + make_interval(secs => $3),
    lease_expires_at = NULL,
    data_started_at = NULL,
    ended_at = CASE WHEN plan.again THEN NULL ELSE now() END,
    last_error = $4,
    refused = $6
FROM plan
WHERE mine.id = plan.id AND mine.state = 'sending' AND mine.attempts = $2
RETURNING mine.*

-- name: end_entry
UPDATE {outbox}
SET state = $3, lease_expires_at = NULL, ended_at = now(), last_error = $4
WHERE id = $1 AND state = 'sending' AND attempts = $2
RETURNING *

-- name: end_lost_entries
WITH lost AS (
  SELECT id
  FROM {outbox}
  WHERE state = 'sending' AND lease_expires_at <= now()
    AND (data_started_at IS NOT NULL OR coalesce(resent_at, created_at) <= now() - make_interval(secs => $1))
  FOR UPDATE SKIP LOCKED
)
UPDATE {outbox} AS mine
SET state = CASE WHEN mine.data_started_at IS NULL THEN 'failed' ELSE 'ambiguous' END,
    lease_expires_at = NULL, ended_at = now(), last_error = 'its worker was lost'
FROM lost
WHERE mine.id = lost.id
RETURNING mine.*
