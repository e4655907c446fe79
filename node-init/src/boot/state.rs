//! STATE: what outlives a boot. Made once, in the free space of the root's disk, and never formatted again.
//!
//! While it is being made the partition is called `roost-state-new`, so that a power cut in between is seen: only a
//! partition of that name is ever formatted. Once it holds a file system it is called `roost-state`, and then anything
//! that cannot be read is a failure for a person to look at.

use super::disk::{Disk, Table};
use super::mounts::Mounted;
use super::phases::BootError;
use super::vault::{self, Maker, Opened};
use super::{ext4, random};
use image::gpt::{Partition, STATE, STATE_NEW, StatePlan};
use model::seed::Seed;
use node_init::state_format;
use std::path::{Path, PathBuf};
use std::time::Duration;
use sys::mount::{MsFlags, mount};
use sys::spawn::{Command, Exit, Output, run};

const MIN_BYTES: u64 = 256 << 20;
/// Free space behind STATE that is worth the writing of a new table.
const WORTH_GROWING: u64 = 64 << 20;
const LIMIT: Duration = Duration::from_secs(600);
const FLAGS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOATIME);

/// Proof that STATE is mounted.
#[derive(Debug)]
pub struct State {
    encrypted: bool,
}

impl State {
    /// Tells what the seed says of STATE in vain: it is made once.
    pub fn tell_mismatch(&self, seed: &Seed) {
        vault::tell_mismatch(self.encrypted, seed);
    }
}

/// Finds STATE, or makes it, and mounts it.
pub fn open(disk: &Disk, mounted: &Mounted) -> Result<State, BootError> {
    let mut table = disk.table()?;
    let plan = table.gpt.plan_state(MIN_BYTES).map_err(table.failed("understand"))?;
    let encrypted = match plan {
        StatePlan::Use(part) => go_on(disk, &mut table, &part, mounted)?,
        StatePlan::Format(part) => {
            let maker = vault::wished(mounted)?;
            finish(disk, &mut table, &part, maker)?
        }
        StatePlan::Make { .. } => {
            let maker = vault::wished(mounted)?; // before anything is changed
            let part = add(&mut table)?;
            finish(disk, &mut table, &part, maker)?
        }
        StatePlan::NoRoom { free, needed } => {
            let (disk, free_mib, need_mib) = (disk.node.display().to_string(), free >> 20, needed >> 20);
            return Err(BootError::NoRoom { disk, free_mib, need_mib });
        }
    };
    state_format::check(Path::new(model::paths::STATE_FORMAT))?;
    std::fs::create_dir_all(model::paths::LOG).map_err(sys::Error::of("create", model::paths::LOG))?;
    Ok(State { encrypted })
}

/// Mounts a STATE that is there; says whether it is encrypted.
fn go_on(disk: &Disk, table: &mut Table, part: &Partition, mounted: &Mounted) -> Result<bool, BootError> {
    let grown = grow(table)?;
    // Opened after the partition has grown, so that the volume in it has.
    let Opened { device, encrypted } = vault::open(node(disk, part.number)?, mounted)?;
    // A file system may call itself clean and be damaged where only the mount looks.
    if !ext4::is_clean(&device) || attach(&device).is_err() {
        let unreadable = |source| BootError::State { device: device.display().to_string(), source };
        check(&device).and_then(|()| attach(&device)).map_err(unreadable)?;
    }
    if grown {
        grow_file_system(&device);
    }
    Ok(encrypted)
}

fn attach(device: &Path) -> Result<(), sys::Error> {
    mount(device, model::paths::STATE, "ext4", FLAGS, "prjquota")
}

/// Lets STATE have what the disk has gained; says whether it did.
fn grow(table: &mut Table) -> Result<bool, BootError> {
    let grown = table.gpt.grow_partition(STATE, WORTH_GROWING).map_err(table.failed("change"))?;
    if let Some(part) = &grown {
        table.write()?;
        sys::block::resize_partition(&table.disk, part.number, part.start, part.len)?;
    }
    Ok(grown.is_some())
}

fn add(table: &mut Table) -> Result<Partition, BootError> {
    let part = table.gpt.add_state(random_uuid()?).map_err(table.failed("change"))?;
    table.write()?;
    sys::block::add_partition(&table.disk, part.number, part.start, part.len)?;
    Ok(part)
}

/// Formats and mounts what this boot or one that was cut short has made, and only then gives it its name: whatever a
/// power cut leaves before that, the next boot makes all of it again. Says whether it is encrypted.
fn finish(disk: &Disk, table: &mut Table, part: &Partition, maker: Option<Maker>) -> Result<bool, BootError> {
    let partition = node(disk, part.number)?;
    let vault = maker.map(|maker| maker.make(&partition)).transpose()?;
    if vault.is_none() {
        vault::forget(&partition)?;
    }
    let device = vault.as_ref().map_or(&partition, |vault| &vault.device);
    format(device)?;
    attach(device).map_err(|source| BootError::State { device: device.display().to_string(), source })?;
    if let Some(vault) = &vault {
        vault.keep_recovery_key()?;
    }
    state_format::mark_new().map_err(sys::Error::of("write", model::paths::STATE_FORMAT))?;
    table.gpt.rename(STATE_NEW, STATE).map_err(table.failed("change"))?;
    table.write()?;
    tracing::info!(number = part.number, encrypted = vault.is_some(), "Made STATE");
    Ok(vault.is_some())
}

fn node(disk: &Disk, number: u32) -> Result<PathBuf, sys::Error> {
    let missing = || sys::Error::Malformed {
        object: disk.node.display().to_string(),
        found: format!("no device for partition {number}"),
        expected: "one that the kernel made",
    };
    disk.partition(number).ok_or_else(missing)
}

fn random_uuid() -> Result<uuid::Uuid, sys::Error> {
    Ok(uuid::Builder::from_random_bytes(random()?).into_uuid())
}

/// Project quotas limit homes and writable layers. What can be written later the kernel writes later: a large disk
/// must not keep the first boot waiting.
fn format(device: &Path) -> Result<Output, sys::Error> {
    const LATER: &str = "quotatype=prjquota,lazy_itable_init=1,nodiscard";
    let mut mke2fs = Command::new("/usr/sbin/mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "quota,project", "-E", LATER, "-L", STATE]).arg(device);
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
