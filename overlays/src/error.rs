//! Why guest storage cannot do what was asked.

use model::{Digest, VmId};
use std::{io, path::PathBuf};

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image is not on this node.
    #[error("Image {0} is not on this node")]
    NoImage(Digest),
    /// Another process of this node holds the guest's writable layer: two guests on one layer destroy it.
    #[error("The writable layer of VM {0} is in use by another process: stop that first")]
    InUse(VmId),
    /// A file or directory could not be made, read or removed.
    #[error("Cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image could not be mounted: damaged, or no squashfs.
    #[error("Cannot mount image {digest}: is the file damaged?")]
    Mount {
        /// Which.
        digest: Digest,
        /// Why.
        source: sys::Error,
    },
    /// The kernel refused a mount, a namespace or a quota.
    #[error(transparent)]
    Kernel(#[from] sys::Error),
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A closure that says what was tried on which path: `.map_err(Error::file("create", path))`.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
