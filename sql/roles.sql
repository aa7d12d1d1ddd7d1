-- The two roles of Carryout's own schema: carryout_owner makes and changes it, in `carryout migrate` alone;
-- carryout_service is what `serve`, `worker` and the operators' commands connect as, and owns nothing. It adds to the
-- audit trail and can't change it. It deletes by the owner's functions for retention alone, which spare the last 30 days.
-- To be run by a superuser, in the database of CARRYOUT_DATABASE_URL, before the first `carryout migrate`; again as often
-- as you like. Then give both a password, with psql's \password.

-- The database's owner may have set these for every session in it (ALTER DATABASE ... SET). In their search path, their
-- operators would come before PostgreSQL's, and run as you; their role would create, and so be able to use, these two.
SET search_path = pg_catalog, pg_temp;
SET ROLE NONE;

DO $$
DECLARE
  role name;
  other name;
BEGIN
  IF pg_catalog.to_regrole('carryout_owner') IS NULL THEN
    CREATE ROLE carryout_owner LOGIN;
  END IF;
  IF pg_catalog.to_regrole('carryout_service') IS NULL THEN
    CREATE ROLE carryout_service LOGIN;
  END IF;
  -- A role with CREATEROLE may have made them first, and be a member.
  SELECT ours.rolname, theirs.rolname INTO role, other
  FROM pg_catalog.pg_auth_members
  JOIN pg_catalog.pg_roles AS ours ON ours.oid = roleid
  JOIN pg_catalog.pg_roles AS theirs ON theirs.oid = member
  WHERE ours.rolname IN ('carryout_owner'::name, 'carryout_service'::name)
    AND NOT theirs.rolsuper AND theirs.rolname <> current_user
  LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'Role % can do what % can: revoke its membership, or drop % if you did not create it',
      pg_catalog.to_json(other::text), role, role;
  END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS carryout AUTHORIZATION carryout_owner;
