-- A list of all users, for operators: one SELECT of exactly the columns that may leave, never *, never a secret.
-- $1 is an e-mail address, or null for all. $2 is the id of the last row the caller already has, or null.
-- The first column is `id`, an integer; the rows are in its order.
SELECT internal_id AS id, email, name
FROM public.users
WHERE ($1::text IS NULL OR email = $1) AND ($2::bigint IS NULL OR internal_id > $2)
ORDER BY internal_id
