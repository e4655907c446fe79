//! Doing what was planned, on a disk or on an image of one.

use std::io::{self, Read};

use uuid::Uuid;

use super::error::SlotError;
use super::identity::Identity;
use super::load::{Side, path};
use super::plan::{New, Plan, Step};
use crate::device::{Device, Part, Stream};
use crate::fat::{Editor, FatError};
use crate::gpt::{self, Partition, Table};
use crate::verity::{self, Verity, hex};

/// How much of a root is copied at a time.
const CHUNK: usize = 1 << 20;

/// How far a plan is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The step.
    pub step: &'a Step,
    /// Its number, from 1.
    pub number: usize,
    /// How many there are.
    pub of: usize,
    /// Bytes done of it; 0 where it has none.
    pub bytes: u64,
}

/// What an install writes; [`apply_marks`] is for plans that write nothing.
pub struct Sources<'a> {
    /// Root and tree.
    pub root: &'a mut dyn Read,
    /// The UKI.
    pub uki: &'a mut dyn Read,
}

/// Does all steps of a plan. The ESP must not be mounted, and the slot that does not run not be in use.
///
/// # Errors
/// At the first step that fails. A node then boots what it would have booted before, or what was good before.
pub fn apply(
    plan: &Plan,
    disk: &mut impl Device,
    sources: Sources<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), SlotError> {
    let mut work = Work { disk, sources };
    for (index, step) in plan.steps.iter().enumerate() {
        let mut tell = |bytes| progress(Progress { step, number: index + 1, of: plan.steps.len(), bytes });
        tell(0);
        work.step(step, &mut tell)?;
    }
    Ok(())
}

/// [`apply`] for plans that only rename: blessing, rolling back, trying again, forgetting.
///
/// # Errors
/// As [`apply`].
pub fn apply_marks(plan: &Plan, disk: &mut impl Device) -> Result<(), SlotError> {
    apply(plan, disk, Sources { root: &mut io::empty(), uki: &mut io::empty() }, &mut |_| {})
}

struct Work<'d, 's, D> {
    disk: &'d mut D,
    sources: Sources<'s>,
}

impl<D: Device> Work<'_, '_, D> {
    fn step(&mut self, step: &Step, tell: &mut dyn FnMut(u64)) -> Result<(), SlotError> {
        match step {
            Step::MendEsp => self.esp()?.reclaim().map(drop).map_err(SlotError::Esp),
            Step::Rename { from, to } => self.esp()?.rename(&path(from), to).map_err(SlotError::Esp),
            Step::Remove { file } => match self.esp()?.remove(&path(file)) {
                Ok(()) | Err(FatError::Missing { .. }) => Ok(()),
                Err(error) => Err(SlotError::Esp(error)),
            },
            Step::Empty { side } => self.name(*side, side.empty_guid()),
            Step::WriteRoot { side, bytes } => self.write_root(*side, *bytes, tell),
            Step::CheckRoot { side, verity } => self.check_root(*side, verity),
            Step::Name { side, guid } => self.name(*side, *guid),
            Step::WriteEntry { file, bytes } => {
                let (part, uki) = (partition(self.disk, gpt::ESP)?, &mut self.sources.uki);
                let mut esp = Editor::open(Part::new(&mut *self.disk, part.start, part.len)).map_err(SlotError::Esp)?;
                esp.create(&path(file), *bytes, uki).map_err(SlotError::Esp)
            }
            Step::CheckEntry { file, new } => self.check_entry(file, new),
        }
    }

    fn esp(&mut self) -> Result<Editor<Part<&mut D>>, SlotError> {
        let part = partition(self.disk, gpt::ESP)?;
        Editor::open(Part::new(&mut *self.disk, part.start, part.len)).map_err(SlotError::Esp)
    }

    fn name(&mut self, side: Side, guid: Uuid) -> Result<(), SlotError> {
        let mut disk = Stream::new(&mut *self.disk);
        let mut table = Table::read(&mut disk)?;
        if table.find(side.partition())?.guid == guid {
            return Ok(());
        }
        table.set_guid(side.partition(), guid)?;
        Ok(table.write(&mut disk, |disk| disk.device().flush())?)
    }

    fn write_root(&mut self, side: Side, bytes: u64, tell: &mut dyn FnMut(u64)) -> Result<(), SlotError> {
        let part = partition(self.disk, side.partition())?;
        let expected = side.empty_guid();
        if part.guid != expected {
            return Err(SlotError::NotEmpty { side, found: part.guid, expected });
        }
        let failed = |action| move |source| SlotError::Root { action, side, source };
        let mut slot = Part::new(&mut *self.disk, part.start, part.len);
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        while at < bytes {
            let len = usize::try_from(bytes - at).unwrap_or(CHUNK).min(CHUNK);
            self.sources.root.read_exact(&mut buffer[..len]).map_err(failed("get"))?;
            slot.write_at(at, &buffer[..len]).map_err(failed("write"))?;
            at += len as u64;
            tell(at);
        }
        slot.flush().map_err(failed("write"))
    }

    fn check_root(&mut self, side: Side, verity: &Verity) -> Result<(), SlotError> {
        let part = partition(self.disk, side.partition())?;
        let mut slot = Part::new(&mut *self.disk, part.start, part.len);
        slot.forget().map_err(|source| SlotError::Root { action: "read back", side, source })?;
        verity::verify(&mut Stream::new(slot), verity).map_err(|source| SlotError::RootAltered { side, source })
    }

    fn check_entry(&mut self, file: &str, new: &New) -> Result<(), SlotError> {
        let failed = |source| SlotError::Entry { file: file.to_owned(), source };
        self.disk.forget().map_err(failed)?;
        let esp = self.esp()?;
        let mut uki = esp.file(&path(file)).map_err(SlotError::Esp)?;
        let (found, _) = crate::digest(&mut uki).map_err(failed)?;
        if found != new.uki_sha256 {
            let (found, expected) = (hex(&found), hex(&new.uki_sha256));
            return Err(SlotError::EntryAltered { file: file.to_owned(), found, expected });
        }
        let identity = Identity::read(uki).map_err(|source| SlotError::Identity { file: file.to_owned(), source })?;
        let text = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
        let facts = [
            ("roost.verity", identity.verity.to_string(), new.verity.to_string()),
            ("roost.cluster", text(identity.cluster), text(new.cluster.clone())),
            ("image name", text(identity.sort_key), new.name.clone()),
            ("version", text(identity.version), new.version.clone()),
            ("architecture", identity.architecture, new.architecture.clone()),
        ];
        match facts.into_iter().find(|(_, found, expected)| found != expected) {
            Some((what, found, expected)) => {
                Err(SlotError::Mislabelled { file: file.to_owned(), what, found, expected })
            }
            None => Ok(()),
        }
    }
}

/// Read anew for each step: what is written where must not rest on what was true before.
fn partition(disk: &mut impl Device, name: &str) -> Result<Partition, SlotError> {
    Ok(Table::read(&mut Stream::new(disk))?.find(name)?)
}
