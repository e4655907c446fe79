//! What is remembered of updates: the one that was tried last, and those that did not hold. A file on STATE, which
//! every version reads: fields that a later one adds are passed over.

use super::words;
use crate::{files, paths::Paths};
use anyhow::Context;
use image::slot::{Slots, State};
use image::verity::hex;
use model::update::Refused;
use node_init::boots::Boots;
use serde::{Deserialize, Serialize};
use std::{fs, io, path::PathBuf};

/// So many refused versions are remembered.
const KEPT: usize = 16;

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version that was written last, until it is known how it went.
    #[serde(default)]
    pub attempt: Option<Attempt>,
    /// Versions that did not hold.
    #[serde(default)]
    pub refused: Vec<Refused>,
}

/// An update that was installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its version.
    pub version: String,
    /// Its root hash, in hexadecimal.
    pub root: String,
    /// The version that installed it could reach the store: then the new one must as well.
    pub store_reached: bool,
}

/// The record and where it lies.
#[derive(Debug)]
pub struct Book {
    path: PathBuf,
    why: PathBuf,
    boots: Boots,
    /// What it says.
    pub record: Record,
}

impl Book {
    /// Reads the record; one that cannot be read is as good as none.
    pub fn open(paths: &Paths) -> io::Result<Self> {
        files::make_dir(&paths.at(model::paths::UPDATE), 0o700)?;
        let path = path(paths);
        let record = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let boots = Boots::at(paths.at(model::paths::BOOTS));
        Ok(Self { path, why: paths.at(model::paths::TRIAL_WHY), boots, record })
    }

    /// Whether this version understands the record, if there is one. One that is damaged is as good as none, and no
    /// version's fault.
    pub fn rehearse(paths: &Paths) -> anyhow::Result<()> {
        let path = path(paths);
        let record = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        let Some(record) = record else { return Ok(()) };
        serde_json::from_value::<Record>(record).map(drop).with_context(|| path.display().to_string())
    }

    /// Writes it.
    pub fn keep(&self) -> io::Result<()> {
        files::replace(&self.path, &serde_json::to_vec(&self.record).unwrap_or_default(), 0o600)
    }

    /// How the last update went, as the slots tell it; whether that is news.
    pub fn settle(&mut self, slots: &Slots) -> bool {
        let why = fs::read_to_string(&self.why).ok();
        let last_words = || words::of(&self.boots.all(), self.record.attempt.as_ref()?);
        let reason = why.as_deref().map(|why| why.trim().to_owned()).or_else(last_words);
        let news = self.record.settle(slots, reason.as_deref());
        if news && why.is_some() {
            // Told once: the next failure has its own reason.
            fs::remove_file(&self.why).ok();
        }
        news
    }

    /// A new version is about to be tried: nothing of an earlier trial is its reason.
    pub fn begin(&mut self, attempt: Attempt) -> io::Result<()> {
        fs::remove_file(&self.why).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
        self.record.attempt = Some(attempt);
        self.keep()
    }
}

fn path(paths: &Paths) -> PathBuf {
    paths.at(model::paths::UPDATE).join("record.json")
}

impl Record {
    fn settle(&mut self, slots: &Slots, why: Option<&str>) -> bool {
        let Some(attempt) = &self.attempt else { return false };
        let Some((running, other)) = slots.running_and_idle() else { return false };
        let holds =
            |slot: &image::slot::Slot| slot.held().is_some_and(|held| hex(&held.identity.verity.root) == attempt.root);
        if holds(running) {
            // On trial, or blessed by a daemon that was cut off before it wrote so.
            let blessed = running.is_blessed();
            if blessed {
                *self = Self::default();
            }
            return blessed;
        }
        if !holds(other) || other.state() == State::Failed {
            let reason = why.map_or_else(
                || "it ended before it was good, and left no word: a panic, a hang, or a reset".to_owned(),
                str::to_owned,
            );
            let version = attempt.version.clone();
            self.refused.retain(|refused| refused.version != version);
            self.refused.push(Refused { version, reason });
            self.refused.drain(..self.refused.len().saturating_sub(KEPT));
            self.attempt = None;
            return true;
        }
        false
    }

    /// Why a version is not tried again.
    pub fn refusal(&self, version: &str) -> Option<&Refused> {
        self.refused.iter().find(|refused| refused.version == version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::gpt::{Partition, ROOT_A};
    use image::slot::{EntryName, Held, Identity, Side, Slot};
    use image::verity::Verity;
    use uuid::Uuid;

    fn slot(side: Side, held: Option<(&str, u8)>) -> Slot {
        let partition =
            Partition { number: 3, name: ROOT_A.to_owned(), guid: Uuid::nil(), kind: Uuid::nil(), start: 0, len: 0 };
        let entries = held.map(|(file, root)| Held {
            file: file.to_owned(),
            name: EntryName::parse(file).expect("a name"),
            identity: Identity {
                verity: Verity { root: [root; 32], salt: vec![], data_blocks: 1 },
                cluster: None,
                sort_key: None,
                version: None,
                architecture: "x86_64".to_owned(),
            },
            len: 1,
        });
        Slot { side, partition, entries: entries.into_iter().collect() }
    }

    /// What runs is in slot A.
    fn slots(a: (&str, u8), b: Option<(&str, u8)>) -> Slots {
        let (a, b) = (slot(Side::A, Some(a)), slot(Side::B, b));
        Slots { a, b, running: Some(Side::A), strays: vec![], esp_free: 0, esp_cluster: 4096 }
    }

    fn tried(version: &str, root: u8) -> Record {
        let attempt = Attempt { version: version.to_owned(), root: hex(&[root; 32]), store_reached: true };
        Record { attempt: Some(attempt), refused: vec![] }
    }

    #[test]
    fn a_version_that_did_not_hold_is_remembered_with_its_reason() {
        let mut record = tried("2", 2);
        let back = slots(("node_1.efi", 1), Some(("node_2+0-3.efi", 2)));
        assert!(record.settle(&back, Some("no store")));
        assert_eq!(record.refusal("2").map(|r| r.reason.as_str()), Some("no store"));
        assert_eq!((record.attempt.clone(), record.settle(&back, None)), (None, false), "told once");
        let mut silent = tried("2", 2);
        assert!(silent.settle(&back, None));
        assert!(silent.refused[0].reason.contains("left no word"));
    }

    #[test]
    fn nothing_is_settled_while_it_is_armed_or_on_trial() {
        for now in [
            slots(("node_1.efi", 1), Some(("node_2+3-0.efi", 2))),
            slots(("node_2+2-1.efi", 2), Some(("node_1.efi", 1))),
            slots(("node_2+0-3.efi", 2), Some(("node_1.efi", 1))),
        ] {
            let mut record = tried("2", 2);
            assert!(!record.settle(&now, Some("old news")));
            assert_eq!(record, tried("2", 2));
        }
    }

    #[test]
    fn a_version_that_holds_makes_older_troubles_forgotten() {
        let mut record = tried("3", 3);
        record.refused.push(Refused { version: "2".to_owned(), reason: "panic".to_owned() });
        assert!(record.settle(&slots(("node_3+5-0.efi", 3), Some(("node_1.efi", 1))), None));
        assert_eq!(record, Record::default());
    }

    #[test]
    fn a_record_of_a_later_version_is_read_as_far_as_it_is_known() {
        let later = r#"{"attempt":{"version":"9","root":"00","store_reached":false,"mood":1},"news":[]}"#;
        let record: Record = serde_json::from_str(later).expect("reads");
        assert_eq!(record.attempt.map(|a| (a.version, a.store_reached)), Some(("9".to_owned(), false)));
    }
}
