//! Patches: what is new in a root, made by a node out of the root that it runs.
//!
//! [`crate::chunks`] finds bytes that two roots have in common. In a squashfs they have few where a file changed at all:
//! one other byte is another compressed block. A patch goes below the compression. It holds blocks of the new root
//! unpacked, as zstd frames against unpacked blocks of the old one; the node packs what comes out as the builder did,
//! and has the same bytes.
//!
//! ```text
//! "ROOSTPAT" | length of the head (u32, little-endian) | head (postcard, zstd) | a frame for each run, in order
//! ```
//!
//! A patch only ever saves bytes on the wire: what it makes is held against the chunk table like anything else that is
//! on the node, and a run that came out otherwise is not even written. So it need not be right for every node; it need
//! be for those with the same libzstd, which its head names.

use std::io::{self, Read, Seek, SeekFrom, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use zstd::bulk::{Compressor, Decompressor};
use zstd::stream::{read::Decoder, write::Encoder};

use crate::squashfs::{self, SquashfsError};

/// Most that a run has unpacked, in bytes.
pub const RUN_MAX: u32 = 4 << 20;
/// Most that the old blocks of a run have unpacked, in bytes. With [`RUN_MAX`] it bounds the memory of a node at work.
pub const REFERENCE_MAX: usize = 8 << 20;
/// As far as a frame looks back: a run and all that it is made of.
const WINDOW_LOG: u32 = 24;
/// A patch is made once, and fetched by every node.
const FRAME_LEVEL: i32 = 19;
/// Most bytes of a head, unpacked: some hundred runs have some ten thousand.
const HEAD_MAX: usize = 16 << 20;
/// Blocks of a squashfs have at most so many bytes.
const BLOCK_MAX: u32 = 1 << 20;

const MAGIC: &[u8; 8] = b"ROOSTPAT";

/// Why a patch does not help.
#[derive(Debug, Error)]
pub enum PatchError {
    /// It cannot be read, or ends too early.
    #[error("Cannot read the patch")]
    Read(#[source] io::Error),
    /// It is something else.
    #[error("This is no patch: it begins with {found:?}, expected \"ROOSTPAT\"")]
    Magic {
        /// Its first bytes.
        found: String,
    },
    /// It cannot be made.
    #[error("Cannot make a patch")]
    Make(#[source] io::Error),
    /// Its head is none.
    #[error("The head of the patch cannot be understood")]
    Head(#[source] io::Error),
    /// It says something that no patch says.
    #[error("{what} of the patch is {found}, expected at most {limit}")]
    Limit {
        /// What was looked at.
        what: &'static str,
        /// What it is.
        found: u64,
        /// What it may be.
        limit: u64,
    },
    /// Here blocks are packed by another library, and the same bytes are not to be expected.
    #[error("The patch is for libzstd {found}, and here is {here}")]
    Library {
        /// Of the builder.
        found: u32,
        /// Of this program.
        here: u32,
    },
    /// The old root cannot be read.
    #[error("Cannot read the root that the patch is made against")]
    Old(#[source] io::Error),
    /// A frame is damaged, or the old root is another one.
    #[error("Run {number} of the patch cannot be unpacked")]
    Run {
        /// From 0.
        number: usize,
        /// Why not.
        source: io::Error,
    },
    /// A block cannot be packed.
    #[error(transparent)]
    Pack(#[from] SquashfsError),
    /// The new root cannot be written.
    #[error("Cannot write what the patch made")]
    Write(#[source] io::Error),
}

type Result<T> = std::result::Result<T, PatchError>;

/// What is in a patch, and how it is packed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Version number of libzstd that packed the new root: [`library`].
    pub zstd: u32,
    /// Level at which it did.
    pub level: i32,
    /// Bytes of a block of both roots, unpacked.
    pub block_size: u32,
    /// What is made, in any order.
    pub runs: Vec<Run>,
}

/// Neighbouring blocks of the new root: all whole but for the last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Where they lie in the new root.
    pub at: u64,
    /// How many bytes they have unpacked: at most [`RUN_MAX`].
    pub bytes: u32,
    /// How many bytes its frame has.
    pub frame: u32,
    /// [`check`] of them as they lie there.
    pub check: [u8; 8],
    /// Blocks of the old root that the frame is made against: at most [`REFERENCE_MAX`] bytes unpacked.
    pub from: Vec<Extent>,
}

/// A block, where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Extent {
    /// From the root's first byte.
    pub at: u64,
    /// How many bytes it has there.
    pub len: u32,
    /// Whether those are the block itself, not packed.
    pub stored: bool,
}

/// What became of a patch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Runs written.
    pub runs: usize,
    /// Runs that came out as something else, and were not.
    pub others: usize,
    /// Bytes written.
    pub bytes: u64,
}

/// Version number of the libzstd in this program.
#[must_use]
pub fn library() -> u32 {
    zstd::zstd_safe::version_number()
}

/// What a run is known by when it is made: the beginning of the SHA-256 of its blocks as they lie in the root.
#[must_use]
pub fn check(packed: &[u8]) -> [u8; 8] {
    let digest = Sha256::digest(packed);
    std::array::from_fn(|at| digest[at])
}

/// The frame that makes `bytes` out of what [`reference`] gives.
///
/// # Errors
/// When libzstd has no memory.
pub fn frame(reference: &[u8], bytes: &[u8]) -> Result<Vec<u8>> {
    let make = || {
        let mut encoder = Encoder::with_ref_prefix(Vec::new(), FRAME_LEVEL, reference)?;
        encoder.set_pledged_src_size(Some(bytes.len() as u64))?;
        encoder.window_log(WINDOW_LOG)?;
        encoder.long_distance_matching(true)?;
        encoder.write_all(bytes)?;
        encoder.finish()
    };
    make().map_err(PatchError::Make)
}

/// Blocks of a root, unpacked, one behind the other.
///
/// # Errors
/// When they cannot be read or unpacked, or come to more than [`REFERENCE_MAX`].
pub fn reference(root: &mut (impl Read + Seek), from: &[Extent], block_size: u32) -> Result<Vec<u8>> {
    limit("the block size", u64::from(block_size), u64::from(BLOCK_MAX))?;
    let mut unpacker = Decompressor::new().map_err(PatchError::Old)?;
    let mut all = Vec::new();
    for extent in from {
        limit("the length of a block", u64::from(extent.len), u64::from(block_size))?;
        root.seek(SeekFrom::Start(extent.at)).map_err(PatchError::Old)?;
        let mut bytes = vec![0; extent.len as usize];
        root.read_exact(&mut bytes).map_err(PatchError::Old)?;
        if !extent.stored {
            bytes = unpacker.decompress(&bytes, block_size as usize).map_err(PatchError::Old)?;
        }
        all.extend(bytes);
        limit("the reference of a run", all.len() as u64, REFERENCE_MAX as u64)?;
    }
    Ok(all)
}

/// Bytes as a squashfs has them: in blocks, each packed.
fn pack(bytes: &[u8], compressor: &mut Compressor<'_>, block_size: u32) -> Result<Vec<u8>> {
    let mut packed = Vec::new();
    for block in bytes.chunks(block_size.max(1) as usize) {
        packed.extend(squashfs::block(compressor, block)?);
    }
    Ok(packed)
}

/// Writes a patch: its head, and the frames in the order of the runs.
///
/// # Errors
/// When the head cannot be packed.
pub fn to_bytes(head: &Head, frames: &[Vec<u8>]) -> Result<Vec<u8>> {
    let plain = postcard::to_allocvec(head).map_err(io::Error::other).map_err(PatchError::Make)?;
    let pack = || {
        let mut compressor = Compressor::new(FRAME_LEVEL)?;
        // A run is known by its digest; where it belongs is not.
        compressor.include_checksum(true)?;
        compressor.compress(&plain)
    };
    let packed = pack().map_err(PatchError::Make)?;
    let length = u32::try_from(packed.len()).unwrap_or(u32::MAX);
    Ok([&MAGIC[..], &length.to_le_bytes(), &packed]
        .into_iter()
        .chain(frames.iter().map(Vec::as_slice))
        .collect::<Vec<_>>()
        .concat())
}

/// Reads the head, up to the first frame.
///
/// # Errors
/// When it is none, or is for another library.
pub fn head(patch: &mut impl Read) -> Result<Head> {
    let mut start = [0; 12];
    patch.read_exact(&mut start).map_err(PatchError::Read)?;
    if !start.starts_with(MAGIC) {
        return Err(PatchError::Magic { found: start[..8].escape_ascii().to_string() });
    }
    let length = u32::from_le_bytes([start[8], start[9], start[10], start[11]]);
    limit("the length of the head", u64::from(length), HEAD_MAX as u64)?;
    let mut packed = vec![0; length as usize];
    patch.read_exact(&mut packed).map_err(PatchError::Read)?;
    let plain = zstd::bulk::decompress(&packed, HEAD_MAX).map_err(PatchError::Head)?;
    let head: Head = postcard::from_bytes(&plain).map_err(io::Error::other).map_err(PatchError::Head)?;
    if head.zstd != library() {
        return Err(PatchError::Library { found: head.zstd, here: library() });
    }
    Ok(head)
}

/// Makes what is in a patch out of an old root, and hands it over by where it lies in the new one.
///
/// # Errors
/// When the patch or the old root cannot be read, are not what they should be, or `put` fails. What was handed over
/// until then is right.
pub fn apply(
    patch: &mut impl Read,
    old: &mut (impl Read + Seek),
    mut put: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> Result<Applied> {
    let head = head(patch)?;
    let mut compressor = Compressor::new(head.level).map_err(SquashfsError::Compress)?;
    let mut applied = Applied::default();
    for (number, run) in head.runs.iter().enumerate() {
        limit("the length of a run", u64::from(run.bytes), u64::from(RUN_MAX))?;
        let reference = reference(old, &run.from, head.block_size)?;
        let bytes = unframe(patch.take(u64::from(run.frame)), &reference, run.bytes)
            .map_err(|source| PatchError::Run { number, source })?;
        let packed = pack(&bytes, &mut compressor, head.block_size)?;
        if check(&packed) == run.check {
            put(run.at, &packed).map_err(PatchError::Write)?;
            applied.runs += 1;
            applied.bytes += packed.len() as u64;
        } else {
            applied.others += 1;
        }
    }
    Ok(applied)
}

/// What [`frame`] made, which must be of this length.
fn unframe(mut frame: impl Read, reference: &[u8], expected: u32) -> io::Result<Vec<u8>> {
    let mut packed = Vec::new();
    frame.read_to_end(&mut packed)?;
    let mut decoder = Decoder::with_ref_prefix(&packed[..], reference)?;
    decoder.window_log_max(WINDOW_LOG)?;
    let mut bytes = Vec::new();
    decoder.take(u64::from(expected) + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != u64::from(expected) {
        return Err(io::Error::other(format!("it has {} bytes unpacked, expected {expected}", bytes.len())));
    }
    Ok(bytes)
}

fn limit(what: &'static str, found: u64, limit: u64) -> Result<()> {
    if found <= limit { Ok(()) } else { Err(PatchError::Limit { what, found, limit }) }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    const BLOCK: u32 = 4096;
    const LEVEL: i32 = 6;

    /// Text that a compressor finds something in, different with every seed.
    fn words(seed: u64, len: usize) -> Vec<u8> {
        let word = |n: u64| format!("{:x} ", Sha256::digest((seed + n / 3).to_le_bytes())[0]);
        (0..).flat_map(|n| word(n).into_bytes()).take(len).collect()
    }

    /// Blocks one behind the other, as in an image.
    fn image(bytes: &[u8]) -> (Vec<u8>, Vec<Extent>) {
        let mut compressor = Compressor::new(LEVEL).expect("a compressor");
        let (mut all, mut extents) = (vec![0; 96], Vec::new());
        for block in bytes.chunks(BLOCK as usize) {
            let packed = squashfs::block(&mut compressor, block).expect("packed");
            let (at, len) = (all.len() as u64, packed.len() as u32);
            extents.extend((len > 0).then_some(Extent { at, len, stored: packed == block }));
            all.extend(packed);
        }
        (all, extents)
    }

    /// A patch of one run, and the new root that it makes.
    fn made(old: &[u8], new: &[u8]) -> (Head, Vec<u8>, Vec<u8>, Vec<u8>) {
        let ((old_image, from), (new_image, _)) = (image(old), image(new));
        let reference = reference(&mut Cursor::new(&old_image), &from, BLOCK).expect("unpacked");
        let frame = frame(&reference, new).expect("a frame");
        let bytes = new.len() as u32;
        let run = Run { at: 96, bytes, frame: frame.len() as u32, check: check(&new_image[96..]), from };
        let head = Head { zstd: library(), level: LEVEL, block_size: BLOCK, runs: vec![run] };
        (head, frame, old_image, new_image)
    }

    fn applied(patch: &[u8], old: &[u8], new: usize) -> Result<(Applied, Vec<u8>)> {
        let mut out = vec![0; new];
        let done = apply(&mut &patch[..], &mut Cursor::new(old), |at, bytes| {
            out[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
            Ok(())
        })?;
        Ok((done, out))
    }

    #[test]
    fn what_changed_little_is_made_from_little() {
        let old = words(1, 200_000);
        let mut new = old.clone();
        new.splice(50_000..50_010, *b"changed, and longer");
        new[150_000] ^= 1;
        let (head, frame, old_image, new_image) = made(&old, &new);
        assert!(frame.len() < 300 && new_image.len() > 10_000, "{} of {}", frame.len(), new_image.len());
        let patch = to_bytes(&head, &[frame]).expect("a patch");
        let (done, out) = applied(&patch, &old_image, new_image.len()).expect("applied");
        assert_eq!(done, Applied { runs: 1, others: 0, bytes: new_image.len() as u64 - 96 });
        assert!(out == new_image);
    }

    #[test]
    fn what_comes_out_as_something_else_is_not_written() {
        let (old, new) = (words(1, 20_000), words(2, 20_000));
        let (mut head, frame, old_image, new_image) = made(&old, &new);
        head.runs[0].check[7] ^= 1;
        let patch = to_bytes(&head, &[frame]).expect("a patch");
        let (done, out) = applied(&patch, &old_image, new_image.len()).expect("applied");
        assert_eq!(done, Applied { runs: 0, others: 1, bytes: 0 });
        assert!(out.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_is_no_patch_for_here_is_told() {
        let (old, new) = (words(1, 20_000), words(2, 20_000));
        let (head, frame, old_image, new_image) = made(&old, &new);
        let refused = |change: fn(&mut Head), expect: &str| {
            let mut head = head.clone();
            change(&mut head);
            let patch = to_bytes(&head, std::slice::from_ref(&frame)).expect("a patch");
            let error = applied(&patch, &old_image, new_image.len()).expect_err("refused").to_string();
            assert!(error.contains(expect), "{error}");
        };
        refused(|head| head.zstd = 1, "is for libzstd 1, and here is 1");
        refused(|head| head.block_size = 1 << 30, "the block size of the patch is 1073741824");
        refused(|head| head.runs[0].bytes = u32::MAX, "the length of a run of the patch");
        refused(|head| head.runs[0].bytes -= 1, "Run 0 of the patch cannot be unpacked");
        refused(|head| head.runs[0].from[0].at = 1 << 40, "Cannot read the root");
        refused(|head| head.runs[0].from = vec![head.runs[0].from[0]; 3000], "the reference of a run of the patch");
        let error = applied(b"something else that is long", &old_image, 0).expect_err("refused").to_string();
        assert!(error.starts_with("This is no patch: it begins with \"somethin\""), "{error}");
    }

    proptest! {
        #[test]
        fn any_change_of_any_file_comes_out(
            len in 0usize..40_000, cut in 0usize..40_000, more in 0usize..20_000, zeros in 0usize..20_000, seed: u8,
        ) {
            let old = words(1, len);
            let mut new = old[..cut.min(len)].to_vec();
            new.extend(words(u64::from(seed) + 1000, more));
            new.extend(vec![0; zeros]);
            new.extend(&old[cut.min(len)..]);
            let (head, frame, old_image, new_image) = made(&old, &new);
            let patch = to_bytes(&head, &[frame]).expect("a patch");
            let (done, out) = applied(&patch, &old_image, new_image.len()).expect("applied");
            prop_assert_eq!(done.runs, 1);
            prop_assert!(out[96..] == new_image[96..]);
        }

        #[test]
        fn damage_is_an_error_or_is_not_written(at in 0usize..1000, value: u8, cut in 0usize..1000) {
            let mut new = words(1, 30_000);
            new.splice(10_000..10_000, *b"more");
            let (head, frame, old_image, new_image) = made(&words(1, 30_000), &new);
            let mut patch = to_bytes(&head, &[frame]).expect("a patch");
            let at = at % patch.len();
            patch[at] = value;
            if let Ok((done, out)) = applied(&patch, &old_image, new_image.len()) {
                prop_assert!(done.runs == 0 || out[96..] == new_image[96..]);
            }
            patch.truncate(cut % patch.len());
            prop_assert!(applied(&patch, &old_image, new_image.len()).is_err());
        }
    }
}
