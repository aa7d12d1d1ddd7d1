-- The part of the data that an export was asked for: no section means all, no bound means from the beginning or to the
-- end. An older release, which knows no selection, inserts rows without one.

ALTER TABLE carryout.export_jobs
  ADD COLUMN sections text[] NOT NULL DEFAULT '{}',
  ADD COLUMN range_start timestamptz,
  ADD COLUMN range_end timestamptz,
  ADD COLUMN since_job_id uuid,         -- the earlier export that range_start was derived from; no foreign key: it may go
  ADD COLUMN changes_from timestamptz,  -- what commits after this export's snapshot is dated from here on
  ADD COLUMN schema_digest bytea,       -- of the JSON Schema that the document has
  ADD COLUMN bom boolean NOT NULL DEFAULT false,
  ADD COLUMN big_as_text boolean NOT NULL DEFAULT false;

-- Rows that are there have no range, so reading them all under a lock would prove nothing.
ALTER TABLE carryout.export_jobs ADD CONSTRAINT range_has_length CHECK (range_start < range_end) NOT VALID;
