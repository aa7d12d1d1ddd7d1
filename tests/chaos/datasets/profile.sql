-- A dataset is one SELECT of exactly the columns that may leave: never *, never a secret.
-- $1 is the user's id. This one is the profile: one row, with at least `id` and `email`.
-- title: Profile
-- about: Your name and address
-- purpose: To know you and to write to you
-- kept: Until you close your account
-- recipients: No one outside this service
-- source: You
-- users: public.users
-- table: public.users
-- deny internal_id: the back office's own number
-- deny password_hash: a secret
-- deny updated_at: says nothing about the user
-- deny is_active: the back office's own mark
-- deny is_admin: the back office's own mark
SELECT id, email, name, created_at
FROM public.users
WHERE id = $1
