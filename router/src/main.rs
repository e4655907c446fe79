//! The layer-7 router: TLS, login, list, start, relay.

fn main() {}
