-- The cluster's model, version 1. Plain SQL on purpose: what is written here means the same to
-- PostgreSQL but for AUTOINCREMENT (ids are never used again) and BLOB. Times are Unix milliseconds,
-- flags are 0 or 1, 64-bit unsigned numbers keep their bits.

CREATE TABLE users (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    login TEXT NOT NULL UNIQUE,
    password TEXT                       -- PHC string; none: cannot log in by password
);

CREATE TABLE osfs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    memory_mib INTEGER NOT NULL,
    use_overlay INTEGER NOT NULL,
    user_storage_mib INTEGER
);

CREATE TABLE dis (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    osf_id INTEGER NOT NULL REFERENCES osfs (id),
    path TEXT NOT NULL,
    version TEXT NOT NULL,
    digest TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    UNIQUE (osf_id, version)
);

-- A tag stands for one DI of an OSF. The version is one more, fixed tag, which is not listed here.
CREATE TABLE di_tags (
    osf_id INTEGER NOT NULL REFERENCES osfs (id) ON DELETE CASCADE,
    tag TEXT NOT NULL,
    di_id INTEGER NOT NULL REFERENCES dis (id) ON DELETE CASCADE,
    PRIMARY KEY (osf_id, tag)
);
CREATE INDEX di_tags_by_di ON di_tags (di_id);

CREATE TABLE hosts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    address TEXT NOT NULL,
    approved INTEGER NOT NULL,
    key_sha256 TEXT UNIQUE,             -- of its public key; none: registered, has not joined
    cert_sha256 TEXT                    -- of the certificate that it must show
);

CREATE TABLE host_runtimes (
    host_id INTEGER PRIMARY KEY REFERENCES hosts (id) ON DELETE CASCADE,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    blocked INTEGER NOT NULL,
    seen_ms INTEGER,
    usable_ram_mib REAL NOT NULL,
    usable_cpu REAL NOT NULL,
    available_mib INTEGER NOT NULL,
    cpu_percent REAL NOT NULL,
    rss TEXT NOT NULL,                  -- JSON
    version TEXT NOT NULL,
    inventory TEXT NOT NULL,            -- JSON
    timeline TEXT NOT NULL,             -- JSON
    revision INTEGER NOT NULL,          -- of the desired state, and what it was made of
    desired_sha256 TEXT NOT NULL,
    router_chain TEXT NOT NULL,         -- made for router_address by the cluster CA
    router_key TEXT NOT NULL,
    router_address TEXT NOT NULL
);

CREATE TABLE host_counters (
    host_id INTEGER PRIMARY KEY REFERENCES hosts (id) ON DELETE CASCADE,
    http_requests INTEGER NOT NULL DEFAULT 0,
    auth_attempts INTEGER NOT NULL DEFAULT 0,
    auth_ok INTEGER NOT NULL DEFAULT 0,
    nx_attempts INTEGER NOT NULL DEFAULT 0,
    nx_ok INTEGER NOT NULL DEFAULT 0,
    short_sessions INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE vms (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    user_id INTEGER NOT NULL REFERENCES users (id),
    osf_id INTEGER NOT NULL REFERENCES osfs (id),
    di_tag TEXT NOT NULL,
    ip TEXT NOT NULL UNIQUE
);
CREATE INDEX vms_by_user ON vms (user_id);
CREATE INDEX vms_by_osf ON vms (osf_id);

CREATE TABLE vm_runtimes (
    vm_id INTEGER PRIMARY KEY REFERENCES vms (id) ON DELETE CASCADE,
    state TEXT NOT NULL,
    phase TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    want TEXT NOT NULL,
    generation INTEGER NOT NULL,
    reported_generation INTEGER NOT NULL, -- the one that `state` belongs to
    ran_generation INTEGER NOT NULL,    -- the last one that reached running
    di_id INTEGER REFERENCES dis (id),  -- chosen at the last start
    running_di_id INTEGER REFERENCES dis (id),
    failed TEXT,
    start_ms INTEGER,
    blocked INTEGER NOT NULL,
    blocked_reason TEXT,
    user_state TEXT NOT NULL,
    session INTEGER,
    session_host INTEGER REFERENCES hosts (id),
    session_user INTEGER REFERENCES users (id),
    client TEXT
);

CREATE TABLE vm_counters (
    vm_id INTEGER PRIMARY KEY REFERENCES vms (id) ON DELETE CASCADE,
    run_attempts INTEGER NOT NULL DEFAULT 0,
    run_ok INTEGER NOT NULL DEFAULT 0
);

-- Who may run a VM. The row lives as long as the VM, so that its epoch never goes back. Local storage
-- has no expiry: while there is a host, no other one runs it.
CREATE TABLE leases (
    vm_id INTEGER PRIMARY KEY REFERENCES vms (id) ON DELETE CASCADE,
    host_id INTEGER REFERENCES hosts (id),
    epoch INTEGER NOT NULL,
    expires_ms INTEGER
);
CREATE INDEX leases_by_host ON leases (host_id);

CREATE TABLE configs (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE ssl_configs (key TEXT PRIMARY KEY, value TEXT NOT NULL);

CREATE TABLE host_properties (object_id INTEGER NOT NULL REFERENCES hosts (id) ON DELETE CASCADE, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (object_id, key));
CREATE TABLE osf_properties (object_id INTEGER NOT NULL REFERENCES osfs (id) ON DELETE CASCADE, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (object_id, key));
CREATE TABLE di_properties (object_id INTEGER NOT NULL REFERENCES dis (id) ON DELETE CASCADE, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (object_id, key));
CREATE TABLE user_properties (object_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (object_id, key));
CREATE TABLE vm_properties (object_id INTEGER NOT NULL REFERENCES vms (id) ON DELETE CASCADE, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (object_id, key));

-- Tokens are kept as SHA-256: they are random, so nothing slower is needed.
CREATE TABLE join_tokens (
    sha256 TEXT PRIMARY KEY,
    note TEXT NOT NULL,
    expires_ms INTEGER NOT NULL,
    used_by_key TEXT,                   -- public key of the node that used it: that one may ask again
    used_ms INTEGER
);
CREATE TABLE admin_tokens (
    sha256 TEXT PRIMARY KEY,
    note TEXT NOT NULL,
    expires_ms INTEGER
);

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    what TEXT NOT NULL,
    object TEXT NOT NULL,
    detail TEXT NOT NULL
);

CREATE TABLE uploads (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT,
    touched_ms INTEGER NOT NULL
);
