//! A FAT volume on the disk of a machine that is off: what an operator does to it with a stick in hand.

use anyhow::{Context, Result, ensure};
use builder::lab::{Disk, Lab};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A partition's volume. What is changed is on the disk at once.
#[derive(Debug)]
pub struct Volume {
    disk: Disk,
    start: u64,
    len: u64,
    copy: PathBuf,
}

impl Volume {
    /// That of the partition of this name.
    pub fn of(lab: &Lab, disk: Disk, partition: &str) -> Result<Self> {
        let part = disk.partition(partition)?;
        let copy = lab.path(&format!("{partition}.fat"));
        std::fs::write(&copy, disk.read(part.start, part.len as usize)?).context("Cannot copy a volume")?;
        Ok(Self { disk, start: part.start, len: part.len, copy })
    }

    /// Bytes that are free.
    pub fn free(&self) -> Result<u64> {
        let listed = self.mtool("mdir", &["::".as_ref()])?;
        let line = listed.lines().rev().find(|line| line.contains("bytes free")).context("mdir tells nothing free")?;
        let digits: String = line.chars().filter(char::is_ascii_digit).collect();
        digits.parse().with_context(|| format!("mdir said {line:?}"))
    }

    /// Copies a file into its top folder, as `name`; one that is there is replaced.
    pub fn put(&self, file: &Path, name: &str) -> Result<()> {
        self.mtool("mcopy", &["-o".as_ref(), file, format!("::{name}").as_ref()])?;
        self.keep()
    }

    /// Removes a file from its top folder.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.mtool("mdel", &[format!("::{name}").as_ref()])?;
        self.keep()
    }

    fn keep(&self) -> Result<()> {
        let bytes = std::fs::read(&self.copy).context("Cannot read a volume")?;
        ensure!(bytes.len() as u64 == self.len, "the volume has {} bytes, and its partition {}", bytes.len(), self.len);
        Ok(self.disk.write(self.start, &bytes)?)
    }

    fn mtool(&self, tool: &str, args: &[&Path]) -> Result<String> {
        let output = Command::new(tool).arg("-i").arg(&self.copy).args(args).output();
        let output = output.with_context(|| format!("Cannot run {tool} (package mtools)"))?;
        ensure!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
