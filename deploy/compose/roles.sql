-- Run once, by PostgreSQL's image, as its superuser. The role that migrates owns Carryout's schema, and `carryout migrate`
-- grants the role that serves what it needs. The passwords are the compose file's: PostgreSQL is reached from its network
-- alone.

CREATE ROLE carryout_migrate LOGIN PASSWORD 'carryout';
CREATE ROLE carryout_serve LOGIN PASSWORD 'carryout';

CREATE SCHEMA carryout AUTHORIZATION carryout_migrate;

DO $$
BEGIN
    -- For sql/sample/grants.sql, which makes the role that reads the application's tables.
    EXECUTE format('ALTER DATABASE %I SET carryout_sample.reader_password = %L', current_database(), 'carryout');
END
$$;
