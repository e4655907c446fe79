//! What is on a node's disk beside its root: the seed it finds, and the STATE it never formats twice.

use anyhow::Result;
use builder::lab::{Boot, Firmware, Lab};
use qemu_tests::{Volume, images};
use std::time::Duration;

/// From power-on to Ready, or to a dead end.
const LIMIT: Duration = Duration::from_secs(120);
/// From Ready on the console to the store's having heard it.
const HEARD: Duration = Duration::from_secs(20);
/// How much of STATE's start is smashed: superblock, group descriptors, bitmaps, the first inodes.
const SMASHED: usize = 4 << 20;
/// Where a group of blocks keeps a copy of the superblock: e2fsck looks there as well.
const GROUP: u64 = 128 << 20;

#[test]
fn a_node_joins_by_its_seed_partition_and_never_formats_a_state_it_cannot_read() -> Result<()> {
    let lab = Lab::new("disk")?;
    let (store, image) = (lab.store()?, images().node);
    let disk = lab.disk("node1", &image)?;
    let seed = lab.path("seed.toml");
    std::fs::write(&seed, store.seed("by-partition")?)?;
    Volume::of(&lab, lab.disk("node1", &image)?, "roost-seed")?.put(&seed, "seed.toml")?;

    // No seed in fw_cfg: what it knows comes from the partition.
    let boot = || Boot::new(&image).firmware(Firmware::Direct);
    let mut node = lab.boot(boot())?;
    node.console().wait_for("Ready after", LIMIT)?;
    // The console says it first: the store hears it with a frame of its own.
    store.wait_for("by-partition running", "host", "name=by-partition", HEARD, |h| h["state"] == "running")?;
    node.shut_down(Duration::from_secs(60))?;

    let state = disk.partition("roost-state")?;
    let noise: Vec<u8> = (0..SMASHED as u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    disk.write(state.start, &noise)?;
    for group in 1..state.len / GROUP {
        disk.write(state.start + group * GROUP, &noise[..4096])?;
    }
    let damaged = digest(&disk.read(state.start, 64 << 20)?);

    let mut node = lab.boot(boot())?;
    let line = node.console().wait_for_any(&["THIS NODE CANNOT START", "Ready after"], LIMIT)?;
    assert!(line.contains("phase 'state' failed"), "{line}");
    let what = node.console().wait_for("What:", Duration::from_secs(5))?;
    assert!(what.contains("cannot be read, and is never formatted"), "{what}");
    let advice = node.console().wait_for("Do:", Duration::from_secs(5))?;
    assert!(advice.contains("e2fsck") && advice.contains("delete the partition 'roost-state'"), "{advice}");
    // It reboots and finds the same again: no number of boots makes it format.
    node.console().mark()?;
    node.console().wait_for("THIS NODE CANNOT START", LIMIT)?;
    drop(node);
    assert_eq!(disk.partition("roost-state")?, state, "the partition was made anew");
    assert_eq!(digest(&disk.read(state.start, 64 << 20)?), damaged, "the partition was written to");
    Ok(())
}

/// Something short to compare, and to print when it differs.
fn digest(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
