-- squawk-ignore-file require-concurrent-index-creation
-- The reason: indexes of kept files alone: writes wait for one read of the table.
-- The storage and the table are compared both ways: a worker marks rows whose file is missing, and counts objects of this
-- installation that no row knows.

CREATE TABLE carryout.installation (
  only_row boolean PRIMARY KEY CHECK (only_row),
  mark text NOT NULL CHECK (mark ~ '^[0-9a-f]{12}$') -- in the key of each object, apart from other installations' objects
);
INSERT INTO carryout.installation (only_row, mark)
VALUES (true, right(replace(gen_random_uuid()::text, '-', ''), 12));

ALTER TABLE carryout.export_jobs ADD COLUMN file_missing_at timestamptz; -- null while the storage has the file
ALTER TABLE carryout.sweep_lease ADD COLUMN unknown_objects bigint NOT NULL DEFAULT 0; -- as the last sweep found

CREATE INDEX kept_files_by_id ON carryout.export_jobs (id) WHERE status = 'completed' AND file_deleted_at IS NULL;
CREATE INDEX missing_files ON carryout.export_jobs (expires_at) WHERE file_missing_at IS NOT NULL AND file_deleted_at IS NULL;
