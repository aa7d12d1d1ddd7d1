-- A dataset is one SELECT of exactly the columns that may leave: never *, never a secret.
-- $1 is the user's id. ORDER BY ends in a unique key; an index in that order spares the sort.
-- title: Activity
-- about: Your sign-ins and other actions, with their addresses
-- purpose: To show you your sign-ins, and to notice those of others
-- kept: Until you close your account
-- recipients: No one outside this service
-- source: Your use of the service
-- time: occurred_at
-- table: public.activity
-- key user_id: the user the row belongs to
SELECT id, kind, ip, detail, occurred_at
FROM public.activity
WHERE user_id = $1
ORDER BY occurred_at, id
