//! A byte of the root, or of its hash tree, is not what was built: a failing drive, or somebody's hand.

use anyhow::{Context, Result, bail};
use builder::lab::{Boot, Disk, Firmware, Lab, Landmarks, Machine, Store};
use qemu_tests::images;
use std::time::Duration;

/// Until an emulated machine has read all that a boot reads.
const LIMIT: Duration = Duration::from_secs(120);
/// What the console shows when the kernel meets a block that its hash does not vouch for.
const CAUGHT: &str = "device-mapper: verity:";
/// What it shows when the node works.
const READY: &str = "Ready after";

#[test]
fn a_flipped_byte_that_every_boot_reads_is_never_read_as_data() -> Result<()> {
    let (bench, at) = (Bench::new("flipped")?, Landmarks::of(&images())?);
    let places = [
        ("superblock", at.superblock),
        ("inodes", at.inodes),
        ("owners", at.owners),
        ("node-init", at.pid_1),
        ("tree-leaf", at.tree_leaf),
        ("tree-top", at.tree_top),
    ];
    for (name, offset) in places {
        let mut node = bench.boot_with_flipped(name, offset)?;
        let line = node.console().wait_for_any(&[CAUGHT, READY], LIMIT)?;
        if !line.contains(CAUGHT) {
            bail!("a flipped byte in '{name}', at {offset} of the root, was read as data: {line}");
        }
        // The panic reboots by itself, so that boot counting can try another version.
        node.qmp()?.wait_event("RESET", LIMIT).context(name)?;
        assert!(!node.console().text()?.contains(READY), "{name}: Ready all the same");
        let host = bench.store.one("host", &format!("name={name}"))?;
        assert!(host.is_null(), "{name}: the store knows the node: {host}");
    }
    Ok(())
}

#[test]
#[ignore = "64 boots: runs in the full suite"]
fn a_flipped_byte_anywhere_is_caught_or_was_not_read() -> Result<()> {
    let (bench, at) = (Bench::new("flipped-full")?, Landmarks::of(&images())?);
    let mut caught = 0;
    for nth in 0..64 {
        // Evenly over data and tree; the byte within its block moves as well.
        let offset = at.blocks * nth / 64 * 4096 + nth * 61;
        let mut node = bench.boot_with_flipped(&format!("place-{nth}"), offset)?;
        let line = node.console().wait_for_any(&[CAUGHT, READY, "CANNOT START"], LIMIT)?;
        let text = node.console().text()?;
        match (text.contains(CAUGHT), text.contains(READY)) {
            (true, false) => caught += 1,
            // No boot reads every file. What is Ready has met no bad block, and works.
            (false, true) => {}
            _ => bail!("a flipped byte at {offset} of the root: {line}"),
        }
    }
    assert!(caught >= 4, "only {caught} of 64 blocks were read at all: the places are badly chosen");
    Ok(())
}

/// A store, and machines that nobody has tampered with yet.
struct Bench {
    lab: Lab,
    store: Store,
}

impl Bench {
    fn new(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let store = lab.store()?;
        Ok(Self { lab, store })
    }

    /// A machine of this name on a disk of its own, with one bit of the root partition flipped.
    fn boot_with_flipped(&self, name: &str, offset: u64) -> Result<Machine> {
        let image = images().node;
        let disk: Disk = self.lab.disk(name, &image)?;
        disk.flip(disk.partition("roost-root-a")?.start + offset)?;
        let boot = Boot::new(&image).name(name).firmware(Firmware::Direct).seed(self.store.seed(name)?);
        Ok(self.lab.boot(boot)?)
    }
}
