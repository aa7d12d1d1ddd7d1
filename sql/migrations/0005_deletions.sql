-- When a file's deletion is tried next: one that somebody is deleting, or that the storage keeps, isn't due meanwhile.

ALTER TABLE carryout.export_jobs ADD COLUMN delete_after timestamptz; -- null until the first try

-- By bucket first: files in an earlier one stay for ever.
CREATE INDEX files_due ON carryout.export_jobs (split_part(file_url, '/', 3), greatest(expires_at, delete_after))
  WHERE status = 'completed' AND file_deleted_at IS NULL;
