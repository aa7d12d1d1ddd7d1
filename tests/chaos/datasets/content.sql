-- The sample's, with a file for some rows: half of them are in the store.
-- title: Content
-- time: created_at
-- file: file from uploads
SELECT id, title, body, created_at,
  CASE WHEN body ~ '^[0-9]*0$' THEN 'uploads/' || user_id::text || '/' || right(body, 2) || '.bin' END AS file
FROM public.content
WHERE user_id = $1
ORDER BY created_at, id
