//! What the store cannot do, and why. Refusals are variants that callers match; the admin API gives each
//! one status.

use model::{filter::FilterError, key::KeyError};
use std::{io, path::PathBuf};

/// Result of the store's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such object.
    #[error("There is no {what} {found}")]
    NotFound {
        /// Kind of object.
        what: &'static str,
        /// What was asked for.
        found: String,
    },
    /// The name is in use.
    #[error("There is a {what} {found} already")]
    Taken {
        /// Kind of object.
        what: &'static str,
        /// Its name.
        found: String,
    },
    /// The request is not one: what was found, and what was expected.
    #[error("{0}")]
    Invalid(String),
    /// Not in this state of things: why, and what to do.
    #[error("{0}")]
    Refused(String),
    /// A configuration key or its value.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// An upload continues elsewhere than its bytes end.
    #[error("Upload {id} continues at byte {received}, not at {offset}")]
    Offset {
        /// The upload.
        id: String,
        /// Bytes that it has.
        received: u64,
        /// Where the request wanted to go on.
        offset: u64,
    },
    /// The database refused.
    #[error("Cannot {action} in the database")]
    Db {
        /// What was being done.
        action: &'static str,
        /// What it said.
        source: rusqlite::Error,
    },
    /// The database's thread has ended: the store is shutting down.
    #[error("The database is closed")]
    Closed,
    /// A file.
    #[error("Cannot {action} {path}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A key or a certificate.
    #[error("Cannot {action}")]
    Pki {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An upload that is no image.
    #[error("Cannot import {name}: {source}")]
    Import {
        /// The upload's file name.
        name: String,
        /// What is wrong with it; part of the message, since it is the whole of it.
        source: crate::import::ImportError,
    },
    /// An upload that is no update set.
    #[error("Cannot add {name}: {source}")]
    Set {
        /// The upload's file name.
        name: String,
        /// What is wrong with it; part of the message, since it is the whole of it.
        source: image::set::SetError,
    },
    /// Hashing a password failed.
    #[error("Cannot hash a password: {0}")]
    Password(String),
}

impl Error {
    /// For `map_err` on file operations.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// For `map_err` on SQL.
    pub fn db(action: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| Self::Db { action, source }
    }

    /// For `map_err` on keys and certificates.
    pub fn pki<E: Into<Box<dyn std::error::Error + Send + Sync>>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Pki { action, source: source.into() }
    }

    /// Not found, for `ok_or_else`.
    pub fn none(what: &'static str, found: impl std::fmt::Display) -> Self {
        Self::NotFound { what, found: found.to_string() }
    }
}

/// An error with all its causes, for logs.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
