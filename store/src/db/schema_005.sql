-- Version 5: boots of nodes, and their last words.

CREATE TABLE host_boots (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- the order in which nodes told them
    host_id INTEGER NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    boot TEXT NOT NULL,                 -- the kernel's boot id
    version TEXT NOT NULL,
    began_ms INTEGER NOT NULL,          -- by the node's clock; 0: not known
    lasted_s INTEGER NOT NULL,
    how TEXT NOT NULL,                  -- a word of BootEnd
    why TEXT NOT NULL,
    panic TEXT NOT NULL,
    log TEXT NOT NULL,
    UNIQUE (host_id, boot)
);
