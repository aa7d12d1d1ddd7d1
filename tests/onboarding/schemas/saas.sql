-- A service for companies: uuids, several schemas, partitions, and things that a user runs for others.

CREATE SCHEMA identity;
CREATE SCHEMA billing;
CREATE SCHEMA audit;
CREATE TYPE billing.state AS ENUM ('open', 'paid');

CREATE TABLE identity.users (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email        text NOT NULL UNIQUE,
    full_name    text NOT NULL,
    api_key      text,
    mfa_enabled  boolean NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE identity.sessions (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES identity.users,
    token      text NOT NULL,
    user_agent text,
    ip         inet,
    created_at timestamptz NOT NULL
);

CREATE TABLE identity.events (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES identity.users,
    category   text NOT NULL
);

CREATE TABLE identity.organizations (
    id       uuid PRIMARY KEY,
    owner_id uuid NOT NULL REFERENCES identity.users,
    name     text NOT NULL
);

CREATE TABLE identity.invitations (
    id              uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES identity.organizations,
    email           text NOT NULL
);

CREATE TABLE identity.contacts (
    id      uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES identity.users,
    name    text,
    phone   text
);

CREATE TABLE identity.calls (id uuid PRIMARY KEY, contact_id uuid NOT NULL REFERENCES identity.contacts, seconds integer);

CREATE TABLE billing.invoices (
    id      bigint PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES identity.users,
    state   billing.state NOT NULL,
    total   numeric NOT NULL,
    raw     jsonb
);

CREATE TABLE audit.events (
    id          bigint NOT NULL,
    occurred_at timestamptz NOT NULL,
    user_id     uuid NOT NULL REFERENCES identity.users,
    verb        text,
    PRIMARY KEY (id, occurred_at)
) PARTITION BY RANGE (occurred_at);
CREATE TABLE audit.events_2024 PARTITION OF audit.events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE audit.events_2025 PARTITION OF audit.events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
