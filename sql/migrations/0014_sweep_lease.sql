-- The worker that looks for orphans. An advisory lock belongs to a session, which a pooler may give to another client.

CREATE TABLE carryout.sweep_lease (
  only_row boolean PRIMARY KEY CHECK (only_row),
  holder uuid NOT NULL,
  expires_at timestamptz NOT NULL
);
INSERT INTO carryout.sweep_lease (only_row, holder, expires_at) VALUES (true, gen_random_uuid(), '-infinity');
