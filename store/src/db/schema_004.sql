-- Version 4: versions of the node's image, and nodes on their way to them.

CREATE TABLE node_images (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    level TEXT NOT NULL,
    epoch INTEGER NOT NULL,             -- seconds since 1970
    digest TEXT NOT NULL UNIQUE,        -- of the set's file
    bytes INTEGER NOT NULL,
    signatures INTEGER NOT NULL,
    UNIQUE (name, version)
);

CREATE TABLE rollouts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    image_id INTEGER NOT NULL REFERENCES node_images (id),
    max_unavailable INTEGER NOT NULL,
    hours TEXT,                         -- HH:MM-HH:MM, UTC; none: any time
    drain_s INTEGER,                    -- none: as long as users stay
    halted TEXT                         -- why no further node gets its turn
);
CREATE INDEX rollouts_by_image ON rollouts (image_id);

ALTER TABLE host_runtimes ADD COLUMN versions TEXT NOT NULL DEFAULT ''; -- JSON; empty: it told nothing yet
ALTER TABLE host_runtimes ADD COLUMN rollout_id INTEGER REFERENCES rollouts (id);
ALTER TABLE host_runtimes ADD COLUMN going INTEGER NOT NULL DEFAULT 0;  -- it is its turn
CREATE INDEX host_runtimes_by_rollout ON host_runtimes (rollout_id);
