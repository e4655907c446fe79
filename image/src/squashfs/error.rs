//! Why an image could not be written.

use std::io;

use thiserror::Error;

use crate::tree::TreeError;

/// Why an image could not be written.
#[derive(Debug, Error)]
pub enum SquashfsError {
    /// The output refused bytes.
    #[error("Cannot write the squashfs image")]
    Write(#[source] io::Error),
    /// A file's contents could not be read.
    #[error("Cannot read the contents of {path}")]
    Read {
        /// The file's path in the image.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// A file of a tree could not be opened.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A path that a file system cannot hold.
    #[error("Path {path:?} cannot be stored: {reason}")]
    BadPath {
        /// The path as given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A component of the path is no directory.
    #[error("{path} cannot be stored: a part of its path is not a directory")]
    NotADirectory {
        /// The path asked for.
        path: String,
    },
    /// A hard link to nothing, or to a directory.
    #[error("{path} cannot be a hard link to {target}: {reason}")]
    BadLink {
        /// The new name.
        path: String,
        /// The name it should share its inode with.
        target: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Squashfs knows only `user.`, `trusted.` and `security.`.
    #[error(
        "Extended attribute {name} of {path} cannot be stored: squashfs holds user., trusted. and security. only, up to 64 KiB"
    )]
    Xattr {
        /// The file.
        path: String,
        /// The attribute.
        name: String,
    },
    /// An option out of range.
    #[error("Option {name} is {found}, expected {expected}")]
    Option {
        /// Its name.
        name: &'static str,
        /// Its value.
        found: i64,
        /// What would do.
        expected: &'static str,
    },
    /// More than the format can count.
    #[error("The image has too many {what}: {found}, and squashfs holds {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: u64,
        /// How many would do.
        limit: u64,
    },
    /// The compressor failed.
    #[error("Cannot compress a block")]
    Compress(#[source] io::Error),
    /// A thread ended before its work.
    #[error("A compressing thread ended early")]
    Thread,
}
