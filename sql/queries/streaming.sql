-- These run where names are looked up as the operators' SQL expects it. So all of ours are qualified, operators too, and
-- there is no IN or IS DISTINCT FROM, whose operators can't be.

-- name: use_portable_formats
SET LOCAL TimeZone = 'UTC';
SET LOCAL DateStyle = 'ISO, YMD';
SET LOCAL IntervalStyle = 'iso_8601';
SET LOCAL extra_float_digits = 1;
SET LOCAL bytea_output = 'hex';
SET LOCAL standard_conforming_strings = on;
SET LOCAL lc_monetary = 'C';
SET LOCAL jit = off;
-- A query that a row security policy would filter fails instead.
SET LOCAL row_security = off;
SET LOCAL statement_timeout = 0;
-- Else a GIN index gives a random part of the rows.
SET LOCAL gin_fuzzy_search_limit = 0;
-- Known since PostgreSQL 17.
SELECT pg_catalog.set_config('transaction_timeout', '0', true)
WHERE pg_catalog.current_setting('server_version_num')::int OPERATOR(pg_catalog.>=) 170000;
SET LOCAL idle_in_transaction_session_timeout = '5min'

-- name: plan_for_arguments
-- From here on. A generic plan of an operators' list, for any e-mail address and for none, would read the whole table.
SELECT pg_catalog.set_config('plan_cache_mode', 'force_custom_plan', true)

-- name: find_changes_from
-- The time from which a row may be dated that the next snapshot doesn't see: its transaction is open now, or begins
-- later. $1 is the overlap in seconds for what this role can't see, $2 a margin in any case. Autovacuum, which has no
-- user, adds no rows. Sessions are looked at before prepared transactions, so that one which is being prepared is seen as
-- one or the other. A prepared one began an unknown time earlier.
WITH others AS (
  SELECT other.xact_start,
    other.query OPERATOR(pg_catalog.=) '<insufficient privilege>' OR other.state OPERATOR(pg_catalog.=) 'disabled'
      AS hidden
  FROM pg_catalog.pg_stat_activity AS other
  WHERE other.datname OPERATOR(pg_catalog.=) pg_catalog.current_database() AND other.usesysid IS NOT NULL
    AND other.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()
), prepared AS (
  SELECT pg_catalog.min(waiting.prepared) AS since
  FROM pg_catalog.pg_prepared_xacts AS waiting
  WHERE (SELECT pg_catalog.count(*) FROM others) OPERATOR(pg_catalog.>=) 0::bigint
    AND waiting.database OPERATOR(pg_catalog.=) pg_catalog.current_database()
), known AS (
  SELECT
    CASE WHEN pg_catalog.pg_is_in_recovery()
      THEN COALESCE(pg_catalog.pg_last_xact_replay_timestamp(), pg_catalog.statement_timestamp())
      ELSE pg_catalog.statement_timestamp()
    END AS now,
    pg_catalog.make_interval(secs => $1::pg_catalog.float8) AS overlap
)
SELECT LEAST(
  CASE WHEN pg_catalog.pg_is_in_recovery() OR EXISTS (SELECT FROM others WHERE others.hidden)
    THEN known.now OPERATOR(pg_catalog.-) known.overlap
    ELSE known.now
  END,
  (SELECT pg_catalog.min(others.xact_start) FROM others),
  prepared.since OPERATOR(pg_catalog.-) known.overlap
) OPERATOR(pg_catalog.-) pg_catalog.make_interval(secs => $2::pg_catalog.float8)
FROM known, prepared

-- name: find_replay
-- Whether this server is a standby, when the last commit that it has replayed was made, and how old its data is: 0 if it
-- has replayed all that its primary sends it. After a start without a commit, the last checkpoint is known.
SELECT pg_catalog.pg_is_in_recovery() AS in_recovery, replay.replayed_at,
  CASE
    WHEN pg_catalog.pg_last_wal_receive_lsn() OPERATOR(pg_catalog.=) pg_catalog.pg_last_wal_replay_lsn()
      AND EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver) THEN 0::pg_catalog.float8
    ELSE pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) replay.replayed_at)
  END AS lag_seconds
FROM (
  SELECT COALESCE(pg_catalog.pg_last_xact_replay_timestamp(), checkpoint_time) AS replayed_at
  FROM pg_catalog.pg_control_checkpoint()
) AS replay

-- name: find_snapshot_time
-- On a standby, $1: when the last commit was made that it had replayed before the snapshot.
SELECT (pg_catalog.to_json(COALESCE($1::pg_catalog.timestamptz, pg_catalog.transaction_timestamp()) AT TIME ZONE 'UTC')
    OPERATOR(pg_catalog.#>>) '{}')
  OPERATOR(pg_catalog.||) 'Z'::pg_catalog.text

-- name: try_stream_lock
SELECT pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended(
  'carryout:stream:'::pg_catalog.text OPERATOR(pg_catalog.||) $1::pg_catalog.text, 0::bigint
))

-- name: is_stream_lock_foreign
-- False while another session of this role has the lock. Locks of other roles don't count, because any role may take any.
-- A holder that has just let go counts as one that has the lock: this session doesn't have it.
SELECT COALESCE(pg_catalog.bool_and(holder.usename OPERATOR(pg_catalog.<>) session_user), false)
FROM pg_catalog.pg_locks AS held
JOIN pg_catalog.pg_stat_activity AS holder ON holder.pid OPERATOR(pg_catalog.=) held.pid
WHERE held.locktype OPERATOR(pg_catalog.=) 'advisory' AND held.granted
  AND held.objsubid OPERATOR(pg_catalog.=) 1::smallint
  AND held.database OPERATOR(pg_catalog.=) holder.datid
  AND ((held.classid::bigint OPERATOR(pg_catalog.<<) 32) OPERATOR(pg_catalog.|) held.objid::bigint)
      OPERATOR(pg_catalog.=) pg_catalog.hashtextextended(
        'carryout:stream:'::pg_catalog.text OPERATOR(pg_catalog.||) $1::pg_catalog.text, 0::bigint
      )

-- name: has_rewritten_table
-- True if a relation that this transaction has locked differs from the snapshot: it is new, has another file or another
-- name, or joined or left a partitioned table; or a table that inherited from it is gone. Rows that the same transaction
-- moved are invisible.
-- Catalogs may be 0 there: their files are listed elsewhere. Refreshed materialized views show their rows to all.
-- An index may be new or go by another name. The caches give the values that are compared with the snapshot's catalogs.
WITH locked AS (
  SELECT held.relation, known.oid, known.relnamespace, known.relname, known.relkind, known.relfilenode,
         known.relispartition, COALESCE(pg_catalog.pg_partition_root(held.relation), held.relation) AS root
  FROM pg_catalog.pg_locks AS held
  LEFT JOIN pg_catalog.pg_class AS known ON known.oid OPERATOR(pg_catalog.=) held.relation
  WHERE held.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
    AND held.locktype OPERATOR(pg_catalog.=) 'relation'
)
SELECT EXISTS (
  SELECT
  FROM locked
  LEFT JOIN pg_catalog.pg_namespace AS schema ON schema.oid OPERATOR(pg_catalog.=) locked.relnamespace
  WHERE locked.oid IS NULL
    OR (locked.relkind OPERATOR(pg_catalog.=) 'r'
        AND locked.relfilenode OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
        AND (locked.relfilenode OPERATOR(pg_catalog.=) pg_catalog.pg_relation_filenode(locked.relation)) IS NOT TRUE)
    OR (locked.relkind OPERATOR(pg_catalog.<>) 'i' AND locked.relkind OPERATOR(pg_catalog.<>) 'I'
        AND ((locked.root OPERATOR(pg_catalog.<>) locked.relation) OPERATOR(pg_catalog.<>) locked.relispartition
             OR (pg_catalog.format('%I.%I', schema.nspname, locked.relname) OPERATOR(pg_catalog.=)
                 (pg_catalog.pg_identify_object('pg_catalog.pg_class'::pg_catalog.regclass, locked.relation, 0)).identity
                ) IS NOT TRUE))
) OR EXISTS (
  SELECT
  FROM locked
  JOIN pg_catalog.pg_inherits AS part ON part.inhparent OPERATOR(pg_catalog.=) locked.relation
  WHERE (locked.relkind OPERATOR(pg_catalog.=) 'p'
         AND COALESCE(pg_catalog.pg_partition_root(part.inhrelid), part.inhrelid) OPERATOR(pg_catalog.=) part.inhrelid)
    OR (pg_catalog.pg_identify_object('pg_catalog.pg_class'::pg_catalog.regclass, part.inhrelid, 0)).identity IS NULL
)
