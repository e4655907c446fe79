//! Imports: an upload (tar, plain or compressed, or squashfs) becomes the squashfs that nodes mount.
//!
//! The image is always written anew, never passed on as it came: what nodes mount with privilege was
//! made by our writer. Contents stream through; nothing is unpacked to disk. Device nodes are dropped
//! and counted; a path or link that leaves the tree ends the import with its name. Bytes for bytes, the
//! same upload gives the same image.

mod jobs;
mod squash;
mod tarball;

pub use jobs::{Imports, Order, start};

use image::squashfs::{self, SquashfsError};
use model::Digest;
use sha2::Digest as _;
use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// Highest uid and gid that a guest has.
const ID_MAX: u64 = 65_535;
/// More entries than this are no image of a machine.
const ENTRIES_MAX: u64 = 10_000_000;
/// Nor are more bytes.
const BYTES_MAX: u64 = 1 << 40;

/// Why an upload is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Its first bytes are those of nothing we read.
    #[error("it is no tar, tar.gz, tar.xz, tar.zst or squashfs: it begins with {0}")]
    Unknown(String),
    /// It breaks off or contradicts itself.
    #[error("it cannot be read behind {entries} entries: {source}")]
    Archive {
        /// Entries that were read.
        entries: u64,
        /// What is wrong; part of the message, since it is the whole of it.
        source: io::Error,
    },
    /// An entry that no image may hold.
    #[error("{path:?} {reason}")]
    Entry {
        /// Its path.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It holds nothing.
    #[error("there is nothing in it")]
    Empty,
    /// It is larger than any image.
    #[error("it holds more than {0}")]
    TooLarge(&'static str),
    /// Its digest is not the one announced.
    #[error("its SHA-256 is {found}, and {expected} was announced: upload it again")]
    Digest {
        /// Of the bytes that arrived.
        found: Digest,
        /// As announced.
        expected: Digest,
    },
    /// The store stops.
    #[error("the store stopped before it was done")]
    Stopped,
    /// The image cannot be written.
    #[error("{}", crate::error::chain(.0))]
    Write(SquashfsError),
    /// The file system fails.
    #[error("cannot {action}: {source}")]
    File {
        /// What was being done.
        action: &'static str,
        /// Why not; part of the message, since it is the whole of it.
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, ImportError>;

/// How far a conversion is, and a way to end it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of the upload read.
    pub read: AtomicU64,
    /// Set to end it early.
    pub stop: AtomicBool,
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Converted {
    /// SHA-256 of the image.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: u64,
    /// Entries in it.
    pub entries: u64,
    /// Device nodes left out.
    pub dropped_devices: u64,
}

/// Counts while entries are written.
#[derive(Debug, Default)]
struct Counts {
    entries: u64,
    bytes: u64,
    dropped_devices: u64,
    dropped_xattrs: u64,
}

impl Counts {
    fn entry(&mut self, bytes: u64) -> Result<()> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.entries > ENTRIES_MAX {
            return Err(ImportError::TooLarge("10 million entries"));
        }
        if self.bytes > BYTES_MAX { Err(ImportError::TooLarge("1 TiB")) } else { Ok(()) }
    }
}

/// An owner whom a guest can have; else what is wrong with it. `what` is `uid` or `gid`.
fn guests_id(what: &str, id: u64) -> std::result::Result<u32, String> {
    let own = u32::try_from(id).ok().filter(|_| id <= ID_MAX);
    own.ok_or_else(|| format!("belongs to {what} {id}: expected at most {ID_MAX}, a guest has no others"))
}

type Writer = squashfs::Writer<BufWriter<File>>;

/// Converts `upload` to a squashfs at `scratch`. Blocks; on failure `scratch` is left for the caller to remove.
pub fn convert(upload: &Path, scratch: &Path, expected: Option<Digest>, progress: &Arc<Progress>) -> Result<Converted> {
    let file = |action: &'static str| move |source| ImportError::File { action, source };
    let out = File::create(scratch).map_err(file("create the image"))?;
    let mut writer = Writer::new(BufWriter::with_capacity(1 << 20, out), squashfs::Options::default())
        .map_err(ImportError::Write)?;
    let mut counts = Counts::default();
    let source = File::open(upload).map_err(file("open the upload"))?;
    let mut source = Source { file: source, hash: sha2::Sha256::new(), progress: progress.clone() };
    unpack(&mut source, &mut writer, &mut counts).map_err(|e| stopped(e, progress))?;
    // The decoders stop at their own end; the digest is of all bytes, and nothing may hide behind.
    io::copy(&mut source, &mut io::sink()).map_err(file("read the upload"))?;
    let found = Digest(source.hash.finalize().into());
    if let Some(expected) = expected.filter(|expected| *expected != found) {
        return Err(ImportError::Digest { found, expected });
    }
    if counts.entries == 0 {
        return Err(ImportError::Empty);
    }
    if counts.dropped_xattrs > 0 {
        tracing::info!(count = counts.dropped_xattrs, "Attributes were left out of an image: ACLs and overlayfs's own");
    }
    let (out, summary) = writer.finish().map_err(ImportError::Write)?;
    out.into_inner()
        .map_err(|e| file("write the image")(e.into_error()))?
        .sync_all()
        .map_err(file("sync the image"))?;
    let digest = digest_of(scratch).map_err(file("read the image"))?;
    let Counts { entries, dropped_devices, .. } = counts;
    Ok(Converted { digest, bytes: summary.bytes, entries, dropped_devices })
}

fn stopped(error: ImportError, progress: &Progress) -> ImportError {
    if progress.stop.load(Ordering::Relaxed) { ImportError::Stopped } else { error }
}

fn unpack(source: &mut Source, writer: &mut Writer, counts: &mut Counts) -> Result<()> {
    let mut buffered = BufReader::with_capacity(256 << 10, source);
    let head = fill(&mut buffered).map_err(|source| ImportError::Archive { entries: 0, source })?;
    match Format::of(&head) {
        Some(Format::Tar) => tarball::unpack(buffered, writer, counts),
        Some(Format::Gzip) => tarball::unpack(flate2::bufread::MultiGzDecoder::new(buffered), writer, counts),
        Some(Format::Xz) => tarball::unpack(lzma_rust2::XzReader::new(buffered, true), writer, counts),
        Some(Format::Zstd) => {
            let decoder = zstd::Decoder::with_buffer(buffered);
            let decoder = decoder.map_err(|source| ImportError::Archive { entries: 0, source })?;
            tarball::unpack(decoder, writer, counts)
        }
        Some(Format::Squashfs) => {
            let source = buffered.get_ref();
            squash::unpack(&source.file, &source.progress, writer, counts)
        }
        None => Err(ImportError::Unknown(
            head.iter().take(8).map(|b| format!("{b:02x} ")).collect::<String>().trim().to_owned(),
        )),
    }
}

/// The first bytes, left in the buffer.
fn fill(reader: &mut BufReader<&mut Source>) -> io::Result<Vec<u8>> {
    use io::BufRead;
    Ok(reader.fill_buf()?.iter().take(512).copied().collect())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Tar,
    Gzip,
    Xz,
    Zstd,
    Squashfs,
}

impl Format {
    fn of(head: &[u8]) -> Option<Self> {
        let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
        [
            (0, &b"\x1f\x8b"[..], Self::Gzip),
            (0, b"\xfd7zXZ\0", Self::Xz),
            (0, b"\x28\xb5\x2f\xfd", Self::Zstd),
            (0, b"hsqs", Self::Squashfs),
            (257, b"ustar", Self::Tar),
        ]
        .into_iter()
        .find_map(|(offset, magic, format)| at(offset, magic).then_some(format))
    }
}

/// The upload: counted, hashed, and ended when asked.
struct Source {
    file: File,
    hash: sha2::Sha256,
    progress: Arc<Progress>,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.progress.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("stopped"));
        }
        let read = self.file.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.progress.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

fn digest_of(path: &Path) -> io::Result<Digest> {
    Ok(Digest(::image::digest(File::open(path)?)?.0))
}
