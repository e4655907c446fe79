//! Kernel calls, and nothing but kernel calls: the only crate with unsafe code.
//!
//! It speaks in descriptors, in guards that undo on drop and in typed values; it decides nothing. Whoever calls it
//! knows why. Everything is blocking and short, unless the item says otherwise; descriptors that may be awaited
//! implement [`std::os::fd::AsFd`], so that an event loop can poll them.

pub mod block;
pub mod boottime;
pub mod cgroup;
pub mod dm;
mod error;
pub mod idmap;
pub mod inherit;
pub mod input;
mod ioctl;
pub mod loopdev;
pub mod modules;
pub mod mount;
pub mod poll;
pub mod power;
pub mod quota;
pub mod seqpacket;
pub mod signal;
pub mod spawn;
pub mod uevent;
pub mod watchdog;

pub use error::{Error, Result};
/// Signals, errors and mount flags are nix's.
pub use nix::errno::Errno;
