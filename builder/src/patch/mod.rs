//! `--patch-from`: what a node that runs an earlier set makes of its own root, instead of fetching it.
//!
//! ```text
//! earlier set --layout--+
//!                       +--> plan --> a frame for each run --> image::patch
//! new root -----layout--+
//! ```

mod layout;
mod plan;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use backhand::BackhandError;
use image::device::{Part, Stream};
use image::patch::{self, Extent, Head, PatchError, Run};
use image::set::{Section, Set, SetError};
use image::verity::Verity;
use sha2::{Digest, Sha256};

use crate::parallel::each_in_parallel;
use layout::Layout;
use plan::Unit;

/// A run that saves fewer bytes than this is not worth the node's work.
const WORTH: usize = 256;

/// Why there is no patch.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The earlier set is none.
    #[error("Cannot use {} to make a patch against: name the update set (NAME.set) of an earlier build", path.display())]
    Base {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: SetError,
    },
    /// It is of another image.
    #[error("{} is a set of {found}, and a patch for {expected} needs one of {expected}", path.display())]
    Name {
        /// Which.
        path: PathBuf,
        /// Its image.
        found: String,
        /// What is built.
        expected: String,
    },
    /// A root cannot be read.
    #[error("Cannot read the root in {}", path.display())]
    Read {
        /// Of which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A root's tables make no sense.
    #[error("Cannot read the tables of the root in {}", path.display())]
    Tables {
        /// Of which file.
        path: PathBuf,
        /// Why not.
        source: BackhandError,
    },
    /// A patch cannot be made.
    #[error(transparent)]
    Patch(#[from] PatchError),
}

type Result<T> = std::result::Result<T, MakeError>;

/// A root in a file: an artifact, or the part of a set.
#[derive(Clone, Debug)]
pub struct Root {
    path: PathBuf,
    start: u64,
    len: u64,
    /// Release of the kernel whose modules it has.
    kernel: String,
}

/// The root of an earlier set.
#[derive(Clone, Debug)]
pub struct Base {
    root: Root,
    name: String,
    /// Its root hash: by it a node finds the patch for what it runs.
    pub hash: [u8; 32],
}

impl Base {
    /// Looks at a set. It need not be signed: a patch against a wrong one only helps nobody.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |source| MakeError::Base { path: path.to_owned(), source };
        let file = File::open(path).map_err(|source| failed(SetError::Read { section: "header", source }))?;
        let set = Set::open(io::BufReader::new(file)).map_err(failed)?;
        let verity = set.manifest.verity().map_err(failed)?;
        let range = set.header.range(Section::Root);
        let root = Root {
            path: path.to_owned(),
            start: range.start,
            len: range.end - range.start,
            kernel: set.manifest.kernel.clone(),
        };
        Ok(Self { root, name: set.manifest.name, hash: verity.root })
    }

    /// Whether it is a set of this image.
    pub fn is_of(&self, name: &str) -> Result<()> {
        if self.name == name {
            return Ok(());
        }
        let (path, found) = (self.root.path.clone(), self.name.clone());
        Err(MakeError::Name { path, found, expected: name.to_owned() })
    }
}

impl Root {
    /// The root in a file of its own: squashfs, then the tree.
    pub fn new(path: &Path, verity: &Verity, kernel: &str) -> Self {
        Self { path: path.to_owned(), start: 0, len: verity.total_bytes(), kernel: kernel.to_owned() }
    }

    fn open(&self) -> Result<Stream<Part<File>>> {
        let file = File::open(&self.path).map_err(|source| self.unreadable(source))?;
        Ok(Stream::new(Part::new(file, self.start, self.len)))
    }

    fn layout(&self) -> Result<Layout> {
        Layout::read(self.open()?).map_err(|source| MakeError::Tables { path: self.path.clone(), source })
    }

    fn unreadable(&self, source: io::Error) -> MakeError {
        MakeError::Read { path: self.path.clone(), source }
    }

    fn raw(&self, stream: &mut (impl Read + Seek), extent: &Extent) -> Result<Vec<u8>> {
        let mut bytes = vec![0; extent.len as usize];
        let read = stream.seek(SeekFrom::Start(extent.at)).and_then(|_| stream.read_exact(&mut bytes));
        read.map(|()| bytes).map_err(|source| self.unreadable(source))
    }
}

/// Makes the patch: for what of `new`, packed at `level`, is not in the earlier root already, and is smaller as a
/// patch than as it is.
pub fn make(base: &Base, new: &Root, level: i32) -> Result<Vec<u8>> {
    let (old_layout, new_layout) = (base.root.layout()?, new.layout()?);
    let block_size = new_layout.block_size;
    let units = plan::plan(&old_layout, &new_layout, (&base.root.kernel, &new.kernel));
    let had = digests(&base.root, &old_layout)?;
    let work = Work { old: &base.root, new, had, block_size };
    let made = Mutex::new(Vec::new());
    each_in_parallel(units, |unit| -> Result<()> {
        if let Some(run) = work.run(&unit)? {
            made.lock().unwrap_or_else(PoisonError::into_inner).push(run);
        }
        Ok(())
    })?;
    let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.sort_by_key(|(run, _)| run.at);
    let (runs, frames): (Vec<Run>, Vec<Vec<u8>>) = made.into_iter().unzip();
    let head = Head { zstd: patch::library(), level, block_size, runs };
    Ok(patch::to_bytes(&head, &frames)?)
}

/// The packed blocks of a root: what a node has anyway.
fn digests(root: &Root, layout: &Layout) -> Result<HashSet<[u8; 32]>> {
    let mut stream = root.open()?;
    let blocks = layout.files.values().flat_map(|content| content.blocks.iter().flatten());
    let all: HashSet<&Extent> = blocks.chain(&layout.fragments).collect();
    let mut all: Vec<&Extent> = all.into_iter().collect();
    all.sort();
    all.into_iter().map(|extent| Ok(Sha256::digest(root.raw(&mut stream, extent)?).into())).collect()
}

struct Work<'a> {
    old: &'a Root,
    new: &'a Root,
    had: HashSet<[u8; 32]>,
    block_size: u32,
}

impl Work<'_> {
    /// A run with its frame; none when the node has its blocks, or they are shorter as they are.
    fn run(&self, unit: &Unit) -> Result<Option<(Run, Vec<u8>)>> {
        let mut stream = self.new.open()?;
        let stored = unit.blocks.iter().flatten();
        let packed = stored.clone().map(|extent| self.new.raw(&mut stream, extent)).collect::<Result<Vec<_>>>()?;
        let new = packed.iter().any(|raw| !self.had.contains(&<[u8; 32]>::from(Sha256::digest(raw))));
        let Some(first) = stored.clone().next().filter(|_| new) else { return Ok(None) };
        let packed = packed.concat();
        let mut bytes = Vec::new();
        for block in &unit.blocks {
            if let Some(extent) = block {
                bytes.extend(patch::reference(&mut stream, &[*extent], self.block_size)?);
            } else {
                let left = (unit.bytes as usize).saturating_sub(bytes.len());
                bytes.resize(bytes.len() + left.min(self.block_size as usize), 0);
            }
        }
        let reference = patch::reference(&mut self.old.open()?, &unit.from, self.block_size)?;
        let frame = patch::frame(&reference, &bytes)?;
        if frame.len() + WORTH > packed.len() {
            return Ok(None);
        }
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let run = Run {
            at: first.at,
            bytes: length(&bytes),
            frame: length(&frame),
            check: patch::check(&packed),
            from: unit.from.clone(),
        };
        Ok(Some((run, frame)))
    }
}
