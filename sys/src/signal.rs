//! Signals as packets: blocked everywhere, read from a descriptor.

use crate::{Error, Result};
use nix::sys::signal::SigSet;
pub use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd as Inner};
use std::os::fd::{AsFd, BorrowedFd};

/// Readable when one of its signals came.
#[derive(Debug)]
pub struct SignalFd(Inner);

impl SignalFd {
    /// Blocks `signals` in the calling thread (threads made later inherit that) and collects them here.
    ///
    /// Processes made by [`crate::spawn`] start with nothing blocked.
    pub fn new(signals: &[Signal]) -> Result<Self> {
        let set: SigSet = signals.iter().copied().collect();
        set.thread_block().map_err(Error::of("block", "signals"))?;
        Inner::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map(Self)
            .map_err(Error::of("create", "a signal descriptor"))
    }

    /// The next signal that came; none when all are read.
    pub fn next(&self) -> Result<Option<Signal>> {
        let info = self.0.read_signal().map_err(Error::of("read", "the signal descriptor"))?;
        Ok(info.and_then(|i| i32::try_from(i.ssi_signo).ok()).and_then(|n| Signal::try_from(n).ok()))
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
