//! The router's two sockets.
//!
//! - [`control`]: one connection per router process; configuration out, sessions and calls in.
//! - [`open`]: one connection per session; the session's descriptor out.

pub mod control;
pub mod open;
mod place;
