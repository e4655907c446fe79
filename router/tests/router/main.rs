//! The router over loopback TLS, with a small working model of `noded` behind it.

mod away;
mod axe;
mod cdp;
mod client;
mod desk;
mod endpoints;
mod fake;
mod firefox;
mod hostile;
mod latency;
mod pages;
mod peers;
mod reach;
mod sessions;
mod visitor;
mod web;
mod wire;
mod world;
