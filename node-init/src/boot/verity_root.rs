//! The root: found by its hash, read only through its hash tree.

use super::cmdline::Cmdline;
use super::disk::{has_slots, identified};
use super::phases::BootError;
use crate::devices::{Devices, Look, Patience};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use sys::dm::{OnCorruption, Verity};
use sys::mount::{MsFlags, mount};

/// Where the root is mounted while it is not yet the root.
const TARGET: &str = "/sysroot";
/// What the root cannot be mounted without, and no device asks for. First the processor's own SHA-256, where it has
/// one: verity takes the fastest that is there when the device is put together, and keeps it.
const MODULES: &[&str] = &["crypto-sha256", "dm_mod", "dm_verity", "squashfs"];

/// How much longer to wait when a disk with both slots is here and neither is ours: it is most likely the one that we were
/// booted from, and this version's slot is broken. Only a machine with two such disks can bring ours yet, and each step
/// by which a disk comes (a controller, a hub, the disk, its partitions) is a change that begins this time anew. At
/// the full limit, three tries of such a version kept a node away for minutes.
const UNLIKELY: Duration = Duration::from_secs(10);

/// Waits for the partition whose PARTUUID is the beginning of the root hash.
pub fn find(cmdline: &Cmdline, devices: &mut Devices, limit: Duration) -> Result<PathBuf, BootError> {
    let uuid = cmdline.root_uuid();
    let look = || {
        let all = identified();
        let others = if has_slots(&all) { Look::Unlikely } else { Look::NotYet };
        all.into_iter().find(|p| p.uuid == uuid).map_or(others, |p| Look::Found(p.partition.node))
    };
    let began = Instant::now();
    let found = devices.wait_for(Patience { limit, unlikely: UNLIKELY }, look)?;
    found.ok_or_else(|| BootError::NoRoot { uuid, seconds: began.elapsed().as_secs(), seen: seen() })
}

fn seen() -> String {
    let all: Vec<_> = identified().iter().map(|p| format!("{} ({})", p.partition.node.display(), p.uuid)).collect();
    if all.is_empty() { "none at all".to_owned() } else { all.join(", ") }
}

/// Puts the checked device together and mounts it.
pub fn open(cmdline: &Cmdline, partition: &Path, devices: &mut Devices) -> Result<PathBuf, BootError> {
    MODULES.iter().try_for_each(|m| devices.require(m))?;
    let image::verity::Verity { root, salt, data_blocks } = cmdline.verity.clone();
    let checked = Verity { root, salt, data_blocks, on_corruption: OnCorruption::Panic };
    let device = checked.open(partition, "roost-root")?;
    std::fs::create_dir_all(TARGET).map_err(sys::Error::of("create", TARGET))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(&device, TARGET, "squashfs", flags, "")?;
    Ok(TARGET.into())
}
