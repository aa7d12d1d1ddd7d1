-- A dataset is one SELECT of exactly the columns that may leave: never *, never a secret.
-- $1 is the user's id. This one is the profile: one row, with at least `id` and `email`.
SELECT id, email, name, created_at
FROM public.users
WHERE id = $1
