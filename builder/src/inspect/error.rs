//! What is wrong with an image.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;

/// Why an image is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file cannot be opened.
    #[error("Cannot open {}", path.display())]
    Open {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is none of the forms that a build writes.
    #[error("{} is no disk image, root image or UKI: it begins with {start}", path.display())]
    Unknown {
        /// Where.
        path: PathBuf,
        /// Its first bytes in hexadecimal.
        start: String,
    },
    /// A part cannot be read or does not hold.
    #[error("{} is damaged or cut off", capital(part))]
    Part {
        /// Which.
        part: String,
        /// What was found.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A part says something else than what vouches for it.
    #[error("{} is not what it was built as: its {what} is {found}, expected {expected}", capital(part))]
    Differs {
        /// Which.
        part: String,
        /// What of it.
        what: String,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The UKI names a root that the disk does not have.
    #[error("No partition has the PARTUUID {partuuid}, which the root hash in the UKI asks for")]
    NoRoot {
        /// The first half of the root hash.
        partuuid: String,
    },
}

/// The error of a part that cannot be read or does not hold.
pub(super) fn in_part<E>(part: &str) -> impl FnOnce(E) -> InspectError
where
    E: std::error::Error + Send + Sync + 'static,
{
    let part = part.to_owned();
    move |source| InspectError::Part { part, source: Box::new(source) }
}

/// The error of a part that is something else than expected.
pub(super) fn differs(part: &str, what: &str, expected: impl Display, found: impl Display) -> InspectError {
    let (expected, found) = (expected.to_string(), found.to_string());
    InspectError::Differs { part: part.to_owned(), what: what.to_owned(), expected, found }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
