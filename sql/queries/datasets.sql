-- name: list_types
-- For a cast, with -1 for no modifier: bit would be one bit. To name a type of the application's may take a right.
SELECT t.typname AS name, t.typcategory::text AS category,
  CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN format_type(t.oid, -1) END AS cast_name
FROM unnest($1::oid[]) WITH ORDINALITY AS wanted (oid, position)
JOIN pg_type t ON t.oid = wanted.oid
ORDER BY wanted.position

-- name: reveal_plans
SET LOCAL plan_cache_mode = force_generic_plan;
SET LOCAL enable_indexscan = off;
SET LOCAL enable_indexonlyscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_nestloop = on;
SET LOCAL enable_partition_pruning = off;
SET LOCAL enable_partitionwise_join = off;
SET LOCAL enable_partitionwise_aggregate = off;
SET LOCAL max_parallel_workers_per_gather = 0;
-- What policies would keep rows back from is refused.
SET LOCAL row_security = off

-- name: list_unique_keys
-- Of a partition, those of the whole partitioned table; if $3, no others. A role that knows the table through a view
-- may not name it (as a regclass), but look it up.
SELECT array_agg(a.attname::text) AS columns
FROM pg_namespace n
JOIN pg_class scanned ON scanned.relnamespace = n.oid
JOIN pg_index i ON i.indrelid = coalesce(pg_partition_root(scanned.oid), CASE WHEN NOT $3 THEN scanned.oid END)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
WHERE n.nspname = $1::text AND scanned.relname = $2::text
    AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY i.indexrelid
HAVING bool_and(a.attnotnull)

-- name: find_unknown_column
-- The first of the given columns that its table doesn't have, if any.
SELECT given.schema || '.' || given.name AS table, given.attribute AS column
FROM unnest($1::text[], $2::text[], $3::text[]) AS given (schema, name, attribute)
WHERE NOT EXISTS (
    SELECT
    FROM pg_namespace n
    JOIN pg_class c ON c.relnamespace = n.oid
    JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE n.nspname = given.schema AND c.relname = given.name AND a.attname = given.attribute
)
ORDER BY 1, 2
LIMIT 1

-- name: find_volatile_function
-- The first of the given names that only volatile functions have, if any.
SELECT p.proname::text
FROM pg_proc p
WHERE p.proname = ANY ($1::text[])
GROUP BY p.proname
HAVING bool_and(p.provolatile = 'v')
ORDER BY p.proname
LIMIT 1

-- name: list_readable_columns
-- What this session's role may read of the tables, and of the partitioned tables they are parts of.
SELECT DISTINCT n.nspname::text AS schema, c.relname::text AS table, a.attname::text AS column
FROM unnest($1::text[], $2::text[]) AS given (schema, name)
JOIN pg_namespace given_schema ON given_schema.nspname = given.schema
JOIN pg_class scanned ON scanned.relnamespace = given_schema.oid AND scanned.relname = given.name
JOIN pg_class c ON c.oid IN (scanned.oid, pg_partition_root(scanned.oid))
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE has_column_privilege(c.oid, a.attnum, 'SELECT')
ORDER BY 1, 2, 3
