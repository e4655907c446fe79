//! Compressed blocks of an earlier image, so that what has not changed is not compressed again.
//!
//! A block is known by the digest of its bytes, and is taken only when it decompresses to just these bytes. So an image
//! has the same bytes with it and without it, as long as both were compressed at one level by one library: that is for
//! the caller to see to.
//!
//! ```text
//! index of an image, one record of 44 bytes a block:  SHA-256 of its bytes | u64 offset in the image | u32 length there
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const RECORD: usize = 32 + 8 + 4;

/// A compressed block in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// Where it is, from the image's start.
    pub offset: u64,
    /// How long it is there.
    pub length: u32,
}

/// The bytes of an index.
#[must_use]
pub fn index(blocks: &[Block]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(blocks.len() * RECORD);
    for block in blocks {
        bytes.extend(block.sha256);
        bytes.extend(block.offset.to_le_bytes());
        bytes.extend(block.length.to_le_bytes());
    }
    bytes
}

/// An earlier image, open; by default there is none.
#[derive(Debug, Default)]
pub struct Kept {
    image: Option<File>,
    blocks: HashMap<[u8; 32], (u64, u32)>,
}

impl Kept {
    /// Opens an image and its index.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn open(image: &Path, index: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(index)?;
        let record = |r: &[u8]| {
            let (sha256, rest) = r.split_first_chunk::<32>()?;
            let (offset, length) = rest.split_first_chunk::<8>()?;
            Some((*sha256, (u64::from_le_bytes(*offset), u32::from_le_bytes(*length.first_chunk::<4>()?))))
        };
        Ok(Self { image: Some(File::open(image)?), blocks: bytes.chunks_exact(RECORD).filter_map(record).collect() })
    }

    /// These bytes as they were compressed; none when they were not, or when what is there is anything else.
    pub(super) fn compressed(&self, sha256: &[u8; 32], plain: &[u8]) -> Option<Vec<u8>> {
        let (offset, length) = *self.blocks.get(sha256)?;
        let mut packed = vec![0; usize::try_from(length).ok().filter(|length| *length < plain.len())?];
        self.image.as_ref()?.read_exact_at(&mut packed, offset).ok()?;
        let unpacked = zstd::bulk::decompress(&packed, plain.len()).ok()?;
        (unpacked == plain).then_some(packed)
    }
}
