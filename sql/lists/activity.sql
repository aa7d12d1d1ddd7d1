-- title: Activity
-- about: The users' actions, by user and time
-- time: occurred_at
-- param: user_id uuid
SELECT user_id, occurred_at, id, kind
FROM public.activity
WHERE $1::uuid IS NULL OR user_id = $1
ORDER BY user_id, occurred_at, id
