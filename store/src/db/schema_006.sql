-- Version 6: recovery keys of nodes' encrypted STATE.

CREATE TABLE recovery_keys (
    host_id INTEGER NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    volume TEXT NOT NULL,               -- UUID of the LUKS2 header that it opens
    sealed TEXT NOT NULL,               -- by the cluster's keys, base64
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (host_id, volume)
);
