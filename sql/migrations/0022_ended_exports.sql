-- squawk-ignore-file require-concurrent-index-creation
-- The reason: writes wait for one read of the table.

-- A CSV for machines: its text cells are as they are, also those that a spreadsheet would run. An older release, which
-- knows the guard alone, inserts rows with it.
ALTER TABLE carryout.export_jobs ADD COLUMN unguarded boolean NOT NULL DEFAULT false;

-- Exports without a file, whose user may be erased later: the next user with the same id must not see them. The last look
-- at an export that expires is noted as infinity; together with a missing user it means that the row is kept from users.
CREATE INDEX ended_subjects_to_check ON carryout.export_jobs (coalesce(nullif(subject_checked_at, 'infinity'), created_at))
  WHERE (status = 'failed' OR (status = 'completed' AND file_deleted_at IS NOT NULL))
    AND NOT (subject_missing AND coalesce(subject_checked_at = 'infinity', false));
