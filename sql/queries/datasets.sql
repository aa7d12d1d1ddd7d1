-- name: list_types
-- For a cast; qualified, no name has a modifier by default, as bit would. To name a type of the application's may take
-- a right.
SELECT t.typname AS name, t.typcategory::text AS category,
  CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN format('pg_catalog.%I', t.typname) END AS cast_name
FROM unnest($1::oid[]) WITH ORDINALITY AS wanted (oid, position)
JOIN pg_type t ON t.oid = wanted.oid
ORDER BY wanted.position

-- name: reveal_plans
SET LOCAL quote_all_identifiers = off;
SET LOCAL standard_conforming_strings = on;
SET LOCAL enable_seqscan = on;
SET LOCAL enable_sort = on;
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
-- A query that a row security policy would filter fails instead.
SET LOCAL row_security = off

-- name: list_unique_keys
-- The keys of the tables ($1 schemas, $2 names). A partition has those of the whole partitioned table; with $3, only
-- these.
-- A role that reads the table through a view may lack the right to name it as a regclass, so the catalog is searched.
-- Nulls are told apart by no key, but for one with NULLS NOT DISTINCT (PostgreSQL 15): no column of a materialized view
-- can be NOT NULL.
SELECT given.schema, given.name, given.is_partition, array_agg(a.attname::text) AS columns
FROM unnest($1::text[], $2::text[], $3::bool[]) AS given (schema, name, is_partition)
JOIN pg_namespace n ON n.nspname = given.schema
JOIN pg_class scanned ON scanned.relnamespace = n.oid AND scanned.relname = given.name
JOIN pg_index i
  ON i.indrelid = coalesce(pg_partition_root(scanned.oid), CASE WHEN NOT given.is_partition THEN scanned.oid END)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY given.schema, given.name, given.is_partition, i.indexrelid
HAVING bool_and(a.attnotnull) OR bool_or((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean)

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

-- name: find_key_fault
-- Why rows can't be told apart by the order of a column ($1 schema, $2 table, $3 column) alone, if they can't. $4 is
-- the order's collation, null for the default.
SELECT CASE
  WHEN a.attnotnull IS NOT TRUE THEN 'may be null'
  WHEN coalesce(co.collname, 'default') <> coalesce($4::text, 'default') THEN 'has another collation than the order'
  WHEN co.collisdeterministic IS FALSE THEN 'has a collation that takes unlike texts for the same'
END
FROM (VALUES ($1::text, $2::text, $3::text)) AS given (schema, name, attribute)
LEFT JOIN pg_namespace n ON n.nspname = given.schema
LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = given.name
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = given.attribute
LEFT JOIN pg_collation co ON co.oid = a.attcollation

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
-- The columns that this session's role may read, of the tables and of the partitioned tables that they are parts of.
SELECT DISTINCT n.nspname::text AS schema, c.relname::text AS table, a.attname::text AS column
FROM unnest($1::text[], $2::text[]) AS given (schema, name)
JOIN pg_namespace given_schema ON given_schema.nspname = given.schema
JOIN pg_class scanned ON scanned.relnamespace = given_schema.oid AND scanned.relname = given.name
JOIN pg_class c ON c.oid IN (scanned.oid, pg_partition_root(scanned.oid))
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE has_column_privilege(c.oid, a.attnum, 'SELECT')
ORDER BY 1, 2, 3

-- name: reveal_query_trees
SET LOCAL client_min_messages = log;
SET LOCAL debug_pretty_print = off;
SET LOCAL debug_print_rewritten = on

-- name: hide_query_trees
SET LOCAL debug_print_rewritten = off

-- name: list_exact_functions
-- The numbers of what keeps any two ids apart. Casts to a narrower integer are among `values`: they fail rather than
-- take two for the same.
SELECT
  ARRAY(
    SELECT p.oid
    FROM pg_proc p
    WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname ~ '^(text|uuid_?|numeric_?|int(2|4|8|24|28|42|48|82|84))(eq|ne)$'
  ) AS comparisons,
  ARRAY['arraycontains(anyarray,anyarray)', 'arraycontained(anyarray,anyarray)', 'arrayoverlap(anyarray,anyarray)']
    ::regprocedure[]::oid[] AS containments,
  ARRAY(
    SELECT p.oid
    FROM pg_proc p
    WHERE p.pronamespace = 'pg_catalog'::regnamespace
      AND (
        p.proname IN (
          'min', 'max', 'array_agg', 'unnest', 'first_value', 'last_value', 'nth_value', 'lag', 'lead',
          'json_array_elements_text', 'jsonb_array_elements_text'
        )
        OR EXISTS (
          SELECT
          FROM pg_cast c
          WHERE c.castfunc = p.oid AND c.castsource = ANY ('{int2,int4,int8}'::regtype[])
            AND c.casttarget = ANY ('{int2,int4,int8,numeric}'::regtype[])
        )
      )
  ) AS values,
  ARRAY['json_object_field_text(json,text)', 'jsonb_object_field_text(jsonb,text)', 'json_object_field(json,text)',
    'jsonb_object_field(jsonb,text)']::regprocedure[]::oid[] AS members,
  ARRAY['text(character)']::regprocedure[]::oid[] AS trims,
  ARRAY(
    SELECT o.oid
    FROM pg_operator o
    WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprname = '=' AND o.oprleft = o.oprright
      AND o.oprleft = ANY ('{text,uuid,int2,int4,int8,numeric}'::regtype[])
  ) AS group_operators,
  '{text[],varchar[],uuid[],int2[],int4[],int8[],numeric[]}'::regtype[]::oid[] AS arrays,
  '{uuid,int2,int4,int8}'::regtype[]::oid[] AS printed_types,
  '{text,varchar}'::regtype[]::oid[] AS text_types

-- name: describe_expression
SELECT CASE $1::text
  WHEN 'function' THEN (SELECT proname || '()' FROM pg_proc WHERE oid = $2::oid)
  WHEN 'operator' THEN (SELECT 'the operator ' || oprname || ' of ' || format_type(oprleft, NULL) FROM pg_operator WHERE oid = $2::oid)
  WHEN 'cast' THEN 'a cast to ' || format_type($2::oid, NULL)
  ELSE 'an expression'
END

-- name: find_generated_column
-- The first of the given columns ($1 tables, $2 numbers) that PostgreSQL makes of others, if any.
SELECT n.nspname || '.' || c.relname || '.' || a.attname
FROM unnest($1::oid[], $2::int[]) AS given (relation, number)
JOIN pg_class c ON c.oid = given.relation
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = given.number
WHERE a.attgenerated <> ''
ORDER BY 1
LIMIT 1

-- name: find_loose_collation
-- The first of the given collations ($1) that takes unlike texts for the same, and one of the given columns ($2 tables,
-- $3 numbers) that has it, if any.
SELECT co.collname::text AS collation, (
    SELECT n.nspname || '.' || c.relname || '.' || a.attname
    FROM unnest($2::oid[], $3::int[]) AS given (relation, number)
    JOIN pg_class c ON c.oid = given.relation
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = given.number
    WHERE a.attcollation = co.oid
    ORDER BY 1
    LIMIT 1
  ) AS column
FROM pg_collation co
WHERE co.oid = ANY ($1::oid[]) AND NOT co.collisdeterministic
ORDER BY co.collname
LIMIT 1
