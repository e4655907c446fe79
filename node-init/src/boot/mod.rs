//! From the kernel's hand-over to running services, top to bottom. Each phase has a name, a time limit and an entry in
//! the boot timeline, and gives what a later phase needs.

mod cgroups;
mod cmdline;
mod disk;
mod ext4;
mod hardening;
mod mounts;
mod overseer;
mod phases;
mod seed;
mod settings;
mod smbios;
mod state;
mod trial;
mod vault;
mod verity_root;

pub use cgroups::Cgroups;
pub use mounts::pstore as mount_pstore;
pub use phases::TimelineFile;
pub use seed::Source as Seed;
pub use state::State;
pub use trial::{Trial, under_way as on_trial};

use crate::devices::Devices;
use crate::fail::Failure;
use crate::supervise;
use crate::watchdog;
use crate::words::{self, Words};
use image::verity::hex;
use phases::{Phases, SWITCH_ROOT};
use std::convert::Infallible;
use std::sync::Arc;
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
    let (watchdog, left) = phases.run("watchdog", SHORT, || {
        devices.load_watchdogs()?;
        let watchdog = watchdog::arm();
        let left = watchdog.as_ref().and_then(watchdog::leave);
        Ok((watchdog, left))
    })?; // before anything that a version may hang in
    phases.guard(watchdog);
    devices.keep_panics(); // from here on a panic leaves its words in the firmware's variables
    let disk = phases.run("find-root", ROOT + SHORT, || verity_root::find(&cmdline, &mut devices, ROOT))?;
    words::introduce(&hex(&cmdline.verity.root)); // again: drivers have said much, and only the end of the log is kept
    let root = phases.run("verity", SHORT, || verity_root::open(&cmdline, &disk, &mut devices))?;
    drop(devices); // its index is memory that the next program has better use for
    phases.run(SWITCH_ROOT, SHORT, || mounts::switch_to(&root, left.as_deref()))
}

/// On the root: everything else. Ends with the machine.
pub fn boot() -> Result<Infallible, Failure> {
    let watchdog = watchdog::left(std::env::args().skip(1)); // before its number could mean another file
    let signals = supervise::signals()?;
    let mut phases = Phases::go_on();
    phases.guard(watchdog);
    let mounted = phases.run("mounts", SHORT, mounts::the_rest)?;
    phases.run("settings", SHORT, || {
        hardening::apply(&mounted);
        settings::apply(&mounted)
    })?;
    let cgroups = phases.run("cgroups", SHORT, || cgroups::claim(&mounted))?; // before the first child, so that none escapes
    let devices = phases.run("devices", SHORT, || Ok(supervise::start_devices(&cgroups)?))?; // goes on beside us
    let (cmdline, disk) = phases.run("root-disk", SHORT, || {
        let cmdline = cmdline::read()?;
        disk::of_root(&cmdline).map(|disk| (cmdline, disk))
    })?;
    words::introduce(&hex(&cmdline.verity.root)); // for a panic before there is a record of this boot
    let state = phases.run("state", STATE, || state::open(&disk, &mounted))?;
    let hardening = phases.run("hardening", SHORT, || Ok(hardening::check(&state)))?; // the last mount is there
    phases.hardened(hardening);
    let root = hex(&cmdline.verity.root);
    let slots = Arc::new((disk, cmdline));
    let of_words = slots.clone();
    let version_of = move |root: &str| trial::version_of(&of_words.0, &of_words.1, root);
    let words = Words::record(&state, &root, version_of); // goes on beside us
    let seed = phases.run("seed", SHORT, || seed::find(&mounted))?;
    // What cannot be read `noded` tells.
    if let Some(seed) = seed.and_then(|_| seed::parsed().ok()) {
        state.tell_mismatch(&seed);
    }
    phases.run("last-words", SHORT, || {
        words.collected(LAST_WORDS);
        Ok(())
    })?;
    phases.run("services", SHORT, || Ok(()))?;
    let look = Box::new(move || trial::find(&slots.0, &slots.1)); // later: nothing in a boot waits for it
    let (timeline, watchdog) = phases.finish();
    let machine = supervise::Machine { timeline, cgroups, devices, watchdog, words, signals };
    supervise::run(machine, state, seed, look)
}

/// Random bytes, by the kernel.
fn random<const N: usize>() -> Result<[u8; N], sys::Error> {
    use std::io::Read;
    let mut bytes = [0; N];
    let random = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    random.map_err(sys::Error::of("read", "/dev/urandom"))?;
    Ok(bytes)
}
