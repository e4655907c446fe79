//! What both programs of a node use: PID 1 (node-init) writes, the node daemon (noded) reads and tells.

pub mod boots;
pub mod files;
pub mod redact;
pub mod release;
pub mod seed_text;
pub mod state_format;
