-- name: insert_audit_event
INSERT INTO carryout.export_audit
  (actor_type, actor, action, user_id, job_id, format, records, outcome, ip, user_agent, request_id, subject)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)

-- name: list_audit_events
SELECT * FROM (
  SELECT id, occurred_at, actor_type, actor, action, subject, user_id::text, job_id::text, format, records, outcome,
         host(ip) AS ip, user_agent, request_id
  FROM carryout.export_audit
  WHERE ($1::carryout.user_id IS NULL OR user_id = $1)
    AND ($2::uuid IS NULL OR job_id = $2)
    AND ($3::text IS NULL OR action = $3)
    AND ($4::float8 IS NULL OR occurred_at >= now() - make_interval(secs => $4))
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
