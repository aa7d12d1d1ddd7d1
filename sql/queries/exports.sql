-- name: lock_user
-- A row lock, because any role may hold any advisory lock. Users who share a slot wait for each other briefly.
SELECT FROM carryout.turns WHERE slot = hashtextextended($1::text, 0) & 1023 FOR NO KEY UPDATE

-- name: find_admission
SELECT (known).*, expired, is_earlier, rate_wait, accepted_wait, kept_files_wait
FROM carryout.find_admission($1, $2, $3, $4, $5, false)

-- name: admit_export
-- Like find_admission, in the user's turn; if nothing refuses the request, the export is inserted, with its events.
-- `is_new` is false, and nothing is found, only if an export runs that was inserted out of turn.
WITH found AS MATERIALIZED (
  SELECT * FROM carryout.find_admission($1, $2, $3, $4, $5, true)
), forgotten AS (
  UPDATE carryout.export_jobs SET idempotency_key = NULL
  WHERE user_id = $1 AND idempotency_key = $2 AND created_at <= now() - interval '24 hours'
  RETURNING id
), created AS (
  INSERT INTO carryout.export_jobs
    (user_id, idempotency_key, format, queued, estimated_records, request_id, traceparent,
     enqueued_at, status, attempt, started_at, lease_expires_at, spec_digest,
     sections, range_start, range_end, since_job_id, bom, big_as_text, unguarded,
     requested_by, reason, received_at, due_at, claimed_language, accepted_language)
  SELECT $1, $2, $6, $7, $8, $9, $10, now(),
    CASE WHEN $7 THEN 'pending' ELSE 'processing' END,
    CASE WHEN $7 THEN 0 ELSE 1 END,
    CASE WHEN $7 THEN NULL ELSE now() END,
    CASE WHEN $7 THEN NULL ELSE now() + make_interval(secs => $11) END,
    $12, $13, $14, $15, $16, $17, $18, $19, $24, $25, desk.received_at,
    (desk.received_at AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC', $27, $28
  FROM found, (SELECT CASE WHEN $24::text IS NOT NULL THEN least($26::timestamptz, now()) END) AS desk (received_at)
  WHERE (known).id IS NULL AND num_nonnulls(rate_wait, accepted_wait, kept_files_wait) = 0
    AND (SELECT count(*) FROM forgotten) >= 0  -- the key is free by then
  ON CONFLICT (user_id) WHERE status IN ('pending', 'processing') DO NOTHING
  RETURNING export_jobs AS job
), events AS (
  INSERT INTO carryout.export_audit
    (actor_type, actor, action, user_id, job_id, format, outcome, ip, user_agent, request_id)
  SELECT event.actor_type, event.actor, event.action, (job).user_id, (job).id, (job).format, event.outcome, event.ip,
    event.user_agent, event.request_id
  FROM created, (
    VALUES (1, $20::text, $21::text, 'export:requested', $25::text, $22::inet, $23::text, $9::text),
           (2, 'system', NULL, 'export:started', NULL, NULL, NULL, NULL)
  ) AS event (step, actor_type, actor, action, outcome, ip, user_agent, request_id)
  WHERE step = 1 OR NOT (job).queued
  ORDER BY step
)
SELECT (coalesce(created.job, found.known)).*, (created.job).id IS NOT NULL AS is_new,
  coalesce(expired, false) AS expired, is_earlier, rate_wait, accepted_wait, kept_files_wait
FROM found LEFT JOIN created ON true

-- name: find_export
SELECT *, coalesce(expires_at <= now(), false) AS expired,
  subject_missing AND subject_checked_at = 'infinity' AS disowned,
  extract(epoch FROM expires_at - now())::float AS seconds_left
FROM carryout.export_jobs WHERE id = $1

-- name: find_export_by_key
SELECT * FROM carryout.export_jobs
WHERE user_id = $1 AND idempotency_key = $2 AND created_at > now() - interval '24 hours'

-- name: find_request_by_key
SELECT *, coalesce(expires_at <= now(), false) AS expired FROM carryout.export_jobs
WHERE idempotency_key = $1 AND requested_by IS NOT NULL AND created_at > now() - interval '24 hours'
ORDER BY created_at
LIMIT 1

-- name: list_requests
SELECT *, coalesce(expires_at <= now(), false) AS expired
FROM carryout.export_jobs
WHERE requested_by IS NOT NULL
  AND ($1::uuid IS NULL
       OR (created_at, id) < (
         SELECT created_at, id FROM carryout.export_jobs WHERE id = $1 AND requested_by IS NOT NULL))
ORDER BY created_at DESC, id DESC
LIMIT $2

-- name: answer_requests
-- The request of the export $1, and earlier ones of its user for the same part of the data.
UPDATE carryout.export_jobs AS asked
SET answered_at = clock_timestamp()
FROM carryout.export_jobs AS answer
WHERE answer.id = $1 AND asked.user_id = answer.user_id
  AND asked.due_at IS NOT NULL AND asked.answered_at IS NULL AND asked.created_at <= answer.created_at
  AND (asked.sections, asked.range_start, asked.range_end)
      IS NOT DISTINCT FROM (answer.sections, answer.range_start, answer.range_end)

-- name: list_exports
SELECT *, coalesce(expires_at <= now(), false) AS expired
FROM carryout.export_jobs
WHERE user_id = $1
  AND (subject_missing AND subject_checked_at = 'infinity') IS NOT TRUE
  AND ($2::uuid IS NULL
       OR (created_at, id) < (SELECT created_at, id FROM carryout.export_jobs WHERE id = $2 AND user_id = $1))
ORDER BY created_at DESC, id DESC
LIMIT $3

-- name: list_latest_exports
-- Without a user it reads the whole table, a third of a second for a million exports: no index is worth its upkeep.
WITH latest AS (
  SELECT *
  FROM carryout.export_jobs
  WHERE ($1::carryout.user_id IS NULL OR user_id = $1)
    AND ($2::text IS NULL OR status = $2)
    AND ($3::float8 IS NULL OR created_at >= now() - make_interval(secs => $3))
  ORDER BY created_at DESC, id DESC
  LIMIT $4
)
SELECT latest.id, latest.user_id::text, latest.status, latest.format, latest.record_count, latest.size_bytes,
       latest.created_at, latest.completed_at, latest.expires_at, latest.file_deleted_at,
       mail.state AS mail, latest.error_message, latest.error_cause, mail.last_error AS mail_cause
FROM latest
LEFT JOIN carryout.export_notifications AS mail ON mail.job_id = latest.id
ORDER BY latest.created_at DESC, latest.id DESC

-- name: show_export
-- With each column that holds a value; texts for ids and digests.
SELECT jsonb_strip_nulls(
  to_jsonb(job) || jsonb_build_object(
    'sha256', encode(sha256, 'hex'), 'spec_digest', encode(spec_digest, 'hex'),
    'schema_digest', encode(schema_digest, 'hex'),
    'mails', (
      SELECT jsonb_agg(jsonb_strip_nulls(to_jsonb(mail) - 'job_id') ORDER BY mail.id)
      FROM carryout.export_notifications AS mail WHERE mail.job_id = job.id
    ),
    'webhooks', (
      SELECT jsonb_agg(jsonb_strip_nulls(to_jsonb(event) - 'job_id' - 'data') ORDER BY event.id)
      FROM carryout.export_events AS event WHERE event.job_id = job.id
    )
  )
)::text
FROM carryout.export_jobs AS job
WHERE id = $1

-- name: list_unended_exports
SELECT * FROM carryout.export_jobs
WHERE user_id = $1
  AND (status IN ('pending', 'processing') OR (status = 'completed' AND expires_at > now()))

-- name: claim_export
-- A lost lease counts as a failure, so that an export which kills its worker can't do so for ever.
UPDATE carryout.export_jobs
SET status = 'processing',
    queued = true,
    attempt = attempt + 1,
    failures = failures + (status = 'processing')::int,
    records_done = 0,
    bytes_done = 0,
    bytes_total = NULL,
    started_at = now(),
    lease_expires_at = now() + make_interval(secs => $2)
WHERE id = $1
  AND ((status = 'pending' AND run_after <= now())
       OR (status = 'processing' AND lease_expires_at <= now() AND failures + 1 < $3))
RETURNING *

-- name: renew_lease
-- An attempt that has just completed is still ours.
UPDATE carryout.export_jobs
SET lease_expires_at = CASE status WHEN 'processing' THEN now() + make_interval(secs => $3) END,
    records_done = greatest(records_done, $4),
    bytes_done = greatest(bytes_done, $5),
    bytes_total = coalesce($6, bytes_total)
WHERE id = $1 AND status IN ('processing', 'completed') AND attempt = $2
RETURNING id

-- name: complete_export
UPDATE carryout.export_jobs
SET status = 'completed', lease_expires_at = NULL, completed_at = now(),
    record_count = $3, records_done = $3, file_url = $4, size_bytes = $5, sha256 = $6,
    expires_at = now() + make_interval(secs => $7), changes_from = $8, schema_digest = $9,
    bytes_done = coalesce($10::bigint, 0), bytes_total = $10::bigint, files_included = $11, files_missing = $12
WHERE id = $1 AND status = 'processing' AND attempt = $2
RETURNING *

-- name: retry_export
UPDATE carryout.export_jobs
SET status = 'pending', lease_expires_at = NULL, enqueued_at = NULL, failures = failures + $5,
    run_after = now() + make_interval(secs => $3), error_cause = $4
WHERE id = $1 AND status = 'processing' AND attempt = $2
RETURNING *

-- name: note_unqueued
UPDATE carryout.export_jobs SET enqueued_at = NULL WHERE id = $1 AND status = 'pending' AND attempt = $2

-- name: hand_back_export
UPDATE carryout.export_jobs
SET status = 'pending', lease_expires_at = NULL, enqueued_at = NULL
WHERE id = $1 AND status = 'processing' AND attempt = $2
RETURNING *

-- name: fail_export
UPDATE carryout.export_jobs
SET status = 'failed', lease_expires_at = NULL, completed_at = now(), failures = failures + 1,
    error_message = $3, error_cause = $4
WHERE id = $1 AND status = 'processing' AND attempt = $2
RETURNING *

-- name: cancel_export
UPDATE carryout.export_jobs
SET status = 'failed', lease_expires_at = NULL, completed_at = now(), error_message = $2
WHERE id = $1 AND status IN ('pending', 'processing')
RETURNING *

-- name: end_link
-- clock_timestamp(), not now(): a transaction that began earlier but commits later would end the link a second time.
UPDATE carryout.export_jobs SET expires_at = clock_timestamp()
WHERE id = $1 AND status = 'completed' AND expires_at > clock_timestamp()
RETURNING *

-- name: mark_file_deleted
UPDATE carryout.export_jobs SET file_deleted_at = now()
WHERE id = $1 AND status = 'completed' AND file_deleted_at IS NULL
RETURNING *

-- name: claim_link_denial
UPDATE carryout.export_jobs SET link_denied_at = now()
WHERE id = $1 AND (link_denied_at IS NULL OR link_denied_at <= now() - interval '1 minute')
RETURNING *

-- name: claim_user_denial
UPDATE carryout.export_jobs SET user_denied_at = now()
WHERE id = $1 AND (user_denied_at IS NULL OR user_denied_at <= now() - interval '1 minute')
RETURNING *

-- name: estimate_completion
-- The median time per record of recent exports of about this size, times the records of this one; the time per byte of
-- recent attachments, times the bytes that are left of this one's; and the overall time per record of the recent ones,
-- times the records ahead of it. A small export takes a hundred times as long per record as a large one.
WITH recent AS (
  SELECT extract(epoch FROM completed_at - started_at) AS seconds, greatest(record_count, 1) AS records,
    coalesce(bytes_total, 0) AS bytes
  FROM carryout.export_jobs
  WHERE status = 'completed' AND queued
  ORDER BY completed_at DESC
  LIMIT 50
), alike AS (
  SELECT recent.seconds / recent.records AS seconds_per_record
  FROM recent
  JOIN carryout.export_jobs AS mine ON mine.id = $1
  WHERE recent.bytes = 0
  ORDER BY abs(ln(recent.records) - ln(mine.estimated_records))
  LIMIT 5
), pace AS (
  SELECT
    coalesce((SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds_per_record) FROM alike), 0.00005) AS own,
    coalesce((SELECT sum(seconds) / sum(records) FROM recent WHERE bytes = 0), 0.00005) AS overall,
    coalesce((SELECT sum(seconds) / sum(bytes) FROM recent WHERE bytes > 0), 0.00000005) AS per_byte
), ahead AS (
  SELECT coalesce(sum(greatest(other.estimated_records - other.records_done, 0)), 0) AS records
  FROM carryout.export_jobs AS mine
  JOIN carryout.export_jobs AS other
    ON other.status IN ('pending', 'processing') AND other.created_at < mine.created_at
  WHERE mine.id = $1
)
SELECT greatest(mine.run_after, now())
  + make_interval(secs => 1 + pace.overall * ahead.records
                            + pace.own * greatest(mine.estimated_records - mine.records_done, 0)
                            + pace.per_byte * greatest(coalesce(mine.bytes_total, 0) - mine.bytes_done, 0))
FROM carryout.export_jobs AS mine, pace, ahead
WHERE mine.id = $1
