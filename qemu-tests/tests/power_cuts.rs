//! Power fails at any moment of an update of the real node: what is on its disk boots, and is verified.

use anyhow::{Context, Result, ensure};
use builder::lab::{Boot, Change, Lab, Recording, Store};
use image::{
    device::{Part, Stream},
    fat::FatReader,
    gpt::{self, Table},
    slot::{Held, Side, Slots, State},
    verity,
};
use qemu_tests::{
    Forge, artifact, copy_raw,
    cuts::{self, Cut, Replay},
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Seek, SeekFrom},
    path::Path,
    time::{Duration, Instant},
};

/// From an order to its end, and from power-on to Ready.
const LIMIT: Duration = Duration::from_secs(300);
/// Moments cut at besides the flushes, in an epoch that changes more than the node's own data.
const TORN: usize = 12;
/// So many moments at least.
const CUTS: usize = 200;

#[test]
fn a_power_cut_at_any_moment_of_an_update_leaves_a_verified_version_and_some_are_booted() -> Result<()> {
    tell("power-cuts", 2)
}

#[test]
#[ignore = "twenty boots: runs in the full suite"]
fn a_power_cut_at_any_moment_of_an_update_leaves_a_verified_version_and_twenty_are_booted() -> Result<()> {
    tell("power-cuts-full", 20)
}

/// Records an update, cuts it at every flush and at some moments between them, and boots some of the disks.
fn tell(name: &str, boots: usize) -> Result<()> {
    let lab = Lab::new(name)?;
    let (forge, store) = (Forge::new(&lab)?, lab.store()?);
    store.qa(&["config", "set", "node.bless.after=5"])?;
    let (old, new) = (forge.node("1.0")?, forge.node("2.0")?);
    let seed = store.seed("node1")?;
    let boot = Boot::new(artifact(&old, "raw")).seed(seed.clone());

    // What the update begins with: a node that has joined.
    let mut node = lab.boot(boot.clone())?;
    store.wait_ready(&mut node)?;
    node.shut_down(Duration::from_secs(90))?;
    let disk = lab.path("cut.raw");
    copy_raw("qcow2", &lab.path("node1.qcow2"), &disk)?;

    let mut node = lab.boot(boot.recorded())?;
    store.wait_ready(&mut node)?;
    store.qa(&["image", "add", &format!("path={}", artifact(&new, "set").display())])?;
    store.qa(&["host", "update", "-f", "name=node1", "image=2.0"])?;
    store.wait_for("2.0 blessed", "host", "name=node1", LIMIT, |host| {
        host["state"] == "running" && host["versions"]["running"] == "2.0" && host["versions"]["trial"] == false
    })?;
    let log = node.recording().to_owned();
    node.shut_down(Duration::from_secs(90))?;

    let mut replay = Replay::new(Recording::read(&log)?, &disk)?;
    let mut judge = Judge::of(&disk, [&old, &new])?;
    let apart = |changes: &[Change]| changes.iter().any(|change| judge.is_apart(change));
    let plan = cuts::plan(replay.recording(), |changes| if apart(changes) { TORN } else { 1 });
    let torn = |cut: &&Cut| cut.torn.is_some() && apart(&replay.recording().epochs[cut.epoch]);
    let sample = sample(plan.iter().filter(torn).copied().collect(), boots);
    ensure!(plan.len() >= CUTS, "{} moments: expected {CUTS} at least", plan.len());
    let (began, mut next) = (Instant::now(), BTreeMap::<String, usize>::new());
    for cut in &plan {
        let version = replay.at(cut, |path, disk, touched| {
            let version = judge.next_boot(disk, touched)?;
            if sample.contains(cut) {
                let took = boots_from(&lab, &store, &seed, path, &version)?;
                println!("{cut:?} boots {version}: Ready after {:.1} s", took.as_secs_f64());
            }
            Ok(version)
        });
        *next.entry(version.with_context(|| format!("power fails at {cut:?}"))?).or_default() += 1;
    }
    let flushes = plan.iter().filter(|cut| cut.torn.is_none()).count();
    println!(
        "power cuts: {} moments, {flushes} of them flushes; what boots next: {next:?}; {:.0} s",
        plan.len(),
        began.elapsed().as_secs_f64()
    );
    ensure!(next.len() == 2, "the update is not in the recording: {next:?}");
    Ok(())
}

/// So many of them, from all over.
fn sample(from: Vec<Cut>, number: usize) -> Vec<Cut> {
    (0..number).filter_map(|nth| from.get(from.len() * (2 * nth + 1) / (2 * number)).copied()).collect()
}

/// Boots the disk that a cut left, and waits until the node is Ready on this version.
fn boots_from(lab: &Lab, store: &Store, seed: &str, disk: &Path, version: &str) -> Result<Duration> {
    // The same machine, with another disk.
    let there = lab.path("cut");
    if there.exists() {
        std::fs::remove_dir_all(&there).context("Cannot remove the machine of the cut before")?;
    }
    let mut node = Lab::at(there)?.boot(Boot::new(disk).seed(seed.to_owned()))?;
    // The store may still take it for what it was before the cut.
    node.console().wait_for("Ready after", LIMIT)?;
    let took = node.started().elapsed();
    store.wait_for(version, "host", "name=node1", LIMIT, |host| host["versions"]["running"] == version)?;
    Ok(took)
}

/// Says what a disk boots next, and holds it against what was built.
struct Judge {
    /// The UKI of each version, byte for byte.
    ukis: BTreeMap<String, Vec<u8>>,
    state: std::ops::Range<u64>,
    verified: BTreeMap<&'static str, [u8; 32]>,
    last: Option<String>,
}

impl Judge {
    fn of(disk: &Path, builds: [&Path; 2]) -> Result<Self> {
        let state = Table::read(&mut File::open(disk)?)?.find(gpt::STATE)?;
        let mut ukis = BTreeMap::new();
        for (version, build) in ["1.0", "2.0"].into_iter().zip(builds) {
            ukis.insert(version.to_owned(), std::fs::read(artifact(build, "efi"))?);
        }
        let state = state.start..state.start + state.len;
        Ok(Self { ukis, state, verified: BTreeMap::new(), last: None })
    }

    /// Whether it changes something else than the node's own data.
    fn is_apart(&self, change: &Change) -> bool {
        change.at < self.state.start || change.at + change.len > self.state.end
    }

    fn next_boot(&mut self, disk: &mut File, touched: &[Change]) -> Result<String> {
        if let Some(last) = &self.last
            && !touched.iter().any(|change| self.is_apart(change))
        {
            return Ok(last.clone());
        }
        let slots = Slots::read(disk, None)?;
        for slot in [&slots.a, &slots.b] {
            let range = slot.partition.start..slot.partition.start + slot.partition.len;
            if touched.iter().any(|change| change.at < range.end && change.at + change.len > range.start) {
                self.verified.remove(slot.side.partition());
            }
            for held in &slot.entries {
                self.check(disk, slot.side, slot.partition.start, held).with_context(|| held.file.clone())?;
            }
        }
        let other = slots.strays.iter().find(|stray| stray.file.to_ascii_lowercase().ends_with(".efi"));
        ensure!(other.is_none(), "the boot loader sees {other:?}");
        let good = [&slots.a, &slots.b].into_iter().any(|slot| slot.state() == State::Good);
        ensure!(good, "no version is good without a count: {slots:?}");
        let (_, held) = slots.next_boot().context("there is nothing to boot")?;
        self.last = Some(held.name.version().to_owned());
        Ok(held.name.version().to_owned())
    }

    /// Every byte of what an entry boots.
    fn check(&mut self, disk: &mut File, side: Side, start: u64, held: &Held) -> Result<()> {
        let esp = Table::read(disk)?.find(gpt::ESP)?;
        let mut esp = FatReader::new(Stream::new(Part::new(&mut *disk, esp.start, esp.len)))?;
        ensure!(Some(&esp.read_path(&held.path())?) == self.ukis.get(held.name.version()), "its UKI is another");
        let root = held.identity.verity.root;
        if self.verified.get(side.partition()) != Some(&root) {
            disk.seek(SeekFrom::Start(start))?;
            verity::verify(&mut BufReader::with_capacity(1 << 20, &mut *disk), &held.identity.verity)?;
            self.verified.insert(side.partition(), root);
        }
        Ok(())
    }
}
