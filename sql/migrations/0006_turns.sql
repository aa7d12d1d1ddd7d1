-- What requests of one user take turns by: a row is locked by roles with a right to it alone, an advisory lock by anybody.

CREATE TABLE carryout.turns (
  slot bigint PRIMARY KEY -- the last ten bits of a hash of the user's id
);
INSERT INTO carryout.turns (slot) SELECT generate_series(0, 1023);

-- Whatever the search path of the session that changes the trail.
ALTER FUNCTION carryout.refuse_audit_change() SET search_path = pg_catalog, pg_temp;
