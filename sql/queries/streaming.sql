-- name: use_portable_formats
SET LOCAL TimeZone = 'UTC';
SET LOCAL DateStyle = 'ISO, YMD';
SET LOCAL IntervalStyle = 'iso_8601';
SET LOCAL extra_float_digits = 1;
SET LOCAL bytea_output = 'hex';
SET LOCAL standard_conforming_strings = on;
SET LOCAL lc_monetary = 'C';
SET LOCAL jit = off;
-- Of the operators' lists, a plan for any e-mail address, and for none, would read the whole table.
SET LOCAL plan_cache_mode = force_custom_plan;
-- Where policies would keep rows back, a query fails.
SET LOCAL row_security = off;
SET LOCAL statement_timeout = 0;
-- Known since PostgreSQL 17.
SELECT set_config('transaction_timeout', '0', true) WHERE current_setting('server_version_num')::int >= 170000;
SET LOCAL idle_in_transaction_session_timeout = '5min'

-- name: find_snapshot_time
SELECT (to_json(transaction_timestamp() AT TIME ZONE 'UTC') #>> '{}') || 'Z'

-- name: try_stream_lock
SELECT pg_try_advisory_xact_lock(hashtextextended('carryout:stream:' || $1::text, 0))

-- name: has_rewritten_table
-- Whether a relation that this transaction has locked isn't what the snapshot knows: it is new, a table with another
-- file, goes by another name, or joined or left a partitioned table. Rows that the same transaction moved are invisible.
-- Catalogs may be 0 there: their files are listed elsewhere. Refreshed materialized views show their rows to everybody.
-- An index may be new or go by another name. What is compared with the snapshot's catalogs is read from the caches.
WITH locked AS (
  SELECT relation, c.*, coalesce(pg_partition_root(relation), relation) <> relation AS is_partition
  FROM pg_locks
  LEFT JOIN pg_class c ON c.oid = relation
  WHERE pid = pg_backend_pid() AND locktype = 'relation'
)
SELECT EXISTS (
  SELECT
  FROM locked
  LEFT JOIN pg_namespace n ON n.oid = relnamespace
  WHERE locked.oid IS NULL
    OR (relkind = 'r' AND relfilenode <> 0 AND relfilenode IS DISTINCT FROM pg_relation_filenode(relation))
    OR (relkind NOT IN ('i', 'I')
        AND (is_partition <> relispartition
             OR format('%I.%I', nspname, relname)
                IS DISTINCT FROM (pg_identify_object('pg_class'::regclass, relation, 0)).identity))
) OR EXISTS (
  SELECT
  FROM locked
  JOIN pg_inherits ON inhparent = relation
  WHERE relkind = 'p' AND coalesce(pg_partition_root(inhrelid), inhrelid) = inhrelid
)
