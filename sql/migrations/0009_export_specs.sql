-- The digest of everything that a request wants: an idempotency key answers for that, and for nothing else.

ALTER TABLE carryout.export_jobs ADD COLUMN spec_digest bytea; -- null for exports from before
