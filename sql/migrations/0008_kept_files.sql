-- squawk-ignore-file require-concurrent-index-creation
-- The reason: writes wait for one read of the table.
-- The files that a user keeps are counted before each export.

CREATE INDEX kept_files ON carryout.export_jobs (user_id, expires_at) WHERE status = 'completed';
