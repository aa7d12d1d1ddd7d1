-- The pace of an estimate is that of the last exports a worker made: those made at once, however many, aren't in the way.

DROP INDEX carryout.recent_exports;
CREATE INDEX recent_queued_exports ON carryout.export_jobs (completed_at DESC) WHERE status = 'completed' AND queued;
