-- name: insert_audit_event
INSERT INTO carryout.export_audit
  (actor_type, actor, action, user_id, job_id, format, records, outcome, ip, user_agent, request_id, subject)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)

-- name: insert_stream_start
-- The event that a user's stream begins, unless the user must wait for that: the name in braces stands for
-- find_stream_wait, whose answer this gives, too.
WITH wait (seconds) AS (
  {wait}
), event AS (
  INSERT INTO carryout.export_audit
    (user_id, actor_type, actor, action, format, records, ip, user_agent, request_id)
  SELECT $1::carryout.user_id, $3, $4, $5, $6, $7::bigint, $8::inet, $9, $10
  WHERE NOT EXISTS (SELECT FROM wait)
)
SELECT seconds FROM wait

-- name: record_change
-- An UPDATE of exports, or a SELECT, with an event for each row; and with a mail to the user of one that was queued, if
-- it has a Message-ID. The names in braces stand for that, and for parameters after its own.
WITH changed AS (
  {change}
), events AS (
  INSERT INTO carryout.export_audit
    (actor_type, actor, action, user_id, job_id, format, records, outcome, ip, user_agent, request_id)
  SELECT {actor_type}::text, {actor}::text, {action}::text, user_id, id, format, record_count, {outcome}::text,
    {ip}::inet, {user_agent}::text, {request_id}::text
  FROM changed
), mails AS (
  INSERT INTO carryout.export_notifications (job_id, kind, message_id)
  SELECT id, {kind}::text, {message_id}::text FROM changed WHERE queued AND {message_id}::text IS NOT NULL
)
SELECT * FROM changed

-- name: list_audit_events
SELECT * FROM (
  SELECT id, occurred_at, actor_type, actor, action, subject, user_id::text, job_id::text, format, records, outcome,
         host(ip) AS ip, user_agent, request_id
  FROM carryout.export_audit
  WHERE ($1::carryout.user_id IS NULL OR user_id = $1)
    AND ($2::uuid IS NULL OR job_id = $2)
    AND ($3::text IS NULL OR action = $3)
    AND ($4::float8 IS NULL OR occurred_at >= now() - make_interval(secs => $4))
    AND ($6::text IS NULL OR request_id = $6)
  ORDER BY id DESC
  LIMIT $5
) AS latest
ORDER BY id

-- name: list_downloads
-- In the order of the index by job: sorted by id alone, it may be searched for from the end of the whole trail. And
-- between two bounds: with one, half the trail seems to be asked for, and where downloads are rare all of it is read.
SELECT id, occurred_at, actor_type, actor, action, subject, user_id::text, job_id::text, format, records, outcome,
       host(ip) AS ip, user_agent, request_id
FROM carryout.export_audit
WHERE job_id BETWEEN $1 AND $1 AND (job_id, id) < ($1, coalesce($2::bigint, 9223372036854775807))
  AND action = 'export:downloaded'
ORDER BY export_audit.job_id DESC, id DESC
LIMIT $3

-- name: find_stream_wait
-- Seconds until the user may begin another stream: when the oldest of the last $2 of this hour is an hour old.
SELECT ceil(extract(epoch FROM occurred_at + interval '1 hour' - now()))::int
FROM carryout.export_audit
WHERE user_id = $1 AND occurred_at > now() - interval '1 hour' AND action = 'export:stream_started'
ORDER BY occurred_at DESC
OFFSET $2::int - 1 LIMIT 1
