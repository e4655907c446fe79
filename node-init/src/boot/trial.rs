//! Whether this boot is a trial: of a version that nobody has blessed yet, or of one that a later breakage may end.
//!
//! What runs is known by its root hash, and how it fares is in the name of its boot entry (`image::slot`). A node that
//! was booted otherwise, by PXE or directly by a lab, is on no trial.

use super::cmdline::{self, Cmdline};
use super::disk::{self, Disk};
use image::slot::{Slot, Slots};
use image::verity::hex;
use model::key::{Config, TRIAL_LIMIT};
use std::fs::File;
use std::sync::mpsc;
use std::time::Duration;

/// No trial is shorter or longer than this, whatever the configuration says: a boot takes its time, and a node that does
/// not come up must not stay away for long.
const LIMITS: std::ops::RangeInclusive<u64> = Trial::SHORTEST_S..=3600;

/// A boot that must be blessed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Its version.
    pub version: String,
    /// When it is given up, after the kernel's start.
    pub until: Duration,
}

impl Trial {
    /// No trial is shorter, in seconds after the kernel's start.
    pub const SHORTEST_S: u64 = 60;
}

/// Looks at the disk. What cannot be read is told and is no trial: such a disk has nothing to fall back on either.
pub fn find(disk: &Disk, cmdline: &Cmdline) -> Option<Trial> {
    match slots(disk, cmdline) {
        Ok(slots) => of(&slots, limit(std::fs::read_to_string(model::paths::TRIAL_LIMIT).ok().as_deref())),
        Err(error) => {
            tracing::warn!(error, disk = %disk.node.display(), "Cannot tell whether this boot is a trial");
            None
        }
    }
}

/// Whether this boot is a trial, from whatever state it has failed in: where the disk gives no answer in time, none.
pub fn under_way(patience: Duration) -> bool {
    let look = || {
        let cmdline = cmdline::read().ok()?;
        find(&disk::with_root(&cmdline)?, &cmdline)
    };
    // A thread of its own: what has failed may be that nobody gets an answer of the disk.
    let (tell, told) = mpsc::channel();
    let looks = std::thread::Builder::new().stack_size(256 * 1024).spawn(move || tell.send(look().is_some()));
    looks.is_ok() && told.recv_timeout(patience).unwrap_or(false)
}

/// The version on the disk that has this root, by its hash in hexadecimal.
pub fn version_of(disk: &Disk, cmdline: &Cmdline, root: &str) -> Option<String> {
    let slots = slots(disk, cmdline).ok()?;
    let mut held = [&slots.a, &slots.b].into_iter().filter_map(Slot::held);
    held.find(|held| hex(&held.identity.verity.root) == root).map(|held| held.name.version().to_owned())
}

fn slots(disk: &Disk, cmdline: &Cmdline) -> Result<Slots, String> {
    let mut file = File::open(&disk.node).map_err(|e| e.to_string())?;
    Slots::read(&mut file, Some(&cmdline.verity.root)).map_err(|e| crate::fail::chain(&e))
}

/// The last try is called failed already: the boot loader counts before it boots. One that was good before is on no
/// trial, also in the last boot until it would be given up.
fn of(slots: &Slots, until: Duration) -> Option<Trial> {
    let held = slots.running_and_idle()?.0.held()?;
    (!held.was_blessed()).then(|| Trial { version: held.name.version().to_owned(), until })
}

fn limit(text: Option<&str>) -> Duration {
    let default = || Config::default().get(&TRIAL_LIMIT).as_secs();
    let seconds = text.and_then(|text| text.trim().parse().ok()).unwrap_or_else(default);
    Duration::from_secs(seconds.clamp(*LIMITS.start(), *LIMITS.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_has_its_configured_time_within_reason() {
        for (text, expect) in
            [(None, 300), (Some("120\n"), 120), (Some("1"), 60), (Some("999999"), 3600), (Some("soon"), 300)]
        {
            assert_eq!(limit(text).as_secs(), expect, "{text:?}");
        }
    }
}
