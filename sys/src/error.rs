//! The one error of this crate: which call, on what, and the kernel's answer.

use std::io;

/// What went wrong, and with what object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("Cannot {action} {object}")]
    Kernel {
        /// What was tried, in words: `mount`, `open`.
        action: &'static str,
        /// On what: a path, a name, a pid.
        object: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel or a file said something that this code does not understand.
    #[error("{object} holds '{found}'; expected {expected}")]
    Malformed {
        /// File or packet.
        object: String,
        /// What was there.
        found: String,
        /// What should have been.
        expected: &'static str,
    },
    /// It did not happen in time.
    #[error("Gave up on {object} after {seconds} s")]
    TooLate {
        /// What was waited for.
        object: String,
        /// How long.
        seconds: u64,
    },
    /// A command ended badly.
    #[error("{program} failed with {exit}: {said}")]
    Failed {
        /// Program that ran.
        program: String,
        /// How it ended.
        exit: crate::spawn::Exit,
        /// End of its standard error.
        said: String,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A closure that wraps the kernel's answer: `.map_err(Error::of("open", path))`.
    pub fn of<E: Into<io::Error>>(action: &'static str, object: impl std::fmt::Display) -> impl FnOnce(E) -> Self {
        move |e| Self::Kernel { action, object: object.to_string(), source: e.into() }
    }

    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<nix::errno::Errno> {
        match self {
            Self::Kernel { source, .. } => source.raw_os_error().map(nix::errno::Errno::from_raw),
            _ => None,
        }
    }

    /// Whether the kernel answered with this number.
    pub fn is(&self, errno: nix::errno::Errno) -> bool {
        self.errno() == Some(errno)
    }
}
