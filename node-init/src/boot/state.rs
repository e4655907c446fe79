//! STATE: what outlives a boot. Made once, in the free space of the root's disk, and never formatted again.
//!
//! While it is being made the partition is called `roost-state-new`, so that a power cut in between is seen: only a
//! partition of that name is ever formatted. Once it holds a file system it is called `roost-state`, and then anything
//! that cannot be read is a failure for a person to look at.

use super::disk::{Disk, Table};
use super::phases::BootError;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use sys::mount::{MsFlags, mount};
use sys::spawn::{Command, Exit, Output, run};

const NAME: &str = "roost-state";
const NAME_NEW: &str = "roost-state-new";
const MIN_BYTES: u64 = 256 * 1024 * 1024;
const LIMIT: Duration = Duration::from_secs(600);

/// Proof that STATE is mounted.
#[derive(Debug)]
pub struct State(());

/// Finds STATE, or makes it, and mounts it.
pub fn open(disk: &Disk) -> Result<State, BootError> {
    let mut table = disk.table()?;
    let found = table.find(NAME);
    let number = match found {
        Some(number) => number,
        None => make(disk, &mut table)?,
    };
    let grown = table.grow(number)?;
    if grown {
        let (start, length) = table.extent(number);
        sys::block::resize_partition(table.disk(), number, start, length)?;
    }
    let device = node(disk, number)?;
    let unreadable = |source| BootError::State { device: device.display().to_string(), source };
    if found.is_some() {
        check(&device).map_err(unreadable)?;
    }
    mount(
        &device,
        model::paths::STATE,
        "ext4",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME,
        "prjquota",
    )
    .map_err(unreadable)?;
    if grown {
        grow_file_system(&device);
    }
    std::fs::create_dir_all(model::paths::LOG).map_err(sys::Error::of("create", model::paths::LOG))?;
    Ok(State(()))
}

/// Makes the partition if need be, formats it, and only then gives it its name.
fn make(disk: &Disk, table: &mut Table<File>) -> Result<u32, BootError> {
    let number = match table.find(NAME_NEW) {
        Some(number) => number,
        None => {
            let number = table.create(NAME_NEW, random_uuid()?, MIN_BYTES)?;
            let (start, length) = table.extent(number);
            sys::block::add_partition(table.disk(), number, start, length)?;
            number
        }
    };
    format(&node(disk, number)?)?;
    table.rename(number, NAME)?;
    tracing::info!(number, "Made STATE");
    Ok(number)
}

fn node(disk: &Disk, number: u32) -> Result<PathBuf, sys::Error> {
    let missing = || sys::Error::Malformed {
        object: disk.node.display().to_string(),
        found: format!("no device for partition {number}"),
        expected: "one that the kernel made",
    };
    disk.partition(number).ok_or_else(missing)
}

/// A random (version 4) UUID, in the table's order of bytes.
fn random_uuid() -> Result<[u8; 16], sys::Error> {
    use std::io::Read;
    let mut bytes = [0; 16];
    let random = File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    random.map_err(sys::Error::of("read", "/dev/urandom"))?;
    bytes[7] = bytes[7] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes)
}

/// Project quotas limit homes and writable layers.
fn format(device: &Path) -> Result<Output, sys::Error> {
    let mut mke2fs = Command::new("/usr/sbin/mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "quota,project", "-E", "quotatype=prjquota", "-L", NAME]).arg(device);
    run(&mut mke2fs, b"", LIMIT)?.ok()
}

/// Repairs what is safe to repair; anything else is for a person.
fn check(device: &Path) -> Result<(), sys::Error> {
    let mut e2fsck = Command::new("/usr/sbin/e2fsck");
    e2fsck.arg("-p").arg(device);
    let output = run(&mut e2fsck, b"", LIMIT)?;
    match output.exit {
        Exit::Code(0) => {
            tracing::info!(device = %device.display(), "Checked the file system of STATE");
            Ok(())
        }
        // 1: repaired; 2: repaired, and a mounted file system would need a reboot, but this one is not mounted yet.
        Exit::Code(1..=3) => {
            tracing::warn!(device = %device.display(), "Repaired the file system of STATE");
            Ok(())
        }
        _ => output.ok().map(drop),
    }
}

/// While it is mounted, which ext4 can; a failure costs space and nothing else.
fn grow_file_system(device: &Path) {
    let mut resize2fs = Command::new("/usr/sbin/resize2fs");
    resize2fs.arg(device);
    match run(&mut resize2fs, b"", LIMIT).and_then(Output::ok) {
        Ok(_) => tracing::info!(device = %device.display(), "Grew STATE"),
        Err(e) => tracing::warn!(error = %crate::fail::chain(&e), "STATE not grown"),
    }
}
