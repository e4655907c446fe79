//! What can go wrong while assembling.

use std::io;
use std::path::{Path, PathBuf};

use image::TreeError;
use image::cpio::CpioError;
use image::disk::DiskError;
use image::set::SetError;
use image::squashfs::SquashfsError;
use image::uki::UkiError;
use image::verity::VerityError;

use crate::patch::MakeError;
use crate::sign::SignError;

/// Why an image could not be assembled.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// A file operation failed.
    #[error("Cannot {action} {}", path.display())]
    File {
        /// Verb.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An input is not what it should be.
    #[error("The {what} cannot be used: {problem}")]
    Input {
        /// Which.
        what: &'static str,
        /// What was found.
        problem: String,
    },
    /// An artifact is larger than the recipe allows.
    #[error("The {what} has {found} bytes, {} more than {key} allows ({budget}). Largest: {largest}", found - budget)]
    Budget {
        /// Which artifact.
        what: &'static str,
        /// Its length.
        found: u64,
        /// Key of the recipe.
        key: &'static str,
        /// What it allows, in bytes.
        budget: u64,
        /// Where the bytes are.
        largest: String,
    },
    /// A file of a tree could not be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The root image could not be made.
    #[error("Cannot make the root image")]
    Root(#[from] SquashfsError),
    /// The root's hash tree could not be made.
    #[error("Cannot make the root's verity tree")]
    Verity(#[from] VerityError),
    /// The initrd could not be made.
    #[error("Cannot make the initrd")]
    Initrd(#[from] CpioError),
    /// The initrd could not be compressed.
    #[error("Cannot compress the initrd")]
    Compress(#[source] io::Error),
    /// The UKI could not be made.
    #[error("Cannot make the UKI")]
    Uki(#[from] UkiError),
    /// The disk image could not be made.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The update set could not be made.
    #[error("Cannot make the update set")]
    Set(#[from] SetError),
    /// A patch could not be made.
    #[error("Cannot make a patch")]
    Patch(#[from] MakeError),
    /// Something could not be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The manifest could not be put into words.
    #[error("Cannot write the manifest")]
    Manifest(#[source] serde_json::Error),
}

/// Names the verb and the file of a failed file operation.
pub(super) fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> AssembleError + 'a {
    move |source| AssembleError::File { action, path: path.to_owned(), source }
}
