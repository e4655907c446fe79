//! The disk that the root lies on, and what runs from it.

use super::UpdateError;
use crate::paths::Paths;
use image::device::Device;
use image::pin;
use image::slot::Slots;
use image::verity::{self, Verity};
use node_init::release;
use rustix::fs::{Advice, fadvise};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// Kernel command line.
const CMDLINE: &str = "/proc/cmdline";

/// What runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Name of the image.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its root.
    pub verity: Verity,
    /// It is for one cluster alone.
    pub pinned: bool,
    /// The disk that it lies on.
    pub disk: PathBuf,
}

impl Running {
    /// None on a machine that was not booted from an image, as when the daemon is run by hand.
    pub fn find(paths: &Paths) -> Option<Self> {
        let disk = fs::read_to_string(paths.at(model::paths::ROOT_DISK)).ok()?;
        let cmdline = fs::read_to_string(CMDLINE).ok()?;
        let word = verity::on_cmdline(&cmdline)?;
        let (name, version) = release::image(&fs::read_to_string(release::PATH).ok()?)?;
        let pinned = pin::on_cmdline(&cmdline).is_some();
        Some(Self { name, version, verity: word.parse().ok()?, pinned, disk: disk.trim().into() })
    }

    /// Both slots, as they are now.
    pub fn look(&self) -> Result<Slots, UpdateError> {
        self.slots(&mut self.open()?)
    }

    /// Opens the disk. The slots and the ESP are mounted nowhere.
    pub fn open(&self) -> Result<RootDisk, UpdateError> {
        RootDisk::open(&self.disk).map_err(UpdateError::disk(&self.disk))
    }

    /// Both slots of a disk that is open.
    pub fn slots(&self, disk: &mut RootDisk) -> Result<Slots, UpdateError> {
        Ok(Slots::read(disk, Some(&self.verity.root))?)
    }
}

/// A disk whose reads can be made to come from the medium.
#[derive(Debug)]
pub struct RootDisk(File);

impl RootDisk {
    fn open(path: &Path) -> io::Result<Self> {
        File::options().read(true).write(true).open(path).map(Self)
    }
}

impl Device for RootDisk {
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_at(at, into)
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(at, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }

    fn forget(&mut self) -> io::Result<()> {
        // Only clean pages are dropped.
        self.0.sync_data()?;
        Ok(fadvise(&self.0, 0, None, Advice::DontNeed)?)
    }
}
