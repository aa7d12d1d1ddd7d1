-- The sample application: people, what they did, and what they wrote.
-- It stands for the operator's own tables; Carryout itself knows none of these names.

CREATE TABLE public.users (
    internal_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id            uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    email         text NOT NULL UNIQUE,
    name          text NOT NULL,
    password_hash text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    is_active     boolean NOT NULL DEFAULT true,
    is_admin      boolean NOT NULL DEFAULT false
);

CREATE TABLE public.activity (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id     uuid NOT NULL REFERENCES public.users (id) ON DELETE CASCADE,
    kind        text NOT NULL,
    ip          inet,
    detail      jsonb,
    occurred_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE public.content (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES public.users (id) ON DELETE CASCADE,
    title      text NOT NULL,
    body       text,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- In the order of the datasets, so that an export reads its first row without sorting all of them.
CREATE INDEX activity_by_user ON public.activity (user_id, occurred_at, id);
CREATE INDEX content_by_user ON public.content (user_id, created_at, id);
