//! Files of the session's user: what a connection of kind [`crate::Kind::Files`] carries.
//!
//! One connection is one request. Both sides send frames as [`crate::encode`] makes them; raw bytes
//! follow a frame where it says so, with no frame around them. The agent does everything as the
//! session's user, below that user's home, and follows no symbolic link out of it.
//!
//! ```text
//! List    ->  Entry* End
//! Get     ->  Ready, then size - offset raw bytes, then the agent closes
//! Have    ->  Ready { offset: bytes kept of this upload, size: 0 }, or Done
//! Put     ->  Ready { offset }, then the asker sends total - offset raw bytes, then Done; or Done at once
//! anything -> Refused, then the agent closes
//! ```
//! An upload that is cut off keeps what arrived under its id, so that it can go on from there; only a
//! whole one gets its name. A name that is taken is not overwritten: the agent finds a free one beside
//! it (`report (2).pdf`), and `Done` tells which. An upload that is done stays so: whoever asks with its id
//! again, since the answer was lost, hears `Done` once more and there is no second copy.

use crate::Text;
use heapless::String;
use serde::{Deserialize, Serialize};

/// A path below the home: names joined by `/`, none of them empty, `.` or `..`, without control
/// characters; empty is the home itself. See [`legal`].
pub type Path = String<1024>;
/// The name of one file.
pub type FileName = String<255>;
/// Names one upload over all its tries; chosen at random by the browser.
pub type UploadId = [u8; 16];

/// Entries that the agent tells of one folder at most.
pub const MAX_ENTRIES: usize = 2000;

/// First and only frame to the agent. Append only.
#[expect(clippy::large_enum_variant, reason = "there is no allocator to box with")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToFiles {
    /// What is in a folder. Names that start with a dot are left out.
    List {
        /// The folder.
        folder: Path,
    },
    /// The bytes of a regular file, from `offset` on.
    Get {
        /// The file.
        file: Path,
        /// First byte wanted; beyond the end is refused.
        offset: u64,
    },
    /// How much of an upload is there.
    Have {
        /// Which.
        id: UploadId,
    },
    /// Brings a file. Bytes kept beyond `offset` are dropped; less than `offset` is refused.
    Put {
        /// The same in each try.
        id: UploadId,
        /// An existing folder.
        folder: Path,
        /// Wanted name.
        name: FileName,
        /// Where this try begins.
        offset: u64,
        /// Size of the whole file.
        total: u64,
    },
}

/// From the agent. Append only.
#[expect(clippy::large_enum_variant, reason = "there is no allocator to box with")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromFiles {
    /// One file or folder, in no order.
    Entry {
        /// Its name; one that is no UTF-8 or longer is left out of the list.
        name: FileName,
        /// A folder; else a regular file. Anything else is left out.
        folder: bool,
        /// Its bytes; 0 for a folder.
        size: u64,
        /// Last change, Unix seconds.
        modified: i64,
    },
    /// The list is whole, or was cut at [`MAX_ENTRIES`].
    End {
        /// There are more.
        more: bool,
    },
    /// To Get, Have and Put: go on.
    Ready {
        /// Where the bytes begin (Get, Put), or how many are kept (Have).
        offset: u64,
        /// Size of the whole file (Get); else 0.
        size: u64,
        /// Last change of the file, Unix seconds (Get); else 0.
        modified: i64,
    },
    /// The upload is whole, on disk, and has its name.
    Done {
        /// The name that it got.
        name: FileName,
        /// Its bytes.
        size: u64,
    },
    /// No.
    Refused {
        /// What kind of no.
        why: Why,
        /// In words, for the log.
        reason: Text,
    },
}

/// Why a request was refused. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// No such file or folder.
    NotFound,
    /// The user may not, or it is no regular file, or the path leads out of the home.
    Forbidden,
    /// The path or name is not legal.
    BadName,
    /// The offset does not fit what is there: ask Have.
    Offset,
    /// The home is full.
    NoRoom,
    /// Too many transfers at a time.
    Busy,
    /// Anything else.
    Failed,
}

/// Whether a path keeps the rules of [`Path`]. Both sides check.
pub fn legal(path: &str) -> bool {
    path.is_empty() || path.split('/').all(legal_name)
}

/// Whether a name can be one part of a [`Path`].
pub fn legal_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= 255 && !name.chars().any(|c| c == '/' || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FrameError, MAX_FRAME, encode};
    use serde::de::DeserializeOwned;

    #[track_caller]
    fn golden<T: Serialize + DeserializeOwned + PartialEq + core::fmt::Debug>(value: T, bytes: &[u8]) {
        let mut buffer = [0; MAX_FRAME];
        assert_eq!(encode(&value, &mut buffer).expect("encodes"), bytes);
        let (used, back) = crate::Decoder::default().push::<T>(bytes);
        assert_eq!((used, back), (bytes.len(), Some(Ok::<_, FrameError>(value))));
    }

    fn text<const N: usize>(s: &str) -> String<N> {
        String::try_from(s).expect("short")
    }

    #[test]
    fn the_bytes_of_every_message_stay() {
        golden(ToFiles::List { folder: text("a") }, &[1, 3, 1, b'a', 0]);
        golden(ToFiles::Get { file: text("a"), offset: 1 }, &[5, 1, 1, b'a', 1, 0]);
        golden(ToFiles::Have { id: [3; 16] }, &[18, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 0]);
        golden(
            ToFiles::Put { id: [4; 16], folder: text("f"), name: text("n"), offset: 1, total: 300 },
            &[25, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 1, b'f', 1, b'n', 1, 0xac, 2, 0],
        );
        golden(FromFiles::Entry { name: text("n"), folder: true, size: 1, modified: 1 }, &[1, 6, 1, b'n', 1, 1, 2, 0]);
        golden(FromFiles::End { more: true }, &[3, 1, 1, 0]);
        golden(FromFiles::Ready { offset: 1, size: 2, modified: 1 }, &[5, 2, 1, 2, 2, 0]);
        golden(FromFiles::Done { name: text("n"), size: 7 }, &[5, 3, 1, b'n', 7, 0]);
        golden(FromFiles::Refused { why: Why::NoRoom, reason: text("x") }, &[5, 4, 4, 1, b'x', 0]);
    }

    #[test]
    fn only_plain_paths_below_the_home_are_legal() {
        for path in ["", "a", "a/b c/é.txt", ".hidden", "..."] {
            assert!(legal(path), "{path}");
        }
        for path in ["/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a\nb", "a\0"] {
            assert!(!legal(path), "{path:?}");
        }
        assert!(!legal_name("a/b") && !legal_name(&"x".repeat(256)));
    }
}
