-- name: insert_notification
INSERT INTO carryout.export_notifications (job_id, kind, message_id) VALUES ($1, $2, $3)
RETURNING *

-- name: skip_notifications
UPDATE carryout.export_notifications
SET state = 'skipped', ended_at = pg_catalog.now(), last_error = $2
WHERE job_id = $1 AND state = 'pending'
RETURNING *

-- name: resend_notifications
-- Those that wait for their next attempt, and those that ended in one of the states $2: with $3, in so many seconds.
-- Attempts go on counting: the number is the fencing number.
UPDATE carryout.export_notifications
SET state = 'pending', next_attempt_at = pg_catalog.now(), data_started_at = NULL, ended_at = NULL, refused = false,
    resent_at = pg_catalog.now(), earlier_attempts = attempts
WHERE ($1::uuid IS NULL OR job_id = $1)
  AND (state = ANY($2::text[]) OR (state = 'pending' AND next_attempt_at > pg_catalog.now()))
  AND ($3::float8 IS NULL OR ended_at >= pg_catalog.now() - pg_catalog.make_interval(secs => $3)
       OR state = 'pending')
RETURNING *

-- name: list_latest_notifications
SELECT mail.job_id, job.user_id::text, job.created_at AS export_created_at, mail.kind, mail.state, mail.attempts,
       mail.created_at, CASE WHEN mail.state = 'pending' THEN mail.next_attempt_at END AS next_attempt_at,
       mail.ended_at, mail.refused AND mail.ended_at IS NULL AS refused, mail.last_error AS last_reply
FROM carryout.export_notifications AS mail
JOIN carryout.export_jobs AS job ON job.id = mail.job_id
WHERE ($1::carryout.user_id IS NULL OR job.user_id = $1)
  AND ($2::text IS NULL OR mail.state = $2)
  AND ($3::float8 IS NULL OR mail.created_at >= pg_catalog.now() - pg_catalog.make_interval(secs => $3))
ORDER BY mail.id DESC
LIMIT $4
