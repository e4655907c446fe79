//! A byte of the root, or of its hash tree, is not what was built: a failing drive, or somebody's hand.

use anyhow::{Context, Result, bail, ensure};
use builder::lab::{Boot, Disk, Firmware, Lab, Landmarks, Machine, Store};
use qemu_tests::{Signed, images};
use std::{collections::BTreeSet, time::Duration};

/// Until an emulated machine has read all that a boot reads.
const LIMIT: Duration = Duration::from_secs(120);
/// What the console shows when the kernel meets a block that its hash does not vouch for.
const CAUGHT: &str = "device-mapper: verity:";
/// What it shows when the node works.
const READY: &str = "Ready after";
/// Where the root lies.
const ROOT: &str = image::gpt::ROOT_A;

#[test]
fn a_flipped_byte_that_every_boot_reads_is_never_read_as_data() -> Result<()> {
    let (bench, at) = (Bench::new("flipped")?, Landmarks::of(&images().node)?);
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
#[ignore = "64 refusals: runs in the full suite"]
fn sixty_four_flipped_bytes_of_a_signed_image_are_sixty_four_refusals() -> Result<()> {
    let bench = Signed::new("flipped-signed")?;
    let at = Landmarks::of(&bench.image)?;
    let of_data: Vec<u64> = blocks_read(&bench)?.into_iter().filter(|block| *block < at.tree_top / 4096).collect();
    // Of the tree the kernel reads much more than it uses; what it uses follows from the data: 128 hashes fill a block.
    let of_tree: BTreeSet<u64> = of_data.iter().map(|block| at.tree_leaf / 4096 + block / 128).collect();
    let of_tree: Vec<u64> = of_tree.into_iter().collect();
    println!("a boot reads {} blocks of data by {} of the hash tree's leaves", of_data.len(), of_tree.len());
    // Read ahead is not read: the kernel drops a bad block that nobody asked for. A few such places count for nothing, and
    // others are taken.
    for (what, blocks, wanted) in [("tree", of_tree, 16), ("data", of_data, 48)] {
        let (mut refusals, mut tried) = (0, 0);
        for (nth, block) in spread(&blocks, wanted).enumerate() {
            if refusals == wanted {
                break;
            }
            ensure!(tried < wanted + wanted / 4, "{what}: {refusals} refusals of {tried} places, expected {wanted}");
            tried += 1;
            let offset = block * 4096 + (nth as u64 * 61) % 4096;
            let machine =
                bench.machine(&format!("{what}-{nth}"), |disk| Ok(disk.flip(disk.partition(ROOT)?.start + offset)?))?;
            let mut node = bench.lab.boot(machine)?;
            let line = node.console().wait_for_any(&[CAUGHT, READY, "CANNOT START"], LIMIT)?;
            let text = node.console().text()?;
            match (text.contains(CAUGHT), text.contains(READY)) {
                // What was caught behind Ready was caught: it ends the machine.
                (true, _) => refusals += 1,
                (false, true) => {}
                _ => bail!("a flipped byte at {offset} of the root: {line}"),
            }
        }
        println!("{what}: {refusals} refusals of {tried} places");
        ensure!(refusals == wanted, "{what}: a boot reads too little for {wanted} places");
    }
    Ok(())
}

/// The blocks of the root's partition that a boot reads, in order.
fn blocks_read(bench: &Signed) -> Result<Vec<u64>> {
    let machine = bench.machine("traced", |_| Ok(()))?.traced();
    let root = bench.lab.disk("traced", &bench.image)?.partition(ROOT)?;
    let mut node = bench.lab.boot(machine)?;
    node.console().wait_for(READY, LIMIT)?;
    let reads = node.reads()?.into_iter().filter(|read| read.start >= root.start && read.end <= root.start + root.len);
    let blocks: BTreeSet<u64> =
        reads.flat_map(|read| (read.start - root.start) / 4096..(read.end - root.start).div_ceil(4096)).collect();
    Ok(blocks.into_iter().collect())
}

/// All of them: first so many that lie evenly, then such as lie between.
fn spread(blocks: &[u64], wanted: usize) -> impl Iterator<Item = u64> {
    let step = (blocks.len() / wanted).max(1);
    (0..step).flat_map(move |first| blocks.iter().skip(first).step_by(step).copied())
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
        disk.flip(disk.partition(ROOT)?.start + offset)?;
        let boot = Boot::new(&image).name(name).firmware(Firmware::Direct).seed(self.store.seed(name)?);
        Ok(self.lab.boot(boot)?)
    }
}
