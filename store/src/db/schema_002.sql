-- Version 2: what a user's page tells of a VM.

ALTER TABLE vm_runtimes ADD COLUMN block_note TEXT;      -- of the administrator who blocked it, for its user
ALTER TABLE vm_runtimes ADD COLUMN user_since_ms INTEGER; -- when user_state came about; none: never since this is kept
