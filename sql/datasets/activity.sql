-- A dataset is one SELECT of exactly the columns that may leave: never *, never a secret.
-- $1 is the user's id. ORDER BY ends in a unique key; an index in that order spares the sort.
-- table: public.activity
-- key user_id: the user the row belongs to
SELECT id, kind, ip, detail, occurred_at
FROM public.activity
WHERE user_id = $1
ORDER BY occurred_at, id
