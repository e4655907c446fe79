//! The layer-7 router (QVD's L7R): the only program of a node that users talk to.
//!
//! ```text
//!            8443, TLS                                   unix
//! client ----------------> listen -> serve (http dialect) <----> noded (calls, reports) ---> store
//!                                      | auth, wake, session
//!                                      v
//!                                    relay <---- descriptor from noded, or
//!                                          <---- 8444, mutual TLS: the router of the guest's node
//! ```
//!
//! One connection is one task, started by [`listen`]; it ends by itself, by a panic that ends nothing
//! else, or by [`drain`]. Its life: TLS handshake ([`tls`]), then requests in QVD's HTTP dialect
//! ([`head`], [`query`], [`answer`], [`conn`]) answered by [`serve`]. `connect_to_vm` logs in
//! ([`auth`]), takes hold of the VM, waits until it runs ([`wake`], [`progress`]), opens a session with
//! its guest ([`session`], [`peer`]), answers 101, and from there on only copies bytes ([`relay`]).
//!
//! Long-lived tasks, all spawned by [`run`]:
//! - [`noded::Link`]: the one connection to `noded`; calls and reports in, answers and configuration out.
//! - [`listen::public`]: 8443; one task per client.
//! - [`listen::peers`]: 8444; one task per session of another node's router.
//!
//! What lives in memory only: the sessions ([`table`]) and what known users may do while the store is
//! away ([`known`]). Nothing is ever written to disk.
//!
//! **Invariants:** a session's bytes never pass through `noded`; `noded` or the store being away never
//! touches a session that is open; the router decides nothing about who may do what: the store does.

pub mod answer;
pub mod auth;
pub mod bench;
pub mod conn;
pub mod connect;
pub mod counters;
pub mod crowd;
pub mod drain;
pub mod error;
pub mod head;
pub mod known;
pub mod listen;
pub mod noded;
pub mod peer;
pub mod progress;
pub mod query;
pub mod relay;
pub mod seek;
pub mod serve;
pub mod session;
pub mod table;
pub mod tls;
pub mod wake;
pub mod web;
pub mod ws;

mod frames;
mod random;
mod router;
mod scratch;

pub use error::RouterError;
pub use router::{Options, Router, run};
