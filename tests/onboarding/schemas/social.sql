-- A social network: who signs in (users) isn't who writes (accounts); most accounts live on other servers.

CREATE TABLE accounts (
    id           bigint PRIMARY KEY,
    username     text NOT NULL,
    domain       text,
    private_key  text,
    display_name text NOT NULL DEFAULT '',
    moved_to_account_id bigint REFERENCES accounts
);

CREATE TABLE users (
    id                 bigint PRIMARY KEY,
    email              text NOT NULL UNIQUE,
    encrypted_password text NOT NULL,
    otp_secret         text,
    account_id         bigint NOT NULL REFERENCES accounts,
    created_at         timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE statuses (
    id                     bigint PRIMARY KEY,
    text                   text NOT NULL,
    account_id             bigint NOT NULL REFERENCES accounts,
    in_reply_to_account_id bigint REFERENCES accounts,
    in_reply_to_id         bigint REFERENCES statuses,
    created_at             timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE polls (
    id         bigint PRIMARY KEY,
    account_id bigint NOT NULL REFERENCES accounts,
    status_id  bigint NOT NULL REFERENCES statuses,
    expires_at timestamptz
);

CREATE TABLE markers (
    id        bigint PRIMARY KEY,
    user_id   bigint NOT NULL REFERENCES users,
    timeline  text NOT NULL,
    last_read bigint NOT NULL
);

INSERT INTO accounts (id, username, private_key) VALUES (1, 'ada', 'PEM'), (2, 'bob', 'PEM');
INSERT INTO users (id, email, encrypted_password, account_id) VALUES
    (11, 'ada@example.com', 'x', 1), (12, 'bob@example.com', 'x', 2);
INSERT INTO statuses (id, text, account_id) VALUES (100, 'of Ada', 1), (200, 'of Bob', 2);
