-- name: find_foreign_object
-- The first thing in the schema, or the schema itself, that isn't $1's. All that DROP SCHEMA would drop depends on the
-- schema, of any kind. PostgreSQL records no owner for its first role's things, nor for kinds that superusers alone make.
-- A publication is a right of the owner, or of a superuser, to use.
WITH ours AS (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'carryout'::name),
made (step, classid, objid) AS (
  SELECT 1, 'pg_catalog.pg_namespace'::pg_catalog.regclass::oid, oid FROM ours
  UNION ALL
  SELECT CASE d.classid WHEN 'pg_catalog.pg_class'::pg_catalog.regclass::oid THEN 2 ELSE 3 END, d.classid, d.objid
  FROM pg_catalog.pg_depend AS d
  JOIN ours ON d.refobjid = ours.oid
  WHERE d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass::oid
    AND d.classid IS DISTINCT FROM pg_catalog.to_regclass('pg_catalog.pg_publication_namespace')::oid
    AND NOT EXISTS (  -- what comes and goes with another thing: its row type, its sequence, its constructors
      SELECT FROM pg_catalog.pg_depend AS i
      WHERE i.classid = d.classid AND i.objid = d.objid AND i.deptype = 'i'::"char"
    )
), owned AS (
  SELECT made.step, described.type || ' ' || described.identity AS found, coalesce(o.refobjid, 10::oid) AS owner
  FROM made
  CROSS JOIN LATERAL pg_catalog.pg_identify_object(made.classid, made.objid, 0) AS described
  LEFT JOIN pg_catalog.pg_shdepend AS o ON o.classid = made.classid AND o.objid = made.objid AND o.deptype = 'o'::"char"
    AND o.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
)
SELECT found, pg_catalog.pg_get_userbyid(owner)::text AS owner FROM owned
WHERE found IS NOT NULL AND owner IS DISTINCT FROM (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1::name)
ORDER BY step, found
LIMIT 1

-- name: find_foreign_change
-- The first change of a table that no migration makes: what a table's former owner, or a role with a right on it, can
-- leave there; and that a trigger of the audit trail is off, its guard or its events. `own` is all that is in the schema, and all that goes with it:
-- defaults, constraints, indexes, statistics. None of it needs anything from elsewhere but PostgreSQL itself.
WITH RECURSIVE tables AS (
  SELECT oid, relname, relrowsecurity, 'table carryout.' || pg_catalog.quote_ident(relname::text) AS table
  FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.to_regnamespace('carryout')::oid
), guards AS (
  SELECT t.oid, t.tgrelid, t.tgname, t.tgenabled
  FROM pg_catalog.pg_trigger AS t
  JOIN tables ON tables.oid = t.tgrelid
  JOIN (
    VALUES ('append_only'::name, 'carryout.refuse_audit_change()'), ('emit_event'::name, 'carryout.emit_event()')
  ) AS made (name, function) ON t.tgname = made.name AND t.tgfoid = pg_catalog.to_regprocedure(made.function)::oid
  WHERE tables.relname = 'export_audit'::name
), own AS (
  SELECT d.classid, d.objid
  FROM pg_catalog.pg_depend AS d
  WHERE d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass::oid
    AND d.refobjid = pg_catalog.to_regnamespace('carryout')::oid
    AND d.classid IS DISTINCT FROM pg_catalog.to_regclass('pg_catalog.pg_publication_namespace')::oid
  UNION
  SELECT d.classid, d.objid
  FROM own
  JOIN pg_catalog.pg_depend AS d ON d.refclassid = own.classid AND d.refobjid = own.objid
  WHERE d.deptype IN ('a'::"char", 'i'::"char")
    AND d.classid <> 'pg_catalog.pg_publication_rel'::pg_catalog.regclass::oid
), changes (step, found) AS (
  SELECT 1, tables.table || ' has a trigger ' || pg_catalog.quote_ident(t.tgname::text)
  FROM pg_catalog.pg_trigger AS t JOIN tables ON tables.oid = t.tgrelid
  WHERE NOT t.tgisinternal AND t.oid NOT IN (SELECT oid FROM guards)
  UNION ALL
  SELECT 2, tables.table || ' has a rule ' || pg_catalog.quote_ident(rulename::text)
  FROM pg_catalog.pg_rewrite JOIN tables ON tables.oid = ev_class
  UNION ALL
  SELECT 3, tables.table || ' has a policy ' || pg_catalog.quote_ident(polname::text)
  FROM pg_catalog.pg_policy JOIN tables ON tables.oid = polrelid
  UNION ALL
  SELECT 4, tables.table || ' has row-level security' FROM tables WHERE relrowsecurity
  UNION ALL
  SELECT 5, tables.table || ' inherits, or is inherited from'
  FROM pg_catalog.pg_inherits JOIN tables ON tables.oid IN (inhparent, inhrelid)
  UNION ALL
  SELECT 6, tables.table || ' is referred to by ' || identity
  FROM pg_catalog.pg_constraint
  JOIN tables ON tables.oid = confrelid
  CROSS JOIN LATERAL pg_catalog.pg_identify_object('pg_catalog.pg_class'::pg_catalog.regclass::oid, conrelid, 0)
  WHERE contype = 'f'::"char" AND conrelid NOT IN (SELECT oid FROM tables)
  UNION ALL
  SELECT 7, using_it.type || ' ' || using_it.identity || ' uses ' || used.type || ' ' || used.identity
  FROM own
  JOIN pg_catalog.pg_depend AS d ON d.classid = own.classid AND d.objid = own.objid
  CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, d.objsubid) AS using_it
  CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.refclassid, d.refobjid, 0) AS used
  WHERE d.refobjid >= 16384::oid  -- what isn't PostgreSQL's own
    AND (d.refclassid, d.refobjid) NOT IN (SELECT classid, objid FROM own)
    AND used.identity <> 'carryout'
  UNION ALL
  -- A domain's constraint runs wherever the type is used.
  SELECT 8, 'type carryout.' || pg_catalog.quote_ident(y.typname::text) || ' has a constraint or a default'
  FROM pg_catalog.pg_type AS y
  WHERE y.typnamespace = pg_catalog.to_regnamespace('carryout')::oid
    AND (y.typdefault IS NOT NULL OR EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE contypid = y.oid))
  UNION ALL
  -- No serving role needs these; a right may stem from ALTER DEFAULT PRIVILEGES, or from a former owner.
  SELECT 9, given.object || ' gives ' || coalesce(pg_catalog.quote_ident(r.rolname::text), 'every role')
    || ' the right ' || given.privilege_type
  FROM (
    SELECT tables.table AS object, tables.relname, c.relowner AS owner, acl.grantee, acl.privilege_type
    FROM pg_catalog.pg_class AS c JOIN tables USING (oid) CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS acl
    UNION ALL
    SELECT 'schema carryout', NULL, n.nspowner, acl.grantee, acl.privilege_type
    FROM pg_catalog.pg_namespace AS n CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) AS acl
    WHERE n.nspname = 'carryout'::name
  ) AS given
  LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = given.grantee
  WHERE given.grantee <> given.owner AND (
    given.grantee = 0::oid
    OR given.privilege_type IN ('CREATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN')
    OR given.privilege_type = 'UPDATE' AND given.relname IN ('export_audit'::name, 'schema_migrations'::name)
    OR given.privilege_type = 'INSERT' AND given.relname = 'schema_migrations'::name)
  UNION ALL
  -- The second came with a later migration than its table.
  SELECT 10, tables.table || ' lacks its trigger ' || made.name || ', or has it disabled'
  FROM tables CROSS JOIN (VALUES ('append_only'::name, true), (
    'emit_event'::name, pg_catalog.to_regproc('carryout.emit_event') IS NOT NULL
  )) AS made (name, migrated)
  WHERE relname = 'export_audit'::name AND made.migrated
    AND NOT EXISTS (SELECT FROM guards WHERE tgname = made.name AND tgenabled IN ('O'::"char", 'A'::"char"))
)
SELECT found FROM changes ORDER BY step, found LIMIT 1

-- name: has_role_and_database
SELECT pg_catalog.current_database() = $2::name AND EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1::name)

-- name: grant_serving_role
-- All that the code does, and nothing that changes the trail but the functions of retention, which leave what is younger
-- than 30 days: the guard stays its owner's to lift, and an event's number and time are the database's. Earlier releases granted INSERT on the whole table.
DO $$
DECLARE
  role text := pg_catalog.quote_ident(pg_catalog.current_setting('carryout.serving_role'));
  rights text;
BEGIN
  IF pg_catalog.current_setting('carryout.serving_role') <> current_user THEN
    EXECUTE pg_catalog.concat('REVOKE INSERT ON carryout.export_audit FROM ', role);
  END IF;
  FOREACH rights IN ARRAY ARRAY[
    'USAGE ON SCHEMA carryout',
    'USAGE ON TYPE carryout.user_id',
    'EXECUTE ON FUNCTION carryout.find_admission, carryout.purge_exports, carryout.purge_events',
    'SELECT ON carryout.schema_migrations, carryout.installation',
    'SELECT, UPDATE ON carryout.turns, carryout.sweep_lease, carryout.webhook',
    'SELECT, INSERT, UPDATE ON carryout.export_jobs, carryout.export_notifications, carryout.export_events',
    'SELECT, INSERT, UPDATE ON carryout.api_keys, carryout.feature_flags',
    'SELECT, INSERT (actor_type, actor, action, user_id, job_id, format, records, outcome, ip, user_agent, request_id,
      subject) ON carryout.export_audit'
  ]
  LOOP
    EXECUTE pg_catalog.concat('GRANT ', rights, ' TO ', role);
  END LOOP;
END
$$

-- name: may_change_trail
-- As its owner, or one who may become that, a superuser among them; or by a trigger that drops rows.
SELECT pg_catalog.pg_has_role(relowner, 'MEMBER') OR pg_catalog.has_table_privilege(oid, 'TRIGGER')
FROM pg_catalog.pg_class
WHERE oid = pg_catalog.to_regclass('carryout.export_audit')::oid
