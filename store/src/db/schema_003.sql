-- Version 3: one-time codes.

ALTER TABLE users ADD COLUMN totp TEXT;                          -- the secret, sealed with the cluster's key; none: no code is asked for
ALTER TABLE users ADD COLUMN totp_step INTEGER NOT NULL DEFAULT 0; -- of the last code that was used
