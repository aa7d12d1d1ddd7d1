-- A dataset whose rows have files, and lead to rows of another section. The store `uploads` is one of CARRYOUT_FILE_STORES.
-- title: Pictures
-- about: The pictures that you have uploaded
-- purpose: To show them where you want
-- kept: Until you delete them, or close your account
-- recipients: No one outside this service
-- source: You
-- file: key from uploads as name
-- link: content_id to content.id
-- time: created_at
-- table: public.pictures
-- key user_id: the user the row belongs to
SELECT id, name, key, content_id, created_at
FROM public.pictures
WHERE user_id = $1
ORDER BY created_at, id
