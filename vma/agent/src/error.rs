//! What can go wrong in the agent.

use std::{io, path::PathBuf, process::ExitStatus};

/// A failure, naming action and object; the cause is its source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory.
    #[error("Cannot {action} {}", path.display())]
    File {
        /// In words: "read", "create".
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A kernel call on a path or process.
    #[error("Cannot {action} {object}")]
    Call {
        /// In words.
        action: &'static str,
        /// On what.
        object: String,
        /// Cause.
        source: io::Error,
    },
    /// A program could not be run.
    #[error("Cannot run {program}")]
    Run {
        /// Its path.
        program: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} failed ({status}): {said}")]
    Failed {
        /// Its name and arguments.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its output.
        said: String,
    },
    /// A parameter from the node is not usable.
    #[error("The parameter {name} is {value:?}, expected {expected}")]
    Param {
        /// Its name.
        name: &'static str,
        /// What came.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

impl Error {
    /// For `map_err` on calls that take a path.
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    /// For `map_err` on kernel calls.
    pub fn call<E: Into<io::Error>>(action: &'static str, object: impl Into<String>) -> impl FnOnce(E) -> Self {
        let object = object.into();
        move |source| Self::Call { action, object, source: source.into() }
    }

    /// The whole story in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;
