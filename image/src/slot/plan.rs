//! What to do with the slots: pure, as ordered steps. Each leaves a node that boots a verified, blessed version,
//! whichever of them was the last (decision 012).

use std::fmt;

use thiserror::Error;
use uuid::Uuid;

use super::load::{Held, Side, Slot, Slots, State, UNFINISHED, path};
use super::{EntryName, Mark, Tries, entry, version};
use crate::verity::{Verity, hex};

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

/// Why something is not done. Nothing was written.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// What runs came from elsewhere.
    #[error("This node runs no root of its own disk: boot it from there first")]
    NotFromDisk,
    /// The running version could not be booted again.
    #[error("Slot {side} runs, and no boot entry leads to it any more: reboot into the other slot first")]
    NoEntry {
        /// The running slot.
        side: Side,
    },
    /// The running version may yet turn out bad.
    #[error("Version {version} runs on trial and is not blessed yet: the other slot is what it falls back on")]
    OnTrial {
        /// The running version.
        version: String,
    },
    /// It is there.
    #[error("Version {version} is installed in slot {side} already: {state}")]
    Installed {
        /// The version.
        version: String,
        /// Where.
        side: Side,
        /// How it fares.
        state: State,
    },
    /// It is there, and was given up.
    #[error("Version {version} is in slot {side} and failed: install another one, or ask for it to be tried again")]
    FailedBefore {
        /// The version.
        version: String,
        /// Where.
        side: Side,
    },
    /// Two builds under one version.
    #[error(
        "Version {version} in slot {side} has root {found}, and the new one of the same version {new}: versions are not used twice"
    )]
    TwoOfOneVersion {
        /// The version.
        version: String,
        /// Where the other one is.
        side: Side,
        /// Root hash there.
        found: String,
        /// Root hash of the new one.
        new: String,
    },
    /// Two versions with one root: partitions are found by it.
    #[error("Version {version} has the very root that runs")]
    SameRoot {
        /// The new version.
        version: String,
    },
    /// The boot loader would not take it.
    #[error(
        "Version {new} is not newer than {running}, which runs: the boot loader would never try it; to go back, roll back"
    )]
    NotNewer {
        /// The running version.
        running: String,
        /// The new version.
        new: String,
    },
    /// The boot loader sorts by this first.
    #[error("The new image is {new}, and {running} runs: a node is not updated to another image")]
    OtherImage {
        /// What runs.
        running: String,
        /// What was offered.
        new: String,
    },
    /// Older than what may be installed.
    #[error("Version {new} is below the floor {floor}")]
    BelowFloor {
        /// The floor.
        floor: String,
        /// The new version.
        new: String,
    },
    /// For another machine.
    #[error("The new version is for {found}, and this node is {expected}")]
    Architecture {
        /// Of the new version.
        found: String,
        /// Of the node.
        expected: String,
    },
    /// Name and version cannot be an entry's.
    #[error("Name {name:?} and version {version:?} cannot be a boot entry's")]
    BadName {
        /// The name.
        name: String,
        /// The version.
        version: String,
    },
    /// The root's length is not what its verity parameters say.
    #[error("The root is announced with {found} bytes, and its verity parameters make {expected}")]
    RootLength {
        /// As announced.
        found: u64,
        /// As computed.
        expected: u64,
    },
    /// Too large for a slot.
    #[error("The root has {found} bytes, and slot {side} has {room}")]
    RootTooLarge {
        /// Bytes of the root.
        found: u64,
        /// Which slot.
        side: Side,
        /// Bytes of it.
        room: u64,
    },
    /// Too large for the ESP.
    #[error("The UKI has {found} bytes, and the ESP has room for {room} once the old one is gone")]
    UkiTooLarge {
        /// Bytes of the UKI.
        found: u64,
        /// Bytes free then.
        room: u64,
    },
    /// There is nothing to go back to.
    #[error("There is no good version to go back to: slot {side} is {state}")]
    NothingGood {
        /// The other slot.
        side: Side,
        /// How it fares.
        state: State,
    },
    /// There is nothing to try again.
    #[error("There is no failed version to try again: slot {side} is {state}")]
    NothingFailed {
        /// The other slot.
        side: Side,
        /// How it fares.
        state: State,
    },
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

impl New {
    fn entry_name(&self) -> Result<EntryName, Refusal> {
        let bad = || Refusal::BadName { name: self.name.clone(), version: self.version.clone() };
        EntryName::new(&self.name, &self.version).ok_or_else(bad)
    }

    fn fits(&self, running: &Slot, idle: &Slot, floor: Option<&str>) -> Result<(), Refusal> {
        let expected = running.held().map(|held| held.identity.architecture.clone()).unwrap_or_default();
        if self.architecture != expected {
            return Err(Refusal::Architecture { found: self.architecture.clone(), expected });
        }
        for slot in [running, idle] {
            self.is_not_in(slot)?;
        }
        if let Some(floor) = floor.filter(|floor| version::compare(&self.version, floor).is_lt()) {
            return Err(Refusal::BelowFloor { floor: floor.to_owned(), new: self.version.clone() });
        }
        let (found, expected) = (self.root_bytes, self.verity.total_bytes());
        if found != expected {
            return Err(Refusal::RootLength { found, expected });
        }
        if found > idle.partition.len {
            return Err(Refusal::RootTooLarge { found, side: idle.side, room: idle.partition.len });
        }
        Ok(())
    }

    fn is_not_in(&self, slot: &Slot) -> Result<(), Refusal> {
        let (version, side) = (self.version.clone(), slot.side);
        for held in &slot.entries {
            let same_version = version::compare(held.name.version(), &self.version).is_eq();
            let same_root = held.identity.verity.root == self.verity.root;
            return Err(match (same_version, same_root, slot.state()) {
                (true, true, State::Failed) => Refusal::FailedBefore { version, side },
                (true, true, state) => Refusal::Installed { version, side, state },
                (true, false, _) => Refusal::TwoOfOneVersion {
                    version,
                    side,
                    found: hex(&held.identity.verity.root),
                    new: hex(&self.verity.root),
                },
                (false, ..) => continue,
            });
        }
        Ok(())
    }

    /// The boot loader takes it before what runs.
    fn follows(&self, held: &Held) -> Result<(), Refusal> {
        let (new, identity) = (self.version.clone(), &held.identity);
        if identity.verity.partition_uuid() == self.verity.partition_uuid() {
            return Err(Refusal::SameRoot { version: new });
        }
        if identity.sort_key.as_ref() != Some(&self.name) {
            let running = identity.sort_key.clone().unwrap_or_else(|| "an image without a name".to_owned());
            return Err(Refusal::OtherImage { running, new: self.name.clone() });
        }
        let running = identity.version.clone().unwrap_or_default();
        if !version::compare(&new, &running).is_gt() {
            return Err(Refusal::NotNewer { running, new });
        }
        Ok(())
    }
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
