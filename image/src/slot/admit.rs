//! Whether a new version may be installed at all.

use super::load::{Held, Slot, State};
use super::plan::New;
use super::refusal::Refusal;
use super::{EntryName, version};
use crate::verity::hex;

impl New {
    pub(super) fn entry_name(&self) -> Result<EntryName, Refusal> {
        let bad = || Refusal::BadName { name: self.name.clone(), version: self.version.clone() };
        EntryName::new(&self.name, &self.version).ok_or_else(bad)
    }

    pub(super) fn fits(&self, running: &Slot, idle: &Slot, floor: Option<&str>) -> Result<(), Refusal> {
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
    pub(super) fn follows(&self, held: &Held) -> Result<(), Refusal> {
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
