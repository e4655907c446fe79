//! `noded`: the node daemon.

mod files;
mod guests;
mod identity;
mod network;
mod paths;

fn main() {}
