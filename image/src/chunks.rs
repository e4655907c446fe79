//! Content-defined chunks: where two versions of a file have bytes in common, a node need not fetch them.
//!
//! A file is cut where its bytes say so (FastCDC), so that bytes put in or taken out move only the cuts beside
//! them. Builder and node cut alike: the builder over the new version, once, to write the table; the node over
//! what it has on its disk. Were they ever to differ, the node would fetch more and end with the same bytes.

use std::collections::HashSet;
use std::io::{self, Read};
use std::ops::Range;

use fastcdc::v2020::StreamCDC;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Average length of a chunk. Smaller ones find more in common in theory; in a squashfs, whose blocks change as a
/// whole, they only make the table longer.
pub const AVERAGE: usize = 32 << 10;
/// No chunk is shorter, but for the last.
pub const MIN: usize = AVERAGE / 4;
/// No chunk is longer.
pub const MAX: usize = AVERAGE * 4;
/// Bytes of a chunk's record in a table.
pub const RECORD: usize = 36;
/// A gap of bytes that are there already and fetched all the same: less than what another request costs.
pub const GAP: u64 = 16 << 10;

/// Why bytes could not be cut, or a table not be read.
#[derive(Debug, Error)]
pub enum ChunkError {
    /// The bytes could not be read.
    #[error("Cannot read the bytes to be cut into chunks")]
    Read(#[source] io::Error),
    /// A table's length is not that of whole records.
    #[error("The chunk table has {found} bytes, expected a multiple of {RECORD}")]
    TableLength {
        /// Bytes found.
        found: usize,
    },
    /// A record in it makes no sense.
    #[error("Chunk {index} of the table has {found} bytes, expected 1 to {MAX}")]
    ChunkLength {
        /// Number of the record, from 0.
        index: usize,
        /// What it says.
        found: u32,
    },
    /// The chunks do not make up what they should.
    #[error("The chunks of the table make {found} bytes, expected {expected}")]
    Sum {
        /// Their sum.
        found: u64,
        /// Bytes of the file.
        expected: u64,
    },
}

/// One chunk: what its bytes are, not where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Chunk {
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// How many they are.
    pub len: u32,
}

impl Chunk {
    /// Whether these bytes are it.
    #[must_use]
    pub fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == u64::from(self.len) && <[u8; 32]>::from(Sha256::digest(bytes)) == self.sha256
    }
}

/// Cuts all that a reader has left. Holds [`MAX`] bytes or a small multiple of them, however long the file.
pub fn cut(reader: impl Read) -> impl Iterator<Item = Result<Chunk, ChunkError>> {
    cut_at(reader, AVERAGE)
}

/// [`cut`] to another average length (a power of two), for measuring.
pub fn cut_at(reader: impl Read, average: usize) -> impl Iterator<Item = Result<Chunk, ChunkError>> {
    StreamCDC::new(reader, average / 4, average, average * 4).map(|chunk| {
        let bytes = chunk.map_err(|error| ChunkError::Read(error.into()))?.data;
        Ok(Chunk { sha256: Sha256::digest(&bytes).into(), len: u32::try_from(bytes.len()).unwrap_or(u32::MAX) })
    })
}

/// The chunks as bytes: for each the digest and the length, little-endian.
#[must_use]
pub fn to_bytes(chunks: &[Chunk]) -> Vec<u8> {
    chunks.iter().flat_map(|chunk| chunk.sha256.into_iter().chain(chunk.len.to_le_bytes())).collect()
}

/// Reads what [`to_bytes`] wrote.
///
/// # Errors
/// When it is cut off, or has a length that no chunk has.
pub fn from_bytes(bytes: &[u8]) -> Result<Vec<Chunk>, ChunkError> {
    let (records, rest) = bytes.as_chunks::<RECORD>();
    if !rest.is_empty() {
        return Err(ChunkError::TableLength { found: bytes.len() });
    }
    let read = |(index, record): (usize, &[u8; RECORD])| {
        let (mut sha256, mut len) = ([0; 32], [0; 4]);
        sha256.copy_from_slice(&record[..32]);
        len.copy_from_slice(&record[32..]);
        match u32::from_le_bytes(len) {
            len if (1..=MAX).contains(&(len as usize)) => Ok(Chunk { sha256, len }),
            found => Err(ChunkError::ChunkLength { index, found }),
        }
    };
    records.iter().enumerate().map(read).collect()
}

/// Divides a table of two files behind each other into that of the first, of so many bytes, and that of the second.
///
/// # Errors
/// When no chunk ends where the first file does, or all together are not as long as both.
pub fn split(chunks: &[Chunk], first: u64, second: u64) -> Result<(&[Chunk], &[Chunk]), ChunkError> {
    let mut sum = 0;
    let end = chunks.iter().position(|chunk| {
        let here = sum >= first;
        sum += if here { 0 } else { u64::from(chunk.len) };
        here
    });
    let (one, two) = chunks.split_at(end.unwrap_or(chunks.len()));
    for (part, expected) in [(one, first), (two, second)] {
        let found = total(part);
        if found != expected {
            return Err(ChunkError::Sum { found, expected });
        }
    }
    Ok((one, two))
}

fn total(chunks: &[Chunk]) -> u64 {
    chunks.iter().map(|chunk| u64::from(chunk.len)).sum()
}

/// A range to fetch: neighbouring chunks, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where in the file.
    pub bytes: Range<u64>,
    /// Which chunks of its table.
    pub chunks: Range<usize>,
}

/// What has to be fetched of a file when these chunks are there already: pieces in order, apart by more than `gap`.
#[must_use]
pub fn missing(table: &[Chunk], have: &HashSet<Chunk>, gap: u64) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut at = 0;
    for (index, chunk) in table.iter().enumerate() {
        let bytes = at..at + u64::from(chunk.len);
        at = bytes.end;
        if have.contains(chunk) {
            continue;
        }
        match pieces.last_mut() {
            Some(last) if bytes.start - last.bytes.end <= gap => {
                last.bytes.end = bytes.end;
                last.chunks.end = index + 1;
            }
            _ => pieces.push(Piece { bytes, chunks: index..index + 1 }),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(seed: u8, len: usize) -> Vec<u8> {
        (0..len.div_ceil(32)).flat_map(|n| Sha256::digest([&[seed][..], &n.to_le_bytes()].concat())).take(len).collect()
    }

    fn cut_all(bytes: &[u8]) -> Vec<Chunk> {
        cut(bytes).collect::<Result<_, _>>().expect("cut")
    }

    #[test]
    fn bytes_put_in_at_the_front_cost_the_chunks_beside_them_only() {
        let old = noise(1, 3 << 20);
        let mut new = old.clone();
        new.splice(100..100, *b"some bytes more");
        let have = cut_all(&old).into_iter().collect();
        let fetch: u64 = missing(&cut_all(&new), &have, 0).iter().map(|p| p.bytes.end - p.bytes.start).sum();
        assert!(fetch <= 2 * MAX as u64, "{fetch} of {}", new.len());
    }

    #[test]
    fn cuts_never_move_between_versions_of_this_program() {
        let found: Vec<u32> = cut_all(&noise(7, 200_000)).iter().map(|chunk| chunk.len).collect();
        assert_eq!(found, [12908, 19490, 27027, 11254, 16834, 60195, 17825, 34467]);
    }

    #[test]
    fn nothing_has_no_chunks() {
        assert_eq!(cut_all(&[]), []);
        assert_eq!(split(&[], 0, 0).expect("split"), (&[][..], &[][..]));
    }

    #[test]
    fn a_damaged_table_is_refused_with_what_was_found() {
        let table = to_bytes(&cut_all(&noise(2, 100_000)));
        let mut longer = table.clone();
        longer[RECORD + 35] = 0xff;
        let mut zero = table.clone();
        zero[32..36].fill(0);
        for (bytes, expect) in [
            (&table[1..], "expected a multiple of 36"),
            (&longer[..], "Chunk 1 of the table has 42"),
            (&zero[..], "Chunk 0 of the table has 0 bytes, expected 1 to 131072"),
        ] {
            let error = from_bytes(bytes).expect_err("refused").to_string();
            assert!(error.contains(expect), "{error}");
        }
        let chunks = from_bytes(&table).expect("a table");
        for (first, second) in [(100_000, 1), (99_999, 1), (0, 99_999)] {
            assert!(split(&chunks, first, second).is_err(), "{first} {second}");
        }
        assert_eq!(split(&chunks, 0, 100_000).expect("split").1, chunks);
    }

    fn chunk() -> impl Strategy<Value = Chunk> {
        (0u8..40, 1u32..5000).prop_map(|(seed, len)| Chunk { sha256: [seed; 32], len })
    }

    proptest! {
        #[test]
        fn pieces_cover_what_is_missing_and_are_apart(
            table in proptest::collection::vec(chunk(), 0..80), seeds in proptest::collection::hash_set(0u8..40, 0..40), gap in 0u64..9000,
        ) {
            let have: HashSet<Chunk> = table.iter().filter(|c| seeds.contains(&c.sha256[0])).copied().collect();
            let pieces = missing(&table, &have, gap);
            let starts: Vec<u64> = table.iter().scan(0, |at, c| { let start = *at; *at += u64::from(c.len); Some(start) }).collect();
            for (index, chunk) in table.iter().enumerate() {
                let covered = pieces.iter().any(|p| p.chunks.contains(&index));
                prop_assert!(covered || have.contains(chunk));
            }
            for piece in &pieces {
                let (first, last) = (piece.chunks.start, piece.chunks.end - 1);
                prop_assert!(!have.contains(&table[first]) && !have.contains(&table[last]), "no piece begins or ends with what is there");
                prop_assert_eq!(&piece.bytes, &(starts[first]..starts[last] + u64::from(table[last].len)));
            }
            for pair in pieces.windows(2) {
                prop_assert!(pair[1].bytes.start - pair[0].bytes.end > gap);
            }
        }

        #[test]
        fn chunks_put_together_are_the_file(len in 0usize..400_000, seed: u8) {
            let bytes = noise(seed, len);
            let chunks = cut_all(&bytes);
            let mut at = 0;
            for chunk in &chunks {
                let end = at + chunk.len as usize;
                prop_assert_eq!(<[u8; 32]>::from(Sha256::digest(&bytes[at..end])), chunk.sha256);
                at = end;
            }
            prop_assert_eq!(at, len);
            prop_assert_eq!(from_bytes(&to_bytes(&chunks)).expect("a table"), chunks);
        }
    }
}
