//! The format of what is on STATE, and whether this version may use it.
//!
//! Every version says which formats it reads ([`STATE_FORMATS`], also in the signed manifest of its update set). A node
//! takes no version that does not read its format, and PID 1 goes on with no STATE of a format that it does not know:
//! such a boot ends on the failure page, and the version before takes over. A format is first written when the versions
//! in both slots read it, so that no way back leads to a version that cannot (decision 020).

use crate::files;
use image::set::{STATE_FORMATS, StateFormats};
use model::paths::STATE_FORMAT;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What a STATE has that does not say.
const FIRST: u32 = 1;

/// The file.
#[derive(Serialize, Deserialize)]
struct Mark {
    format: u32,
}

/// Why STATE cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The file is there and cannot be read.
    #[error("Cannot read {path}, which says what format STATE has")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says nothing of use.
    #[error("{path} is damaged: expected {{\"format\": N}}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What the reader said.
        source: serde_json::Error,
    },
    /// Another version made it.
    #[error("STATE has format {found}, and this version reads formats {} to {}", reads.oldest, reads.newest)]
    Unknown {
        /// What it has.
        found: u32,
        /// What this version knows.
        reads: StateFormats,
    },
}

/// The format of the STATE whose mark lies here, if this version reads it.
pub fn check(path: &Path) -> Result<u32, FormatError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(FIRST),
        Err(source) => return Err(FormatError::Read { path: path.to_owned(), source }),
    };
    let Mark { format } =
        serde_json::from_slice(&text).map_err(|source| FormatError::Damaged { path: path.to_owned(), source })?;
    let reads = STATE_FORMATS;
    let known = (reads.oldest..=reads.newest).contains(&format);
    known.then_some(format).ok_or(FormatError::Unknown { found: format, reads })
}

/// Marks a STATE that this version has made.
pub fn mark_new() -> io::Result<()> {
    files::replace(Path::new(STATE_FORMAT), &serde_json::to_vec(&Mark { format: STATE_FORMATS.newest })?, 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_known_or_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("format.json");
        assert_eq!(check(&path).expect("made before there was a mark"), 1);
        let newest = STATE_FORMATS.newest;
        for (text, expect) in [
            (r#"{"format":1}"#.to_owned(), Ok(1)),
            (format!(r#"{{"format":{newest},"by":"a later version"}}"#), Ok(newest)),
            (format!(r#"{{"format":{}}}"#, newest + 1), Err(format!("STATE has format {}, and this", newest + 1))),
            (r#"{"format":0}"#.to_owned(), Err("STATE has format 0, and this version reads formats 1 to".to_owned())),
            ("{".to_owned(), Err("is damaged: expected {\"format\": N}".to_owned())),
            (r#"{"format":-1}"#.to_owned(), Err("is damaged".to_owned())),
        ] {
            fs::write(&path, &text).expect("written");
            match (check(&path), expect) {
                (Err(found), Err(saying)) => assert!(found.to_string().contains(&saying), "{found}"),
                (found, expect) => assert_eq!(found.map_err(|e| e.to_string()), expect, "{text}"),
            }
        }
    }
}
