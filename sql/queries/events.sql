-- name: note_receiver
-- At each start of a worker: events are written while there is a receiver. Another receiver isn't gone.
UPDATE carryout.webhook
SET wanted = $1::bytea IS NOT NULL, receiver = $1, gone_at = CASE WHEN receiver = $1 THEN gone_at END

-- name: is_receiver_gone
SELECT gone_at IS NOT NULL FROM carryout.webhook

-- name: note_gone
UPDATE carryout.webhook SET gone_at = coalesce(gone_at, now()) WHERE receiver = $1

-- name: forget_gone
UPDATE carryout.webhook SET gone_at = NULL

-- name: resend_events
-- Those of an export that have ended, sent ones among them, and those that wait; or all that failed in the last $2
-- seconds, and all that wait. Attempts go on counting: the number is the fencing number.
UPDATE carryout.export_events
SET state = 'pending', next_attempt_at = now(), ended_at = NULL, resent_at = now(), earlier_attempts = attempts
WHERE ($1::uuid IS NULL OR job_id = $1)
  AND (($1 IS NOT NULL AND state = 'sent') OR state = 'failed' OR (state = 'pending' AND next_attempt_at > now()))
  AND ($2::float8 IS NULL OR state = 'pending' OR ended_at >= now() - make_interval(secs => $2))
RETURNING *

-- name: list_latest_events
SELECT event.webhook_id, event.job_id, job.user_id::text, event.kind, event.state, event.attempts, event.created_at,
       CASE WHEN event.state = 'pending' THEN event.next_attempt_at END AS next_attempt_at, event.ended_at,
       event.last_error AS last_answer
FROM carryout.export_events AS event
JOIN carryout.export_jobs AS job ON job.id = event.job_id
WHERE ($1::uuid IS NULL OR event.job_id = $1)
  AND ($2::text IS NULL OR event.state = $2)
  AND ($3::float8 IS NULL OR event.created_at >= now() - make_interval(secs => $3))
ORDER BY event.id DESC
LIMIT $4
