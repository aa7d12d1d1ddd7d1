-- A dataset is one SELECT of exactly the columns that may leave: never *, never a secret.
-- $1 is the user's id. ORDER BY ends in a unique key; an index in that order spares the sort.
-- title: Content
-- about: The texts that you wrote
-- purpose: To keep your texts for you
-- kept: Until you delete them, or close your account
-- recipients: No one outside this service
-- source: You
-- time: created_at
-- table: public.content
-- key user_id: the user the row belongs to
SELECT id, title, body, created_at
FROM public.content
WHERE user_id = $1
ORDER BY created_at, id
