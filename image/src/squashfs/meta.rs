//! Metadata blocks: 8 KiB pieces, each compressed on its own behind a two-byte header.

use std::io::Write;

use zstd::bulk::Compressor;

use super::{Result, SquashfsError, write};

const BLOCK: usize = 8192;
/// In a block's header: stored as it is.
const STORED: u16 = 0x8000;

/// Where something lies in a run of metadata blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Start of its block, in bytes from the first block's start.
    pub block: u32,
    /// Offset in the unpacked block.
    pub offset: u16,
}

impl Position {
    /// As inodes and extended attributes are referred to.
    pub fn reference(self) -> u64 {
        u64::from(self.block) << 16 | u64::from(self.offset)
    }
}

/// Collects bytes into metadata blocks, in memory.
pub struct MetaWriter {
    compressor: Compressor<'static>,
    pending: Vec<u8>,
    out: Vec<u8>,
    starts: Vec<u32>,
}

impl MetaWriter {
    pub fn new(level: i32) -> Result<Self> {
        let compressor = Compressor::new(level).map_err(SquashfsError::Compress)?;
        Ok(Self { compressor, pending: Vec::with_capacity(BLOCK), out: Vec::new(), starts: vec![0] })
    }

    /// Where the next byte will lie.
    pub fn position(&self) -> Result<Position> {
        let block = u32::try_from(self.out.len()).map_err(|_| SquashfsError::TooMany {
            what: "bytes of metadata",
            found: self.out.len() as u64,
            limit: u64::from(u32::MAX),
        })?;
        Ok(Position { block, offset: u16::try_from(self.pending.len()).unwrap_or_default() })
    }

    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.pending.len()));
            self.pending.extend_from_slice(now);
            bytes = later;
            // Flushed as soon as it is full, so that a position never names the end of a full block.
            if self.pending.len() == BLOCK {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// The blocks, and where each starts.
    pub fn finish(mut self) -> Result<(Vec<u8>, Vec<u32>)> {
        if !self.pending.is_empty() {
            self.flush()?;
        }
        self.starts.pop();
        Ok((self.out, self.starts))
    }

    fn flush(&mut self) -> Result<()> {
        let packed = self.compressor.compress(&self.pending).map_err(SquashfsError::Compress)?;
        let (bytes, flag) = if packed.len() < self.pending.len() { (&packed, 0) } else { (&self.pending, STORED) };
        let header = u16::try_from(bytes.len()).unwrap_or_default() | flag;
        self.out.extend(header.to_le_bytes());
        self.out.extend_from_slice(bytes);
        self.pending.clear();
        let start = self.position()?.block;
        self.starts.push(start);
        Ok(())
    }
}

/// Writes a table of fixed-size records: its blocks at `at`, then the list of where each starts.
/// Gives where that list lies and what comes after it; an empty table is `u64::MAX`, and nothing is written.
pub fn write_table(out: &mut impl Write, at: u64, records: &[u8], level: i32) -> Result<(u64, u64)> {
    if records.is_empty() {
        return Ok((u64::MAX, at));
    }
    let mut meta = MetaWriter::new(level)?;
    meta.write(records)?;
    let (blocks, starts) = meta.finish()?;
    write(out, &blocks)?;
    for start in &starts {
        write(out, &(at + u64::from(*start)).to_le_bytes())?;
    }
    let list = at + blocks.len() as u64;
    Ok((list, list + starts.len() as u64 * 8))
}
