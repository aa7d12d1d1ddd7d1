-- Retention: exports and events of the trail are deleted a batch at a time by functions of the schema's owner, which the
-- serving role may call. They delete nothing younger than 30 days, and each batch leaves an event: a serving role in the
-- wrong hands can't hide its recent deeds. `account` is that of the operator who asked, or null.

CREATE OR REPLACE FUNCTION carryout.refuse_audit_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- Any role may set this, but none that isn't the owner has the right to delete.
  IF TG_OP = 'DELETE' AND current_setting('carryout.purging', true) = 'on' THEN
    RETURN NULL;
  END IF;
  RAISE EXCEPTION 'carryout.export_audit is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE FUNCTION carryout.record_purge(what text, older_than interval, purged integer, account text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO carryout.export_audit (actor_type, action, subject, records, outcome, user_agent)
  SELECT 'system', 'retention:purged', what, purged, 'before ' || to_char(
    (now() - older_than) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), account
  WHERE purged > 0
$$;
REVOKE ALL ON FUNCTION carryout.record_purge FROM PUBLIC;

CREATE FUNCTION carryout.check_retention(older_than interval) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF older_than IS NULL OR older_than < interval '30 days' THEN
    RAISE EXCEPTION 'Nothing younger than 30 days is purged' USING ERRCODE = 'invalid_parameter_value';
  END IF;
END
$$;
REVOKE ALL ON FUNCTION carryout.check_retention FROM PUBLIC;

-- The mails of an export go with it. One whose file isn't deleted yet stays, however old.
CREATE FUNCTION carryout.purge_exports(older_than interval, most integer, account text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  purged integer;
BEGIN
  PERFORM carryout.check_retention(older_than);
  DELETE FROM carryout.export_jobs WHERE id IN (
    SELECT id FROM carryout.export_jobs
    WHERE completed_at < now() - older_than AND (status = 'failed' OR file_deleted_at IS NOT NULL)
    LIMIT most FOR UPDATE SKIP LOCKED
  );
  GET DIAGNOSTICS purged = ROW_COUNT;
  PERFORM carryout.record_purge('exports', older_than, purged, account);
  RETURN purged;
END
$$;
REVOKE ALL ON FUNCTION carryout.purge_exports FROM PUBLIC;

CREATE FUNCTION carryout.purge_events(older_than interval, most integer, account text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  purged integer;
BEGIN
  PERFORM carryout.check_retention(older_than);
  PERFORM set_config('carryout.purging', 'on', true);
  DELETE FROM carryout.export_audit WHERE id IN (
    SELECT id FROM carryout.export_audit
    WHERE occurred_at < now() - older_than
    ORDER BY occurred_at
    LIMIT most FOR UPDATE SKIP LOCKED
  );
  GET DIAGNOSTICS purged = ROW_COUNT;
  PERFORM set_config('carryout.purging', '', true);
  PERFORM carryout.record_purge('events', older_than, purged, account);
  RETURN purged;
END
$$;
REVOKE ALL ON FUNCTION carryout.purge_events FROM PUBLIC;
