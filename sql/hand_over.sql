-- Give a schema that was made before there were two roles to carryout_owner. To be run by a superuser, after roles.sql,
-- and only if its owner until now is a role of yours.

BEGIN;
ALTER SCHEMA carryout OWNER TO carryout_owner;
ALTER DOMAIN carryout.user_id OWNER TO carryout_owner;
ALTER FUNCTION carryout.refuse_audit_change() OWNER TO carryout_owner;
ALTER TABLE carryout.schema_migrations OWNER TO carryout_owner;
ALTER TABLE carryout.export_jobs OWNER TO carryout_owner;
ALTER TABLE carryout.export_audit OWNER TO carryout_owner;
ALTER TABLE carryout.export_notifications OWNER TO carryout_owner;
ALTER TABLE carryout.api_keys OWNER TO carryout_owner;
ALTER TABLE carryout.feature_flags OWNER TO carryout_owner;
ALTER TABLE carryout.turns OWNER TO carryout_owner;
ALTER TABLE IF EXISTS carryout.sweep_lease OWNER TO carryout_owner;
DO $$
BEGIN
  IF to_regproc('carryout.find_admission') IS NOT NULL THEN
    ALTER FUNCTION carryout.find_admission OWNER TO carryout_owner;
  END IF;
END
$$;
DO $$
BEGIN
  IF to_regproc('carryout.purge_events') IS NOT NULL THEN
    ALTER FUNCTION carryout.record_purge OWNER TO carryout_owner;
    ALTER FUNCTION carryout.check_retention OWNER TO carryout_owner;
    ALTER FUNCTION carryout.purge_exports OWNER TO carryout_owner;
    ALTER FUNCTION carryout.purge_events OWNER TO carryout_owner;
  END IF;
END
$$;
ALTER TABLE IF EXISTS carryout.installation OWNER TO carryout_owner;
ALTER TABLE IF EXISTS carryout.webhook OWNER TO carryout_owner;
ALTER TABLE IF EXISTS carryout.export_events OWNER TO carryout_owner;
DO $$
BEGIN
  IF to_regproc('carryout.emit_event') IS NOT NULL THEN
    ALTER FUNCTION carryout.emit_event OWNER TO carryout_owner;
  END IF;
END
$$;
COMMIT;
