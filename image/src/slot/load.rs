//! What is on a disk: two slots, the boot entries that name their roots, and which of them runs.

use std::cmp::Ordering;
use std::fmt;

use uuid::Uuid;

use super::identity::Identity;
use super::{EntryName, Mark, SlotError, Tries, entry, version};
use crate::device::{Device, Part, Stream};
use crate::fat::Editor;
use crate::gpt::{self, Partition, Table};

/// Suffix of an entry that is being written: systemd-boot does not look at it.
pub(super) const UNFINISHED: &str = ".new";

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The one that `roost build` fills.
    A,
    /// The one that is empty at first.
    B,
}

/// How a slot fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No entry boots it.
    Empty,
    /// Blessed, and not counted.
    Good,
    /// Blessed, and counted so that a later breakage ends on the other slot.
    Armed(Tries),
    /// New: not blessed yet.
    Trial(Tries),
    /// No tries left.
    Failed,
}

/// A boot entry of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Name of its file, in its own spelling.
    pub file: String,
    /// What the name says.
    pub name: EntryName,
    /// What the UKI says.
    pub identity: Identity,
    /// Bytes of the UKI.
    pub len: u64,
}

/// A slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Which.
    pub side: Side,
    /// Its partition.
    pub partition: Partition,
    /// Entries whose root hash its PARTUUID begins, as systemd-boot would take them. More than one only after
    /// something went wrong.
    pub entries: Vec<Held>,
}

/// A file in the folder of entries that boots none of the slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Its name.
    pub file: String,
    /// Bytes of it.
    pub len: u64,
    /// Whether its name is one that we give, so that an install removes it.
    pub ours: bool,
    /// Why it boots nothing.
    pub reason: String,
}

/// Both slots, as they are on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Slot A.
    pub a: Slot,
    /// Slot B.
    pub b: Slot,
    /// Whose root runs; `None` when the node was not booted from this disk.
    pub running: Option<Side>,
    /// Files that boot none of them.
    pub strays: Vec<Stray>,
    /// Bytes free on the ESP, once it is mended.
    pub esp_free: u64,
    /// Bytes of a cluster of the ESP.
    pub esp_cluster: u64,
}

/// A file in the folder of entries.
#[derive(Clone, Debug)]
pub(super) struct EspFile {
    pub file: String,
    pub len: u64,
    pub identity: Result<Identity, String>,
}

impl Side {
    /// Name of its partition.
    #[must_use]
    pub fn partition(self) -> &'static str {
        match self {
            Self::A => gpt::ROOT_A,
            Self::B => gpt::ROOT_B,
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// PARTUUID of a slot that holds nothing.
    pub(super) fn empty_guid(self) -> Uuid {
        gpt::derived_guid(b"roost empty slot", self.partition())
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("empty"),
            Self::Good => f.write_str("good"),
            Self::Armed(tries) => write!(f, "good, {} boots until it would be given up", tries.left),
            Self::Trial(tries) => write!(f, "on trial, {} boots left", tries.left),
            Self::Failed => f.write_str("failed"),
        }
    }
}

impl Held {
    /// systemd-boot's order: [`Ordering::Less`] boots first.
    #[must_use]
    pub fn boots_before(&self, other: &Self) -> Ordering {
        let (a, b) = (&self.identity, &other.identity);
        let failed = |held: &Self| matches!(held.name.mark(), Mark::Failed { .. });
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let by_key = match (&a.sort_key, &b.sort_key) {
            (Some(x), Some(y)) => x.cmp(y).then_with(|| version::compare(&text(&b.version), &text(&a.version))),
            (x, y) => x.is_none().cmp(&y.is_none()),
        };
        failed(self).cmp(&failed(other)).then(by_key).then_with(|| self.name.boots_before(&other.name))
    }

    /// Path on the ESP.
    #[must_use]
    pub fn path(&self) -> String {
        path(&self.file)
    }

    /// Whether it was blessed once. The name of the last boot that a blessed version has says that it failed: the
    /// boot loader counts before it boots.
    #[must_use]
    pub fn was_blessed(&self) -> bool {
        match self.name.mark() {
            Mark::Good | Mark::Armed(_) => true,
            Mark::Failed { done } => done == entry::ARMED_TRIES,
            Mark::Trial(_) => false,
        }
    }
}

impl Slot {
    /// The entry that boots it.
    #[must_use]
    pub fn held(&self) -> Option<&Held> {
        self.entries.first()
    }

    /// How it fares.
    #[must_use]
    pub fn state(&self) -> State {
        match self.held().map(|held| held.name.mark()) {
            None => State::Empty,
            Some(Mark::Good) => State::Good,
            Some(Mark::Armed(tries)) => State::Armed(tries),
            Some(Mark::Trial(tries)) => State::Trial(tries),
            Some(Mark::Failed { .. }) => State::Failed,
        }
    }

    /// Whether its version was blessed, and did not fail since.
    #[must_use]
    pub fn is_blessed(&self) -> bool {
        matches!(self.state(), State::Good | State::Armed(_))
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.held().map(|held| held.name.version())
    }
}

impl Slots {
    /// Reads a disk. `booted` is the root hash of what runs, from `roost.verity=`.
    ///
    /// # Errors
    /// When the disk has not our partitions, or its ESP is damaged.
    pub fn read(disk: &mut impl Device, booted: Option<&[u8; 32]>) -> Result<Self, SlotError> {
        let table = Table::read(&mut Stream::new(&mut *disk))?;
        let esp = table.find(gpt::ESP)?;
        let editor = Editor::open(Part::new(disk, esp.start, esp.len)).map_err(SlotError::Esp)?;
        let files = editor.list(entry::FOLDER).map_err(SlotError::Esp)?.into_iter().map(|file| {
            let identity = editor.file(&file.path).map_err(|error| error.to_string());
            EspFile {
                file: file.path.rsplit('/').next().unwrap_or_default().to_owned(),
                len: u64::from(file.len),
                identity: identity.and_then(|uki| Identity::read(uki).map_err(|error| error.to_string())),
            }
        });
        let files = files.collect();
        let free = editor.free_bytes().and_then(|free| Ok(free + editor.lost_bytes()?));
        let room = (free.map_err(SlotError::Esp)?, editor.footprint(1));
        Ok(Self::of([table.find(gpt::ROOT_A)?, table.find(gpt::ROOT_B)?], files, room, booted))
    }

    /// The same from what was read.
    pub(super) fn of(
        [a, b]: [Partition; 2],
        files: Vec<EspFile>,
        (esp_free, esp_cluster): (u64, u64),
        booted: Option<&[u8; 32]>,
    ) -> Self {
        let slot = |side, partition| Slot { side, partition, entries: Vec::new() };
        let mut slots =
            Self { a: slot(Side::A, a), b: slot(Side::B, b), running: None, strays: Vec::new(), esp_free, esp_cluster };
        slots.running = booted.and_then(|root| {
            let both = [&slots.a, &slots.b].into_iter();
            both.filter(|slot| root.starts_with(slot.partition.guid.as_bytes())).map(|slot| slot.side).next()
        });
        files.into_iter().for_each(|file| slots.sort_in(file));
        for slot in [&mut slots.a, &mut slots.b] {
            slot.entries.sort_by(Held::boots_before);
        }
        slots
    }

    fn sort_in(&mut self, found: EspFile) {
        let EspFile { file, len, identity } = found;
        let name = EntryName::parse(&file);
        let finished = file.strip_suffix(UNFINISHED);
        let ours = name.is_some() || finished.is_some_and(|stem| EntryName::parse(stem).is_some());
        let reason = match (name, identity) {
            (None, _) => "its name is not one of a boot entry".to_owned(),
            (Some(_), Err(reason)) => reason,
            (Some(name), Ok(identity)) => {
                let guid = identity.verity.partition_uuid();
                let slot = [&mut self.a, &mut self.b].into_iter().find(|slot| slot.partition.guid == guid);
                let Some(slot) = slot else {
                    let reason = "no partition has its root".to_owned();
                    return self.strays.push(Stray { file, len, ours, reason });
                };
                return slot.entries.push(Held { file, name, identity, len });
            }
        };
        self.strays.push(Stray { file, len, ours, reason });
    }

    /// One of them.
    #[must_use]
    pub fn slot(&self, side: Side) -> &Slot {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    /// The slot that runs, and the other.
    #[must_use]
    pub fn running_and_idle(&self) -> Option<(&Slot, &Slot)> {
        self.running.map(|side| (self.slot(side), self.slot(side.other())))
    }

    /// What systemd-boot would take at the next boot, if no stray comes before it.
    #[must_use]
    pub fn next_boot(&self) -> Option<(Side, &Held)> {
        let entries = [&self.a, &self.b].into_iter().flat_map(|slot| slot.entries.iter().map(|held| (slot.side, held)));
        entries.min_by(|a, b| a.1.boots_before(b.1))
    }
}

/// Path of a file in the folder of entries.
pub(super) fn path(file: &str) -> String {
    format!("{}/{file}", entry::FOLDER)
}
