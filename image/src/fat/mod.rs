//! FAT16 and FAT32 volumes written in one pass, for the EFI system partition and the seed partition.
//!
//! Everything about a volume is known before its first byte, so files lie in one piece each, in the order
//! of their names; ids and times are fixed. Long names are stored as such. The output is taken to be
//! zeros already (a new sparse file): only what is not zero is written.

pub mod edit;
mod folder;
mod geometry;
mod layout;
mod names;
mod read;

use std::collections::BTreeMap;
use std::io::{self, Seek, SeekFrom, Write};

use thiserror::Error;

use crate::tree::{Content, TreeError};
use geometry::Geometry;
use names::Slot;

pub use edit::{Editor, Reclaimed};
pub use read::{FatReader, FileInfo};

/// Why a volume cannot be written or read.
#[derive(Debug, Error)]
pub enum FatError {
    /// A path that FAT cannot hold.
    #[error("{path:?} cannot be stored on a FAT volume: {reason}")]
    BadPath {
        /// The path as given.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Too small or too large for FAT16 and FAT32.
    #[error("A FAT volume cannot have {bytes} bytes, expected a multiple of 512 from 2200 KiB to 2 TiB")]
    Size {
        /// What was asked for.
        bytes: u64,
    },
    /// The files do not fit.
    #[error("The files need {needed} bytes and the FAT volume {label} has room for {room}")]
    Full {
        /// The volume's label.
        label: String,
        /// Bytes that the files and folders take, in whole clusters.
        needed: u64,
        /// Bytes of all clusters.
        room: u64,
    },
    /// A file's contents could not be opened.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The output refused, or a file's contents could not be read.
    #[error("Cannot write {what} to the FAT volume")]
    Write {
        /// Which part.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// It is no FAT volume, or a damaged one.
    #[error("The FAT volume is damaged: {what}")]
    Damaged {
        /// What was found.
        what: String,
    },
    /// The volume could not be read.
    #[error("Cannot read {what} of the FAT volume")]
    Read {
        /// Which part.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// A new file does not fit on the volume, or its name into its folder.
    #[error("{path} needs {needed} bytes, and the FAT volume has {free} left for it")]
    NoSpace {
        /// Path of the new file.
        path: String,
        /// Bytes it would take, in whole clusters.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The name is in use.
    #[error("The FAT volume has {path} already (capitals and small letters are the same there)")]
    Taken {
        /// The path that was to be made.
        path: String,
    },
    /// No file of this name.
    #[error("The FAT volume has no file {path}")]
    Missing {
        /// The path asked for.
        path: String,
    },
}

/// A volume to be written.
#[derive(Clone, Debug)]
pub struct FatVolume {
    label: [u8; 11],
    id: u32,
    bytes: u64,
    hidden_sectors: u32,
    root: Folder,
}

type Folder = BTreeMap<String, Node>;

#[derive(Clone, Debug)]
enum Node {
    Folder(Folder),
    File(Content),
}

impl FatVolume {
    /// An empty volume of so many bytes: FAT32 from 260 MiB on, else FAT16.
    ///
    /// # Errors
    /// When the size or the label (1 to 11 of `A-Z 0-9 - _`) is not usable.
    pub fn new(label: &str, id: u32, bytes: u64) -> Result<Self, FatError> {
        let usable = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if label.is_empty() || label.len() > 11 || !label.bytes().all(usable) {
            let reason = "a label is 1 to 11 of A-Z, 0-9, - and _";
            return Err(FatError::BadPath { path: label.to_owned(), reason });
        }
        Geometry::new(bytes)?;
        let mut padded = [b' '; 11];
        padded[..label.len()].copy_from_slice(label.as_bytes());
        Ok(Self { label: padded, id, bytes, hidden_sectors: 0, root: Folder::new() })
    }

    /// Where the volume starts on its disk, in sectors of 512 bytes; some firmware reads this.
    #[must_use]
    pub fn at_sector(mut self, sector: u32) -> Self {
        self.hidden_sectors = sector;
        self
    }

    /// Adds a file and its missing folders.
    ///
    /// # Errors
    /// When a name is unusable or taken (FAT does not know `a` from `A`).
    pub fn file(&mut self, path: &str, content: impl Into<Content>) -> Result<(), FatError> {
        let bad = |reason| FatError::BadPath { path: path.to_owned(), reason };
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (name, folders) = parts.split_last().ok_or(bad("it is empty"))?;
        let content = content.into();
        if content.len() > u64::from(u32::MAX) {
            return Err(bad("FAT holds files below 4 GiB"));
        }
        let mut folder = &mut self.root;
        for part in folders {
            let key = names::checked(part).map_err(bad)?;
            let key = known(folder, key);
            match folder.entry(key).or_insert_with(|| Node::Folder(Folder::new())) {
                Node::Folder(next) => folder = next,
                Node::File(_) => return Err(bad("a part of it is a file")),
            }
        }
        let key = names::checked(name).map_err(bad)?;
        if folder.contains_key(&known(folder, key)) {
            return Err(bad("that name is taken"));
        }
        folder.insert(key.to_owned(), Node::File(content));
        Ok(())
    }

    /// Writes the volume at the output's present position, and leaves it at the volume's end.
    ///
    /// # Errors
    /// When the files do not fit or the output cannot be written.
    pub fn write(&self, out: &mut (impl Write + Seek)) -> Result<(), FatError> {
        let geometry = Geometry::new(self.bytes)?;
        let base = out.stream_position().map_err(write_error("the start"))?;
        let mut plan = Plan { geometry: &geometry, chains: Vec::new(), pieces: Vec::new(), next: 2 };
        plan.folder(&self.root, None, Some(&self.label))?;
        let room = u64::from(geometry.clusters) * geometry.cluster_bytes();
        let needed = u64::from(plan.next - 2) * geometry.cluster_bytes();
        if needed > room {
            let label = String::from_utf8_lossy(&self.label).trim_end().to_owned();
            return Err(FatError::Full { label, needed, room });
        }
        for (at, bytes) in geometry.system_area(&self.label, self.id, self.hidden_sectors, &plan.chains, plan.next) {
            put(out, base + at, "the file tables", &bytes)?;
        }
        for piece in &plan.pieces {
            match piece {
                Piece::Folder { at, bytes } => put(out, base + at, "a folder", bytes)?,
                Piece::File { at, content, name } => {
                    out.seek(SeekFrom::Start(base + at)).map_err(write_error(name))?;
                    io::copy(&mut content.open()?, out).map_err(write_error(name))?;
                }
            }
        }
        out.seek(SeekFrom::Start(base + self.bytes)).map_err(write_error("the end"))?;
        Ok(())
    }
}

/// The name as it is spelt in the folder already, if it is there in other letters.
fn known(folder: &Folder, name: &str) -> String {
    let same = |known: &&String| known.eq_ignore_ascii_case(name);
    folder.keys().find(same).cloned().unwrap_or_else(|| name.to_owned())
}

fn put(out: &mut (impl Write + Seek), at: u64, what: &str, bytes: &[u8]) -> Result<(), FatError> {
    out.seek(SeekFrom::Start(at)).and_then(|_| out.write_all(bytes)).map_err(write_error(what))
}

fn write_error(what: &str) -> impl FnOnce(io::Error) -> FatError {
    let what = what.to_owned();
    move |source| FatError::Write { what, source }
}

/// A run of clusters: first and how many.
type Chain = (u32, u32);

enum Piece<'a> {
    Folder { at: u64, bytes: Vec<u8> },
    File { at: u64, content: &'a Content, name: String },
}

/// Gives out clusters, parents before children, and encodes folders on the way back.
struct Plan<'a> {
    geometry: &'a Geometry,
    chains: Vec<Chain>,
    pieces: Vec<Piece<'a>>,
    next: u32,
}

impl<'a> Plan<'a> {
    /// `parent` is `None` for the root, else the cluster that `..` names. Gives the folder's first cluster.
    fn folder(&mut self, folder: &'a Folder, parent: Option<u32>, label: Option<&[u8; 11]>) -> Result<u32, FatError> {
        let short_names = names::short_names(folder.keys());
        let fixed = if parent.is_some() { 2 } else { usize::from(label.is_some()) };
        let slots =
            fixed + folder.keys().zip(&short_names).map(|(name, short)| names::slots(name, short)).sum::<usize>();
        let bytes = slots as u64 * 32;
        let fixed_place = if parent.is_none() { self.geometry.root_region(bytes)? } else { None };
        let (first, at) = match fixed_place {
            Some(at) => (0, at),
            None => {
                let first = self.take(bytes.max(1))?;
                (first, self.geometry.cluster_at(first))
            }
        };
        let mut out = Vec::new();
        if let Some(label) = label {
            out.extend(Slot { short: *label, attributes: 0x08, cluster: 0, len: 0 }.to_bytes());
        }
        if let Some(parent) = parent {
            out.extend(Slot { short: *b".          ", attributes: 0x10, cluster: first, len: 0 }.to_bytes());
            out.extend(Slot { short: *b"..         ", attributes: 0x10, cluster: parent, len: 0 }.to_bytes());
        }
        for ((name, node), short) in folder.iter().zip(&short_names) {
            let (attributes, cluster, len) = match node {
                // `..` of a folder in the root is cluster 0 even where the root has a cluster.
                Node::Folder(sub) => (0x10, self.folder(sub, Some(if parent.is_none() { 0 } else { first }), None)?, 0),
                Node::File(content) => {
                    (0x20, self.file(name, content)?, u32::try_from(content.len()).unwrap_or(u32::MAX))
                }
            };
            out.extend(names::long_slots(name, short));
            out.extend(Slot { short: *short, attributes, cluster, len }.to_bytes());
        }
        self.pieces.push(Piece::Folder { at, bytes: out });
        Ok(first)
    }

    fn file(&mut self, name: &str, content: &'a Content) -> Result<u32, FatError> {
        if content.is_empty() {
            return Ok(0);
        }
        let first = self.take(content.len())?;
        self.pieces.push(Piece::File { at: self.geometry.cluster_at(first), content, name: name.to_owned() });
        Ok(first)
    }

    /// Clusters for so many bytes. May go beyond the volume: that is told once all needs are known.
    fn take(&mut self, bytes: u64) -> Result<u32, FatError> {
        let count = bytes.div_ceil(self.geometry.cluster_bytes());
        let first = self.next;
        let count = u32::try_from(count).map_err(|_| FatError::Size { bytes })?;
        self.next = first.checked_add(count).ok_or(FatError::Size { bytes })?;
        self.chains.push((first, count));
        Ok(first)
    }
}

#[cfg(test)]
mod tests;
