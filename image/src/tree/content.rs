//! The bytes of a regular file, wherever they lie until the image is written.

use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::TreeError;

/// The bytes of a regular file: in memory, or still on this machine's disk.
#[derive(Clone)]
pub enum Content {
    /// In memory, shared between equal files.
    Bytes(Arc<[u8]>),
    /// On disk. It must not change until the image is written; a changed length is an error.
    File {
        /// Where.
        path: PathBuf,
        /// Its length when it was added.
        len: u64,
    },
    /// A piece of a file on disk, such as a member of an unpacked archive. The file must not change.
    Part {
        /// Where.
        path: Arc<Path>,
        /// First byte of the piece.
        offset: u64,
        /// Its length; a file that ends earlier is an error.
        len: u64,
    },
}

impl Content {
    /// Refers to a file on disk, taking its length now.
    ///
    /// # Errors
    /// When it cannot be examined.
    pub fn from_path(path: impl Into<PathBuf>) -> Result<Self, TreeError> {
        let path = path.into();
        match std::fs::metadata(&path) {
            Ok(meta) => Ok(Self::File { len: meta.len(), path }),
            Err(source) => Err(TreeError::Read { path, source }),
        }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { len, .. } | Self::Part { len, .. } => *len,
        }
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A reader from the start. It gives exactly [`Content::len`] bytes, or an error.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(&self) -> Result<ContentReader, TreeError> {
        Ok(match self {
            Self::Bytes(bytes) => ContentReader(Source::Bytes(Cursor::new(bytes.clone()))),
            Self::File { path, len } => {
                let file = File::open(path).map_err(|source| TreeError::Read { path: path.clone(), source })?;
                ContentReader(Source::File { file, left: *len, path: path.clone() })
            }
            Self::Part { path, offset, len } => {
                let read_error = |source| TreeError::Read { path: path.to_path_buf(), source };
                let mut file = File::open(path).map_err(read_error)?;
                file.seek(SeekFrom::Start(*offset)).map_err(read_error)?;
                ContentReader(Source::Part { file, left: *len, path: path.clone() })
            }
        })
    }

    /// All bytes in memory.
    ///
    /// # Errors
    /// When the file cannot be read or has another length than when it was added.
    pub fn read(&self) -> Result<Arc<[u8]>, TreeError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File { len, .. } | Self::Part { len, .. } => {
                let mut bytes = Vec::with_capacity(usize::try_from(*len).unwrap_or(0));
                self.open()?
                    .read_to_end(&mut bytes)
                    .map_err(|source| TreeError::Read { path: self.source_path(), source })?;
                Ok(bytes.into())
            }
        }
    }

    /// SHA-256 of the bytes.
    ///
    /// # Errors
    /// As [`Content::read`].
    pub fn sha256(&self) -> Result<[u8; 32], TreeError> {
        let digest = crate::digest::digest(self.open()?);
        digest.map(|(sha256, _)| sha256).map_err(|source| TreeError::Read { path: self.source_path(), source })
    }

    fn source_path(&self) -> PathBuf {
        match self {
            Self::Bytes(_) => PathBuf::from("(memory)"),
            Self::File { path, .. } => path.clone(),
            Self::Part { path, .. } => path.to_path_buf(),
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::File { path, len } => write!(f, "File({}, {len} bytes)", path.display()),
            Self::Part { path, offset, len } => write!(f, "Part({} at {offset}, {len} bytes)", path.display()),
        }
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

/// Reads the bytes of a [`Content`]; a file that shrank or grew since it was added is an error.
#[derive(Debug)]
pub struct ContentReader(Source);

#[derive(Debug)]
enum Source {
    Bytes(Cursor<Arc<[u8]>>),
    File { file: File, left: u64, path: PathBuf },
    Part { file: File, left: u64, path: Arc<Path> },
}

impl Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Source::Bytes(cursor) => cursor.read(buffer),
            Source::File { file, left, path } => {
                let n = file.read(buffer)?;
                if buffer.is_empty() {
                    return Ok(0);
                }
                let changed = if n == 0 { *left != 0 } else { n as u64 > *left };
                if changed {
                    let text = format!("{} changed its length while the image was written", path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                *left -= n as u64;
                Ok(n)
            }
            Source::Part { file, left, path } => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                let n = file.read(&mut buffer[..most])?;
                if n == 0 && most > 0 {
                    let text = format!("{} ends before the piece that belongs in the image", path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                *left -= n as u64;
                Ok(n)
            }
        }
    }
}
