-- How far the attachments of an export are, and how many of them its file has. Null while it isn't known that there are
-- any: for earlier exports, for other formats than packages, and for packages without attachments.

ALTER TABLE carryout.export_jobs
  ADD COLUMN bytes_done bigint NOT NULL DEFAULT 0,
  ADD COLUMN bytes_total bigint,
  ADD COLUMN files_included integer,
  ADD COLUMN files_missing integer;
