-- Mails that the mail server refuses because of us, and mails that an operator sends again.

ALTER TABLE carryout.export_notifications
  ADD COLUMN refused boolean NOT NULL DEFAULT false,     -- as the last attempt found: an operator must change something
  ADD COLUMN resent_at timestamptz,                      -- the day of retries begins here instead of at created_at
  ADD COLUMN earlier_attempts integer NOT NULL DEFAULT 0 CHECK (earlier_attempts >= 0); -- those before resent_at
