//! The packaged systemd-boot, and what our slots rely on: entries by version, counters in their names, and the older
//! entry once a newer one has failed.

use anyhow::{Context, Result, ensure};
use builder::lab::{Boot, Lab};
use image::slot::{self, Identity, New, Side, Slots, Sources, State};
use image::verity;
use qemu_tests::{copy_raw, images};
use sha2::{Digest, Sha256};
use std::{fs::File, os::unix::fs::FileExt, path::Path, time::Duration};

/// From power-on, or from a reset, to what comes next.
const LIMIT: Duration = Duration::from_secs(120);
/// What the console shows when the kernel meets a block that its hash does not vouch for.
const CAUGHT: &str = "device-mapper: verity:";
/// Where squashfs has the image's date: every boot reads its block, and no value of it is wrong.
const DATE: usize = 8;

#[test]
fn a_version_that_cannot_boot_has_three_tries_and_then_the_good_one_is_ready() -> Result<()> {
    let lab = Lab::new("boot-counting")?;
    let (store, disk) = (lab.store()?, lab.path("two-versions.raw"));
    copy_raw("raw", &images().node, &disk)?;
    let newer = Newer::of(&images().node)?;
    newer.install(&disk)?;
    // A failing drive: the root was whole when it was read back.
    let mut file = File::options().read(true).write(true).open(&disk)?;
    let at = Slots::read(&mut file, None)?.b.partition.start + DATE as u64;
    file.write_all_at(&[newer.root[DATE] ^ 0x10], at)?;

    let mut node = lab.boot(Boot::new(&disk).seed(store.seed("node1")?))?;
    let (mut qmp, power_on) = (node.qmp()?, node.started());
    let seconds = || power_on.elapsed().as_secs_f32();
    for attempt in 1..=3 {
        node.console().wait_for(CAUGHT, LIMIT).with_context(|| format!("attempt {attempt}"))?;
        let caught = seconds();
        qmp.wait_event("RESET", LIMIT).with_context(|| format!("attempt {attempt}"))?;
        println!("attempt {attempt}: its root refused after {caught:.1} s, reset after {:.1} s", seconds());
        node.console().mark()?;
    }
    // Its control socket serves one at a time.
    drop(qmp);
    let line = node.console().wait_for_any(&["Ready after", CAUGHT], LIMIT)?;
    println!("bad slot to Ready on the good one, three tries: {:.1} s", seconds());
    ensure!(line.contains("Ready after"), "a fourth attempt: {line}");
    node.shut_down(Duration::from_secs(60))?;

    let after = lab.path("after.raw");
    copy_raw("qcow2", &lab.path("node1.qcow2"), &after)?;
    let slots = Slots::read(&mut File::open(&after)?, None)?;
    let failed = slots.b.held().context("slot B lost its entry")?;
    ensure!(failed.file == format!("{}_{}+0-3.efi", newer.new.name, newer.new.version), "{}", failed.file);
    ensure!((slots.a.state(), slots.b.state()) == (State::Good, State::Failed), "{slots:?}");
    ensure!(slots.next_boot().map(|(side, _)| side) == Some(Side::A), "{slots:?}");
    Ok(())
}

/// A newer version of an image: the same system under another date, so that its root hash is another.
struct Newer {
    new: New,
    root: Vec<u8>,
    uki: Vec<u8>,
}

impl Newer {
    fn of(image: &Path) -> Result<Self> {
        let beside = |suffix: &str| std::fs::read(image.with_extension(suffix)).with_context(|| suffix.to_owned());
        let (mut root, mut uki) = (beside("root.squashfs")?, beside("efi")?);
        let old = Identity::read(std::io::Cursor::new(&uki))?;
        let data = usize::try_from(old.verity.data_blocks * verity::BLOCK)?;
        root.truncate(data);
        root[DATE] ^= 1;
        let (verity, tree) = verity::tree(&mut &root[..], old.verity.data_blocks, &old.verity.salt)?;
        root.extend(tree);
        let version = old.version.context("the image has no version")?;
        let newer = format!("9{}", &version[1..]);
        replace(&mut uki, ".cmdline", &verity::hex(&old.verity.root), &verity::hex(&verity.root))?;
        replace(&mut uki, ".osrel", &format!("={version}"), &format!("={newer}"))?;
        let new = New {
            name: old.sort_key.context("the image has no name")?,
            version: newer,
            architecture: old.architecture,
            cluster: old.cluster,
            root_bytes: root.len() as u64,
            uki_bytes: uki.len() as u64,
            uki_sha256: Sha256::digest(&uki).into(),
            verity,
        };
        Ok(Self { new, root, uki })
    }

    /// Installs it as a node would that runs slot A.
    fn install(&self, disk: &Path) -> Result<()> {
        let mut disk = File::options().read(true).write(true).open(disk)?;
        let running = Slots::read(&mut disk, None)?.a.held().context("slot A is empty")?.identity.verity.root;
        let plan = slot::install(&self.new, &Slots::read(&mut disk, Some(&running))?, None)?;
        let sources = Sources { root: &mut &self.root[..], uki: &mut &self.uki[..] };
        Ok(slot::apply(&plan, &mut disk, sources, &mut |_| {})?)
    }
}

/// Replaces a text by one of the same length wherever a section has it.
fn replace(uki: &mut [u8], section: &'static str, from: &str, to: &str) -> Result<()> {
    ensure!(from.len() == to.len(), "{from} and {to} differ in length");
    let data = image::uki::section(uki, section)?;
    let start = data.as_ptr() as usize - uki.as_ptr() as usize;
    let places: Vec<_> = data.windows(from.len()).enumerate().filter(|(_, w)| *w == from.as_bytes()).collect();
    let places: Vec<_> = places.into_iter().map(|(at, _)| start + at).collect();
    ensure!(!places.is_empty(), "{section} has no {from}");
    places.into_iter().for_each(|at| uki[at..at + to.len()].copy_from_slice(to.as_bytes()));
    Ok(())
}
