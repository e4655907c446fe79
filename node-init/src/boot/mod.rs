//! From the kernel's hand-over to running services, top to bottom. Each phase has a name, a time limit and an entry in
//! the boot timeline, and gives what a later phase needs.

mod cgroups;
mod cmdline;
mod disk;
mod ext4;
mod mounts;
mod phases;
mod seed;
mod settings;
mod smbios;
mod state;
mod trial;
mod verity_root;

pub use cgroups::Cgroups;
pub use mounts::pstore as mount_pstore;
pub use phases::TimelineFile;
pub use seed::Source as Seed;
pub use state::State;
pub use trial::{Roots, Trial};

use crate::devices::Devices;
use crate::fail::Failure;
use crate::supervise;
use crate::words::{self, Words};
use image::verity::hex;
use phases::{Phases, SWITCH_ROOT};
use std::convert::Infallible;
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(30);
/// Until a disk has spun up and answered.
const ROOT: Duration = Duration::from_secs(60);
/// A file system check of a large disk takes its time.
const STATE: Duration = Duration::from_secs(660);
/// A firmware that takes longer to give its variables keeps no boot waiting.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// In the initrd: finds the root, checks it, and hands over to the `node-init` that lies on it.
pub fn initrd() -> Result<Infallible, Failure> {
    mounts::kernel_interfaces()?; // before the first word of log: /dev/kmsg and /dev/console are in them
    let mut phases = Phases::begin();
    let cmdline = phases.run("cmdline", SHORT, cmdline::read)?;
    words::introduce(&hex(&cmdline.verity.root));
    let mut devices = phases.run("modules", SHORT, || Ok(Devices::open()?))?;
    devices.keep_panics(); // from here on a panic leaves its words in the firmware's variables
    let disk = phases.run("find-root", ROOT + SHORT, || verity_root::find(&cmdline, &mut devices, ROOT))?;
    words::introduce(&hex(&cmdline.verity.root)); // again: drivers have said much, and only the end of the log is kept
    let root = phases.run("verity", SHORT, || verity_root::open(&cmdline, &disk, &mut devices))?;
    drop(devices); // its index is memory that the next program has better use for
    phases.run(SWITCH_ROOT, SHORT, || mounts::switch_to(&root))
}

/// On the root: everything else. Ends with the machine.
pub fn boot() -> Result<Infallible, Failure> {
    let mut phases = Phases::go_on();
    let mounted = phases.run("mounts", SHORT, mounts::the_rest)?;
    phases.run("settings", SHORT, || settings::apply(&mounted))?;
    let cgroups = phases.run("cgroups", SHORT, || cgroups::claim(&mounted))?; // before the first child, so that none escapes
    let devices = phases.run("devices", SHORT, || Ok(supervise::start_devices(&cgroups)?))?; // goes on beside us
    let (cmdline, disk) = phases.run("root-disk", SHORT, || {
        let cmdline = cmdline::read()?;
        disk::of_root(&cmdline).map(|disk| (cmdline, disk))
    })?;
    let state = phases.run("state", STATE, || state::open(&disk))?;
    let (trial, roots) = phases.run("slots", SHORT, || Ok(trial::find(&disk, &cmdline)))?;
    let words = Words::record(&state, &hex(&cmdline.verity.root), roots); // goes on beside us
    let seed = phases.run("seed", SHORT, || seed::find(&mounted))?;
    phases.run("last-words", SHORT, || {
        words.collected(LAST_WORDS);
        Ok(())
    })?;
    phases.run("services", SHORT, || Ok(()))?;
    supervise::run(phases.into_timeline(), cgroups, devices, state, seed, trial, words)
}
