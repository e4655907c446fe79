//! The router over loopback TLS, with a small working model of `noded` behind it.

mod away;
mod client;
mod endpoints;
mod fake;
mod peers;
mod sessions;
mod wire;
mod world;
