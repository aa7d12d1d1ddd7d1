-- squawk-ignore-file require-concurrent-index-creation
-- The reason: an index of unended exports alone: writes wait for one read of the table.
-- Whether an export's user is still in the application: workers look from time to time, and end what has no user.

ALTER TABLE carryout.export_jobs
  ADD COLUMN subject_checked_at timestamptz, -- null before the first look, infinity after the last
  ADD COLUMN subject_missing boolean NOT NULL DEFAULT false; -- as the last look found

CREATE INDEX subjects_to_check ON carryout.export_jobs (coalesce(subject_checked_at, created_at))
  WHERE status IN ('pending', 'processing') OR (status = 'completed' AND file_deleted_at IS NULL);
