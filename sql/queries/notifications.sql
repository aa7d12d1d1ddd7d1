-- name: insert_notification
INSERT INTO carryout.export_notifications (job_id, kind, message_id) VALUES ($1, $2, $3)
RETURNING *

-- name: claim_due_notifications
-- A lost claim is taken over only if it is certain that no server can have accepted the mail.
WITH due AS (
  SELECT id
  FROM carryout.export_notifications
  WHERE (state = 'pending' AND next_attempt_at <= now())
     OR (state = 'sending' AND lease_expires_at <= now() AND data_started_at IS NULL
         AND created_at > now() - make_interval(secs => $3))
  ORDER BY next_attempt_at
  LIMIT $1
  FOR UPDATE SKIP LOCKED
)
UPDATE carryout.export_notifications AS mine
SET state = 'sending', attempts = mine.attempts + 1, lease_expires_at = now() + make_interval(secs => $2)
FROM due
WHERE mine.id = due.id
RETURNING mine.*

-- name: begin_notification_data
UPDATE carryout.export_notifications
SET data_started_at = now(), lease_expires_at = now() + make_interval(secs => $3)
WHERE id = $1 AND state = 'sending' AND attempts = $2 AND lease_expires_at > now()
RETURNING *

-- name: retry_notification
-- Given up when the next attempt would come $5 seconds after the mail was wanted, or later.
WITH plan AS (
  SELECT id, now() + make_interval(secs => $3) < created_at + make_interval(secs => $5) AS again
  FROM carryout.export_notifications
  WHERE id = $1
)
UPDATE carryout.export_notifications AS mine
SET state = CASE WHEN plan.again THEN 'pending' ELSE 'failed' END,
    next_attempt_at = now() + make_interval(secs => $3),
    lease_expires_at = NULL,
    data_started_at = NULL,
    ended_at = CASE WHEN plan.again THEN NULL ELSE now() END,
    last_error = $4
FROM plan
WHERE mine.id = plan.id AND mine.state = 'sending' AND mine.attempts = $2
RETURNING mine.*

-- name: end_notification
UPDATE carryout.export_notifications
SET state = $3, lease_expires_at = NULL, ended_at = now(), last_error = $4
WHERE id = $1 AND state = 'sending' AND attempts = $2
RETURNING *

-- name: end_lost_notifications
WITH lost AS (
  SELECT id
  FROM carryout.export_notifications
  WHERE state = 'sending' AND lease_expires_at <= now()
    AND (data_started_at IS NOT NULL OR created_at <= now() - make_interval(secs => $1))
  FOR UPDATE SKIP LOCKED
)
UPDATE carryout.export_notifications AS mine
SET state = CASE WHEN mine.data_started_at IS NULL THEN 'failed' ELSE 'ambiguous' END,
    lease_expires_at = NULL, ended_at = now(), last_error = 'its worker was lost'
FROM lost
WHERE mine.id = lost.id
RETURNING mine.*
