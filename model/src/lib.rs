//! The words all programs share: ids, states, configuration keys, messages.
//!
//! Nothing here does I/O, reads a clock or is async. Strings, JSON and frames are parsed into these
//! types at the edge of each program and trusted from there on.

pub mod api;
pub mod boot;
pub mod digest;
pub mod filter;
pub mod frame;
pub mod grant;
pub mod id;
pub mod init;
pub mod key;
pub mod local;
pub mod paths;
pub mod recovery;
pub mod seed;
pub mod size;
pub mod state;
pub mod suggest;
pub mod sync;
pub mod update;

pub use digest::Digest;
pub use id::{DiId, HostId, OsfId, UserId, VmId};
