-- A list is one SELECT of exactly the columns that may leave, of many people: never *, never a secret.
-- Each `-- param:` is a query parameter: $1 is the first, null if it isn't given.
-- ORDER BY names columns of the list that are never null, and ends in a unique key: downloads are resumed by it.
-- title: Users
-- about: All users, by their id
-- time: updated_at
-- param: email text
-- param: active boolean
SELECT id, email, name, created_at, updated_at, is_active
FROM public.users
WHERE ($1::text IS NULL OR email = $1) AND ($2::boolean IS NULL OR is_active = $2)
ORDER BY id
