//! What both programs of a node use: PID 1 (node-init) and the node daemon (noded).

pub mod files;
pub mod release;
