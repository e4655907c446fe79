//! What a machine wrote to its disk, in order: to cut its power at any moment afterwards.
//!
//! QEMU's `blklogwrites` writes the log that the Linux kernel's dm-log-writes defines. Numbers are little-endian:
//!
//! ```text
//! sector 0                                 magic, version, entries (u64 each), bytes of a sector (u32)
//! then one behind the other: a sector      first sector, sectors, flags, bytes of a mark (u64 each)
//!                            its data      for a write
//! ```

use super::{LabError, file};
use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

/// Bytes of a sector, as the log counts.
pub const SECTOR: u64 = 512;
/// By dm-log-writes.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// One change of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// First byte on the disk.
    pub at: u64,
    /// Bytes.
    pub len: u64,
    /// Where the new bytes are in the log; `None` for a range that was discarded, which reads as zeros.
    data: Option<u64>,
}

/// Changes between two flushes. Any of them may be lost when power fails before the second.
pub type Epoch = Vec<Change>;

/// The log of a machine that was booted with [`super::Boot::recorded`].
#[derive(Debug)]
pub struct Recording {
    log: File,
    /// In order. A flush ends each but the last.
    pub epochs: Vec<Epoch>,
}

impl Recording {
    /// Reads a log. Legal once the machine is off.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self, LabError> {
        let log = file("open", path, File::open)?;
        let epochs = file("read", path, |_| epochs(&log))?;
        Ok(Self { log, epochs })
    }

    /// The bytes of a change.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn bytes(&self, change: &Change) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(change.len).map_err(io::Error::other)?];
        if let Some(at) = change.data {
            self.log.read_exact_at(&mut bytes, at)?;
        }
        Ok(bytes)
    }
}

fn epochs(log: &File) -> io::Result<Vec<Epoch>> {
    let [magic, version, entries, sector] = words(log, 0)?;
    if (magic, version, sector & 0xffff_ffff) != (MAGIC, VERSION, SECTOR) {
        let found = format!("magic {magic:x}, version {version}, sectors of {} bytes", sector & 0xffff_ffff);
        return Err(io::Error::other(format!("{found}: expected {MAGIC:x}, {VERSION}, {SECTOR}")));
    }
    let (mut epochs, mut at) = (vec![Epoch::new()], SECTOR);
    for _ in 0..entries {
        let [first, sectors, flags, mark] = words(log, at)?;
        at += SECTOR;
        let (from, len) = (first * SECTOR, sectors * SECTOR);
        let data = (flags & (DISCARD | MARK) == 0).then_some(at);
        at += if flags & MARK != 0 { mark.next_multiple_of(SECTOR) } else { data.map_or(0, |_| len) };
        // A write through the cache ends an epoch as well, though what came before it may still be lost: the disks of
        // our machines have none.
        if len > 0 && flags & MARK == 0 {
            epochs.last_mut().into_iter().for_each(|epoch| epoch.push(Change { at: from, len, data }));
        }
        if flags & (FLUSH | FUA) != 0 {
            epochs.push(Epoch::new());
        }
    }
    Ok(epochs)
}

/// The first four words of a sector.
fn words(log: &File, at: u64) -> io::Result<[u64; 4]> {
    let mut bytes = [0; 32];
    log.read_exact_at(&mut bytes, at)?;
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(words: [u64; 4]) -> Vec<u8> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(SECTOR as usize, 0);
        bytes
    }

    fn log(bytes: &[Vec<u8>]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("writes");
        std::fs::write(&path, bytes.concat()).expect("written");
        (dir, path)
    }

    #[test]
    fn writes_discards_and_flushes_are_told_apart() {
        let (one, two) = (vec![1; 512], vec![2; 1024]);
        let bytes = [
            sector([MAGIC, VERSION, 5, SECTOR]),
            sector([7, 1, 0, 0]),
            one.clone(),
            sector([0, 0, FLUSH, 0]),
            sector([9, 2, 0, 0]),
            two.clone(),
            sector([100, 50, DISCARD, 0]),
            sector([0, 0, FLUSH, 0]),
        ];
        let (_dir, path) = log(&bytes);
        let recording = Recording::read(&path).expect("a log");
        let places = |epoch: &Epoch| epoch.iter().map(|change| (change.at, change.len)).collect::<Vec<_>>();
        let found: Vec<_> = recording.epochs.iter().map(places).collect();
        assert_eq!(found, [vec![(3584, 512)], vec![(4608, 1024), (51200, 25600)], vec![]]);
        assert_eq!(recording.bytes(&recording.epochs[0][0]).expect("bytes"), one);
        assert_eq!(recording.bytes(&recording.epochs[1][0]).expect("bytes"), two);
        assert_eq!(recording.bytes(&recording.epochs[1][1]).expect("zeros"), vec![0; 25600]);
    }

    #[test]
    fn what_is_no_log_is_refused_with_what_was_found() {
        let (_dir, path) = log(&[sector([MAGIC, 2, 0, SECTOR])]);
        let error = Recording::read(&path).expect_err("another version");
        let LabError::File { source, .. } = error else { panic!("{error}") };
        assert!(source.to_string().contains("version 2"), "{source}");
    }
}
