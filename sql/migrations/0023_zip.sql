-- squawk-ignore-file ban-drop-constraint
-- The reason: a wider one takes its place in the same statement.
-- Packages. Rows that are there satisfied a stricter check, so reading them all under a lock would prove nothing.

ALTER TABLE carryout.export_jobs
  DROP CONSTRAINT export_jobs_format_check,
  ADD CONSTRAINT export_jobs_format_check CHECK (format IN ('csv', 'json', 'ndjson', 'xlsx', 'zip')) NOT VALID;
