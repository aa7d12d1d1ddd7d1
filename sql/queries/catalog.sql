-- name: list_tables
-- A partitioned table stands for its partitions. What an extension made is not the application's.
SELECT c.oid, n.nspname AS schema, c.relname AS name,
    quote_ident(n.nspname) AS quoted_schema, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS quoted,
    nullif(pg_partition_root(c.oid), c.oid) AS root
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p')
    AND c.relpersistence <> 't'
    AND n.nspname !~ '^pg_'
    AND n.nspname NOT IN ('information_schema', 'carryout')
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY n.nspname, c.relname

-- name: list_columns
-- Of a domain, the type below it.
SELECT a.attrelid AS table, a.attnum AS number, a.attname AS name, quote_ident(a.attname) AS quoted,
    base.typname AS type, base.typtype = 'e' AS is_enum, a.attnotnull AS not_null
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_type base ON base.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum

-- name: list_foreign_keys
SELECT conrelid AS table, conkey AS numbers, confrelid AS target, confkey AS target_numbers
FROM pg_constraint
WHERE contype = 'f' AND conparentid = 0 AND conrelid = ANY ($1::oid[]) AND confrelid = ANY ($1::oid[])
ORDER BY conrelid, conkey, confrelid

-- name: list_keys
-- The primary key first, then the shortest.
SELECT indrelid AS table, indkey[0:indnkeyatts - 1]::int[] AS numbers
FROM pg_index
WHERE indisunique AND indisvalid AND indpred IS NULL AND indexprs IS NULL AND indrelid = ANY ($1::oid[])
ORDER BY indrelid, indisprimary DESC, indnkeyatts, indkey[0:indnkeyatts - 1]::int[]

-- name: list_columns_of_dataset
-- The columns that the temporary function carryout_dataset names anywhere in its body.
SELECT quote_ident(n.nspname) AS schema, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS relation,
    quote_ident(a.attname) AS column
FROM pg_proc p
JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
JOIN pg_class c ON c.oid = d.refobjid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.pronamespace = pg_my_temp_schema() AND p.proname = 'carryout_dataset'

-- name: find_role
SELECT quote_ident($1::text) AS quoted, EXISTS (SELECT FROM pg_roles WHERE rolname = $1::text) AS exists

-- name: has_row_security
SELECT EXISTS (SELECT FROM unnest($1::text[]) AS given (name) JOIN pg_class c ON c.oid = name::regclass AND c.relrowsecurity)

-- name: list_schemas_open_to_all
-- Where PUBLIC may make tables and functions: by default `public` up to PostgreSQL 14, and whatever came from there.
SELECT quote_ident(nspname) AS schema FROM pg_namespace WHERE has_schema_privilege('public', oid, 'CREATE')
ORDER BY nspname
