//! The disk of a machine that is off: read it, and damage it, as a failing drive or a thief would.

use super::{
    Lab, LabError, file,
    machine::{DISK_GIB, overlay},
    process::run,
};
use image::gpt::{Partition, Table};
use std::{
    io::Cursor,
    path::{Path, PathBuf},
    process::Command,
};

/// Bytes at a disk's start that hold its first partition table.
const TABLE: usize = 1 << 20;

/// A disk, from [`Lab::disk`]. Legal only while no machine runs on it.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    scratch: PathBuf,
}

impl Lab {
    /// The disk on which the machine of this name boots: what its last boot left, or a new one over `image`.
    pub fn disk(&self, machine: &str, image: &Path) -> Result<Disk, LabError> {
        let path = self.path(&format!("{machine}.qcow2"));
        if !path.exists() {
            let image = file("find", image, std::fs::canonicalize)?;
            overlay(&image, &path, DISK_GIB)?;
        }
        Ok(Disk { path, scratch: self.path(&format!("{machine}.bytes")) })
    }
}

impl Disk {
    /// The partition of this name.
    pub fn partition(&self, name: &str) -> Result<Partition, LabError> {
        let mut disk = Cursor::new(self.read(0, TABLE)?);
        let table = Table::read(&mut disk).and_then(|t| t.find(name));
        table.map_err(|e| LabError::Answer {
            peer: self.path.display().to_string(),
            found: e.to_string(),
            expected: format!("a partition {name}"),
        })
    }

    /// Reads bytes.
    pub fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, LabError> {
        // Whole sectors; qemu-img counts them from the disk's start.
        let (from, until) = (offset / 512, (offset + len as u64).div_ceil(512));
        let mut command = Command::new("qemu-img");
        command.args(["dd", "-f", "qcow2", "-O", "raw", "bs=512"]);
        command.arg(format!("skip={from}")).arg(format!("count={until}"));
        command.arg(format!("if={}", self.path.display())).arg(format!("of={}", self.scratch.display()));
        run(&mut command)?;
        let bytes = file("read", &self.scratch, std::fs::read)?;
        let start = (offset % 512) as usize;
        Ok(bytes[start..start + len].to_vec())
    }

    /// Writes bytes.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), LabError> {
        file("write", &self.scratch, |p| std::fs::write(p, bytes))?;
        let scratch = self.scratch.display();
        self.io(&format!("write -s {scratch} {offset} {}", bytes.len()))
    }

    /// Flips one bit of one byte.
    pub fn flip(&self, offset: u64) -> Result<(), LabError> {
        let byte = self.read(offset, 1)?[0] ^ 0x10;
        self.write(offset, &[byte])
    }

    fn io(&self, what: &str) -> Result<(), LabError> {
        let said = run(Command::new("qemu-io").args(["-f", "qcow2", "-c", what]).arg(&self.path))?;
        // It ends with success whatever its commands did.
        if said.starts_with("wrote ") {
            return Ok(());
        }
        let peer = format!("qemu-io {what}");
        Err(LabError::Answer { peer, found: said.trim().to_owned(), expected: "wrote ...".to_owned() })
    }
}
