-- Requests of one user take turns by a row: only a role with a right to it can lock it, but any role an advisory lock.

CREATE TABLE carryout.turns (
  slot bigint PRIMARY KEY -- the last ten bits of a hash of the user's id
);
INSERT INTO carryout.turns (slot) SELECT generate_series(0, 1023);

-- Whatever the search path of the session that changes the trail.
ALTER FUNCTION carryout.refuse_audit_change() SET search_path = pg_catalog, pg_temp;
