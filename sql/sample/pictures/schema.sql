-- Pictures of the sample's users, for the demo: their files are in object storage, under the keys that the rows name.
-- A picture may belong to a text.

CREATE TABLE IF NOT EXISTS public.pictures (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES public.users (id) ON DELETE CASCADE,
    name       text NOT NULL,
    key        text NOT NULL,
    content_id bigint REFERENCES public.content (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX IF NOT EXISTS pictures_by_user ON public.pictures (user_id, created_at, id);
