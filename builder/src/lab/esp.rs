//! Files on the ESP of a machine that is off, and where their bytes are on its disk: to tamper with them.

use super::{Disk, LabError};
use image::{fat::FatReader, gpt, uki};
use std::io::Cursor;

/// Bytes of the ESP that `roost build` fills: files lie at its start, each in one piece.
const USED: usize = 48 << 20;
/// Files begin at clusters, which are whole sectors.
const SECTOR: usize = 512;

/// A file on the ESP.
#[derive(Clone, Debug)]
pub struct EspFile {
    /// Where it begins on the disk.
    pub at: u64,
    /// Its contents.
    pub bytes: Vec<u8>,
}

impl Disk {
    /// A file of the ESP as `roost build` wrote it.
    pub fn esp_file(&self, path: &str) -> Result<EspFile, LabError> {
        let part = self.partition(gpt::ESP)?;
        let start = self.read(part.start, USED)?;
        let misfit = |found: String| LabError::Answer {
            peer: "the ESP".to_owned(),
            found,
            expected: format!("a file {path} in its first {USED} bytes"),
        };
        let bytes = FatReader::new(Cursor::new(&start)).and_then(|mut esp| esp.read_path(path));
        let bytes = bytes.map_err(|error| misfit(error.to_string()))?;
        let at = (0..start.len()).step_by(SECTOR).find(|at| start[*at..].starts_with(&bytes));
        let at = at.ok_or_else(|| misfit("one in several pieces".to_owned()))?;
        Ok(EspFile { at: part.start + at as u64, bytes })
    }
}

impl EspFile {
    /// Where the middle of a UKI's section is on the disk.
    pub fn section(&self, name: &'static str) -> Result<u64, LabError> {
        let misfit = |found: String| LabError::Answer {
            peer: "the UKI".to_owned(),
            found,
            expected: format!("a section {name}"),
        };
        let data = uki::section(&self.bytes, name).map_err(|error| misfit(error.to_string()))?;
        let at = data.as_ptr() as usize - self.bytes.as_ptr() as usize;
        Ok(self.at + (at + data.len() / 2) as u64)
    }
}
