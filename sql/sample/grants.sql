-- The role that reads the sample application for Carryout: what the datasets and the operators' lists read, and nothing
-- else. No dataset can give away what it can't read: password_hash isn't here. A column that is added to a dataset is
-- added here too.
-- To be run, again as often as you like, as the tables' owner; the caller sets `carryout_sample.reader_password`.

DO $$
BEGIN
    IF to_regrole('carryout_reader') IS NULL THEN
        CREATE ROLE carryout_reader LOGIN;
    END IF;
    EXECUTE format(
        'ALTER ROLE carryout_reader PASSWORD %L', current_setting('carryout_sample.reader_password')
    );
END
$$;

ALTER ROLE carryout_reader SET default_transaction_read_only = on;
-- The datasets qualify all tables, so the role needs no schema in which every role may create functions or operators.
ALTER ROLE carryout_reader SET search_path = pg_catalog;

-- Up to PostgreSQL 14 every role may create tables and functions there, which others then run.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO carryout_reader;
GRANT SELECT (internal_id, id, email, name, created_at, updated_at, is_active, is_admin)
    ON public.users TO carryout_reader;
GRANT SELECT (id, user_id, kind, ip, detail, occurred_at) ON public.activity TO carryout_reader;
GRANT SELECT (id, user_id, title, body, created_at) ON public.content TO carryout_reader;
