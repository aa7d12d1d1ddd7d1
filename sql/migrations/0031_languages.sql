-- The languages that a request's token and its Accept-Language header name, if there is a catalogue of theirs: that of
-- the export's mails and pages. The profile in the application's database stands between the two.

ALTER TABLE carryout.export_jobs
  ADD COLUMN claimed_language text,
  ADD COLUMN accepted_language text;
