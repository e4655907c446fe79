//! The guest agent: readiness, user, session, hooks.

fn main() {}
