//! The node: PID 1 (node-init) and the node daemon (noded).

fn main() {}
