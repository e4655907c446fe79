//! The root: found by its hash, read only through its hash tree.

use super::cmdline::Cmdline;
use super::disk::identified;
use super::phases::BootError;
use crate::devices::Devices;
use std::path::{Path, PathBuf};
use std::time::Duration;
use sys::dm::{OnCorruption, Verity};
use sys::mount::{MsFlags, mount};

/// Where the root is mounted while it is not yet the root.
const TARGET: &str = "/sysroot";
/// What the root cannot be mounted without, and no device asks for. First the processor's own SHA-256, where it has
/// one: verity takes the fastest that is there when the device is put together, and keeps it.
const MODULES: &[&str] = &["crypto-sha256", "dm_mod", "dm_verity", "squashfs"];

/// Waits for the partition whose PARTUUID is the beginning of the root hash.
pub fn find(cmdline: &Cmdline, devices: &mut Devices, limit: Duration) -> Result<PathBuf, BootError> {
    let uuid = cmdline.root_uuid();
    let found = devices.wait_for(limit, || identified().into_iter().find(|(_, u)| *u == uuid))?;
    found.map(|(p, _)| p.node).ok_or_else(|| BootError::NoRoot { uuid, seconds: limit.as_secs(), seen: seen() })
}

fn seen() -> String {
    let all: Vec<_> = identified().iter().map(|(p, uuid)| format!("{} ({uuid})", p.node.display())).collect();
    if all.is_empty() { "none at all".to_owned() } else { all.join(", ") }
}

/// Puts the checked device together and mounts it.
pub fn open(cmdline: &Cmdline, partition: &Path, devices: &mut Devices) -> Result<PathBuf, BootError> {
    MODULES.iter().try_for_each(|m| devices.require(m))?;
    let image::verity::Verity { root, salt, data_blocks } = cmdline.verity.clone();
    let checked = Verity { root, salt, data_blocks, on_corruption: OnCorruption::Panic };
    let device = checked.open(partition, "roost-root")?;
    std::fs::create_dir_all(TARGET).map_err(sys::Error::of("create", TARGET))?;
    mount(&device, TARGET, "squashfs", MsFlags::MS_RDONLY | MsFlags::MS_NODEV, "")?;
    Ok(TARGET.into())
}
