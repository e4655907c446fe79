//! Power cuts of a recorded machine: each gives the disk that it would have left.

use anyhow::{Context, Result};
use builder::lab::{Change, Recording};
use image::device::Device;
use std::{
    fs::File,
    path::{Path, PathBuf},
};

/// Bytes that a disk writes whole or not at all.
const SECTOR: usize = 512;

/// A moment at which power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// In which epoch of the recording.
    pub epoch: usize,
    /// What arrived of it; `None` for all, at the flush that ends it.
    pub torn: Option<Torn>,
}

/// What arrived of an epoch whose flush never came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// So many changes were on their way.
    pub changes: usize,
    /// Which of their sectors arrived: by this seed each or not; `None` for all.
    pub seed: Option<u64>,
}

/// A disk that goes through a recording.
pub struct Replay {
    recording: Recording,
    path: PathBuf,
    disk: File,
    /// Epochs before this one are on the disk.
    epoch: usize,
    touched: Vec<Change>,
}

/// Moments to cut at: the flush of every epoch, and `torn` moments in each of those for which it says how many.
pub fn plan(recording: &Recording, torn: impl Fn(&[Change]) -> usize) -> Vec<Cut> {
    let mut random = Random(1);
    let epochs = recording.epochs.iter().enumerate();
    epochs
        .flat_map(|(epoch, changes)| {
            let torn = (0..if changes.is_empty() { 0 } else { torn(changes) }).map(|nth| {
                let changes = 1 + (random.next() % changes.len() as u64) as usize;
                Cut { epoch, torn: Some(Torn { changes, seed: (nth % 2 == 0).then(|| random.next()) }) }
            });
            torn.chain([Cut { epoch, torn: None }]).collect::<Vec<_>>()
        })
        .collect()
}

impl Replay {
    /// `disk` is what the machine found at the recording's begin; it is written.
    pub fn new(recording: Recording, disk: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).open(disk);
        let file = file.with_context(|| format!("Cannot open {}", disk.display()))?;
        Ok(Self { recording, path: disk.to_owned(), disk: file, epoch: 0, touched: Vec::new() })
    }

    /// What was recorded.
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Shows the disk that a cut leaves, and the changes that it saw since the last time. Cuts come in the order of
    /// [`plan`].
    pub fn at<T>(&mut self, cut: &Cut, see: impl FnOnce(&Path, &mut File, &[Change]) -> Result<T>) -> Result<T> {
        while self.epoch < cut.epoch {
            self.write(self.epoch, None)?;
            self.epoch += 1;
        }
        let before = self.write(cut.epoch, cut.torn)?;
        let seen = see(&self.path, &mut self.disk, &self.touched);
        self.touched.clear();
        if cut.torn.is_none() {
            self.epoch += 1;
            return seen;
        }
        for (change, bytes) in before.into_iter().rev() {
            self.disk.write_at(change.at, &bytes)?;
            self.touched.push(change);
        }
        seen
    }

    /// Writes what arrived of an epoch, and gives what was there before, where something did not.
    fn write(&mut self, epoch: usize, torn: Option<Torn>) -> Result<Vec<(Change, Vec<u8>)>> {
        let mut before = Vec::new();
        let mut random = torn.and_then(|torn| torn.seed).map(Random);
        let changes = &self.recording.epochs[epoch];
        for change in changes.iter().take(torn.map_or(changes.len(), |torn| torn.changes)) {
            let new = self.recording.bytes(change)?;
            let mut arrived = vec![0; new.len()];
            if torn.is_some() {
                self.disk.read_at(change.at, &mut arrived)?;
                before.push((*change, arrived.clone()));
            }
            for (sector, new) in arrived.chunks_mut(SECTOR).zip(new.chunks(SECTOR)) {
                if random.as_mut().is_none_or(|random| random.next() & 1 == 1) {
                    sector.copy_from_slice(new);
                }
            }
            self.disk.write_at(change.at, &arrived)?;
            self.touched.push(*change);
        }
        Ok(before)
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }
}
