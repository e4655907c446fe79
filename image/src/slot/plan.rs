//! What to do with the slots: pure, as ordered steps. Each leaves a node that boots a verified, blessed version,
//! whichever of them was the last (decision 012).

use std::fmt;

use uuid::Uuid;

use super::load::{Held, Side, Slot, Slots, State, UNFINISHED, path};
use super::refusal::Refusal;
use super::{Mark, Tries, entry, version};
use crate::verity::Verity;

/// A version to be installed, as its signed manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct New {
    /// Name of the image.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Architecture, as `x86_64`.
    pub architecture: String,
    /// Identity of its root.
    pub verity: Verity,
    /// Fingerprint of the CA of the one cluster that it is for, if it is for one.
    pub cluster: Option<String>,
    /// Bytes of root and tree.
    pub root_bytes: u64,
    /// Bytes of the UKI.
    pub uki_bytes: u64,
    /// SHA-256 of the UKI.
    pub uki_sha256: [u8; 32],
}

/// One step. Doing it again is legal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Mend what a power cut left on the ESP.
    MendEsp,
    /// Give an entry another name.
    Rename {
        /// Name of its file.
        from: String,
        /// The new one.
        to: String,
    },
    /// Remove an entry.
    Remove {
        /// Name of its file.
        file: String,
    },
    /// Take a slot's PARTUUID away: nothing finds its root any more.
    Empty {
        /// Which.
        side: Side,
    },
    /// Write the new root into a slot that was emptied.
    WriteRoot {
        /// Which.
        side: Side,
        /// Bytes of root and tree.
        bytes: u64,
    },
    /// Read it back, every block.
    CheckRoot {
        /// Which.
        side: Side,
        /// What it must be.
        verity: Verity,
    },
    /// Let it be found by its root hash.
    Name {
        /// Which.
        side: Side,
        /// Its new PARTUUID.
        guid: Uuid,
    },
    /// Write the UKI under a name that nobody boots.
    WriteEntry {
        /// Name of its file.
        file: String,
        /// Its bytes.
        bytes: u64,
    },
    /// Read it back.
    CheckEntry {
        /// Name of its file.
        file: String,
        /// What it must be.
        new: Box<New>,
    },
}

/// Steps in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

/// Plans to install a version in the slot that does not run. `floor` is the oldest version allowed.
///
/// # Errors
/// A [`Refusal`] with its reason. After an install that broke off, the same call plans all of it again.
pub fn install(new: &New, slots: &Slots, floor: Option<&str>) -> Result<Plan, Refusal> {
    let name = new.entry_name()?;
    let (running, idle) = slots.running_and_idle().ok_or(Refusal::NotFromDisk)?;
    let held = blessed_entry(running)?;
    new.fits(running, idle, floor)?;
    new.follows(held)?;
    let removed = removable(slots, idle);
    let room = slots.esp_free + removed.iter().map(|(_, len)| len.next_multiple_of(slots.esp_cluster)).sum::<u64>();
    // One cluster more, should the folder have to grow.
    if new.uki_bytes.next_multiple_of(slots.esp_cluster) + slots.esp_cluster > room {
        return Err(Refusal::UkiTooLarge { found: new.uki_bytes, room });
    }
    let (side, file) = (idle.side, name.marked(Mark::Trial(Tries::fresh(entry::TRIAL_TRIES))).to_string());
    let unfinished = format!("{name}{UNFINISHED}");
    let mut steps = vec![Step::MendEsp];
    // From here on there is nothing else to fall back on: nobody may count or rename it.
    steps.extend(settle(running, Mark::Good));
    steps.extend(removed.into_iter().map(|(file, _)| Step::Remove { file }));
    steps.extend([
        Step::Empty { side },
        Step::WriteRoot { side, bytes: new.root_bytes },
        Step::CheckRoot { side, verity: new.verity.clone() },
        Step::Name { side, guid: new.verity.partition_uuid() },
        Step::WriteEntry { file: unfinished.clone(), bytes: new.uki_bytes },
        Step::CheckEntry { file: unfinished.clone(), new: Box::new(new.clone()) },
        Step::Rename { from: unfinished, to: file },
    ]);
    Ok(Plan { steps })
}

/// Plans to bless what runs: it is good. While the other slot has a good version as well, it stays counted, with
/// [`entry::ARMED_TRIES`] from now on, so that a later breakage ends there. `None` when all is as it should be.
///
/// For an armed version, call it as soon as a boot counts as good, and at an orderly end of one.
#[must_use]
pub fn bless(slots: &Slots) -> Option<Plan> {
    let (running, idle) = slots.running_and_idle()?;
    running.held()?;
    let mut steps = Vec::new();
    let mark = if idle.is_blessed() {
        // The one that is fallen back on is not counted.
        steps.extend(settle(idle, Mark::Good));
        Mark::Armed(Tries::fresh(entry::ARMED_TRIES))
    } else {
        Mark::Good
    };
    steps.extend(settle(running, mark));
    (!steps.is_empty()).then_some(Plan { steps })
}

/// Plans to let the other slot boot next, and to give up what runs.
///
/// # Errors
/// When the other slot has no good version.
pub fn roll_back(slots: &Slots) -> Result<Plan, Refusal> {
    let (running, idle) = slots.running_and_idle().ok_or(Refusal::NotFromDisk)?;
    if !idle.is_blessed() {
        return Err(Refusal::NothingGood { side: idle.side, state: idle.state() });
    }
    let done = running.held().and_then(|held| held.name.tries()).map_or(0, |tries| tries.done);
    let mut steps = settle(idle, Mark::Good);
    steps.extend(settle(running, Mark::Failed { done }));
    Ok(Plan { steps })
}

/// Plans to try a version again that failed, or that was rolled back from.
///
/// # Errors
/// When the slot that does not run has none that is newer, or what runs is not blessed.
pub fn retry(slots: &Slots) -> Result<Plan, Refusal> {
    let (running, idle) = slots.running_and_idle().ok_or(Refusal::NotFromDisk)?;
    let held = blessed_entry(running)?;
    let failed = idle.held().filter(|_| idle.state() == State::Failed);
    let failed = failed.ok_or(Refusal::NothingFailed { side: idle.side, state: idle.state() })?;
    if !version::compare(failed.name.version(), held.name.version()).is_gt() {
        let (new, running) = (failed.name.version().to_owned(), held.name.version().to_owned());
        return Err(Refusal::NotNewer { running, new });
    }
    let mut steps = settle(running, Mark::Good);
    steps.extend(settle(idle, Mark::Trial(Tries::fresh(entry::TRIAL_TRIES))));
    Ok(Plan { steps })
}

/// Plans to forget a version that is installed, does not run, and is not good. `None` when there is none.
#[must_use]
pub fn forget(slots: &Slots) -> Option<Plan> {
    let (running, idle) = slots.running_and_idle()?;
    if running.entries.is_empty() || idle.entries.is_empty() || idle.is_blessed() {
        return None;
    }
    let mut steps: Vec<_> = idle.entries.iter().map(|held| Step::Remove { file: held.file.clone() }).collect();
    steps.push(Step::Empty { side: idle.side });
    Some(Plan { steps })
}

/// The running slot's entry, when it was blessed.
fn blessed_entry(running: &Slot) -> Result<&Held, Refusal> {
    let held = running.held().ok_or(Refusal::NoEntry { side: running.side })?;
    if running.is_blessed() { Ok(held) } else { Err(Refusal::OnTrial { version: held.name.version().to_owned() }) }
}

/// Steps after which a slot has one entry, under this mark.
fn settle(slot: &Slot, mark: Mark) -> Vec<Step> {
    let Some(held) = slot.held() else { return Vec::new() };
    let wanted = held.name.marked(mark).to_string();
    let keep = slot.entries.iter().find(|held| held.file == wanted).unwrap_or(held);
    let rename = (keep.file != wanted).then(|| Step::Rename { from: keep.file.clone(), to: wanted });
    let others = slot.entries.iter().filter(|held| held.file != keep.file);
    rename.into_iter().chain(others.map(|held| Step::Remove { file: held.file.clone() })).collect()
}

/// Entries that an install removes, and their lengths.
fn removable(slots: &Slots, idle: &Slot) -> Vec<(String, u64)> {
    let held = idle.entries.iter().map(|held| (held.file.clone(), held.len));
    let strays = slots.strays.iter().filter(|stray| stray.ours).map(|stray| (stray.file.clone(), stray.len));
    held.chain(strays).collect()
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MendEsp => f.write_str("mend the ESP"),
            Self::Rename { from, to } => write!(f, "rename {} to {to}", path(from)),
            Self::Remove { file } => write!(f, "remove {}", path(file)),
            Self::Empty { side } => write!(f, "empty slot {side}"),
            Self::WriteRoot { side, .. } => write!(f, "write the root into slot {side}"),
            Self::CheckRoot { side, .. } => write!(f, "read back slot {side}"),
            Self::Name { side, .. } => write!(f, "give slot {side} its root's name"),
            Self::WriteEntry { file, .. } => write!(f, "write {}", path(file)),
            Self::CheckEntry { file, .. } => write!(f, "read back {}", path(file)),
        }
    }
}
