-- name: insert_audit_event
INSERT INTO carryout.export_audit
  (actor_type, actor, action, user_id, job_id, format, records, outcome, ip, user_agent, request_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
