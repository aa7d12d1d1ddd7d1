-- name: list_tables
-- A partitioned table stands for its partitions. Views show other tables' data. The application doesn't own what an
-- extension made.
SELECT c.oid, n.nspname AS schema, c.relname AS name,
    nullif(pg_partition_root(c.oid), c.oid) AS root,
    ARRAY(SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid = c.oid ORDER BY i.inhseqno) AS parents,
    coalesce(obj_description(c.oid, 'pg_class'), '') AS comment,
    has_schema_privilege(n.oid, 'USAGE') AND has_any_column_privilege(c.oid, 'SELECT') AS is_readable
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f')
    AND c.relpersistence <> 't'
    AND n.nspname !~ '^pg_'
    AND n.nspname NOT IN ('information_schema', 'carryout')
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY n.nspname, c.relname

-- name: list_columns
-- A domain is resolved to its base type. An array of an enum is one, too.
SELECT a.attrelid AS table, a.attnum AS number, a.attname AS name,
    base.typname AS type, coalesce(element.typtype, base.typtype) = 'e' AS is_enum, a.attnotnull AS not_null,
    CASE WHEN a.atttypmod > 4 AND base.typname IN ('varchar', 'bpchar') THEN a.atttypmod - 4 ELSE 0 END AS length
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_type base ON base.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
LEFT JOIN pg_type element ON element.oid = base.typelem AND base.typcategory = 'A'
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

-- name: list_indexed_columns
SELECT DISTINCT indrelid AS table, indkey[0]::int AS number
FROM pg_index
WHERE indisvalid AND indkey[0] > 0 AND indrelid = ANY ($1::oid[])

-- name: list_columns_of_datasets
-- The columns that the temporary functions carryout_dataset_N name anywhere in their bodies.
SELECT DISTINCT n.nspname AS schema, c.relname AS relation, a.attname AS column
FROM pg_proc p
JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
JOIN pg_class c ON c.oid = d.refobjid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.pronamespace = pg_my_temp_schema() AND starts_with(p.proname, 'carryout_dataset_')

-- name: find_role
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1::text)

-- name: list_members
-- Roles that can do what the role $1 can, but superusers.
SELECT theirs.rolname AS name
FROM pg_auth_members
JOIN pg_roles ours ON ours.oid = roleid
JOIN pg_roles theirs ON theirs.oid = member
WHERE ours.rolname = $1::text AND NOT theirs.rolsuper
ORDER BY theirs.rolname

-- name: has_row_security
-- $1 and $2 are the schemas and names of the relations, one each.
SELECT EXISTS (
    SELECT
    FROM unnest($1::text[], $2::text[]) AS given (schema, name)
    JOIN pg_namespace n ON n.nspname = given.schema
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = given.name AND c.relrowsecurity
)

-- name: list_schemas_open_to_all
-- Schemas in which PUBLIC may create tables and functions: `public`, by default up to PostgreSQL 14 and in databases
-- upgraded from there.
SELECT nspname AS schema FROM pg_namespace WHERE has_schema_privilege('public', oid, 'CREATE')
ORDER BY nspname
