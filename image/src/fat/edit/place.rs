//! Names put into a folder and taken out of it: all slots of a name lie in one sector, and appear with it.

use super::super::folder::{DELETED, SLOT, used_slots};
use super::{Device, Editor, FatError, Folder, Found, SECTOR, Table, erase_in_memory, write_error};

/// Slots in one sector.
const SLOTS: usize = SECTOR / SLOT;

/// Where a name goes.
enum Spot {
    /// From this slot on: free, or the end mark's.
    Here(usize),
    /// At the start of the sector after the end mark's, which is then filled up.
    Next(usize),
    /// Into a new cluster.
    Grow,
}

impl Folder {
    pub fn has_room(&self, slots: usize) -> bool {
        !matches!(self.spot(slots), Spot::Grow)
    }

    fn slot_count(&self) -> usize {
        self.bytes.len() / SLOT
    }

    fn spot(&self, wanted: usize) -> Spot {
        let used = used_slots(&self.bytes);
        let free = |slot: usize| slot >= used || self.bytes[slot * SLOT] == DELETED;
        let sectors = used / SLOTS + 1;
        for sector in (0..sectors).take_while(|sector| sector * SLOTS < self.slot_count()) {
            if let Some(slot) = run_of(wanted, sector * SLOTS, free) {
                return Spot::Here(slot);
            }
        }
        let next = sectors * SLOTS;
        if next + SLOTS <= self.slot_count() { Spot::Next(next) } else { Spot::Grow }
    }

    fn put(&mut self, slot: usize, bytes: &[u8]) {
        self.bytes[slot * SLOT..slot * SLOT + bytes.len()].copy_from_slice(bytes);
    }

    /// Makes what is free behind the end mark of its last sector free without one, since more follows.
    fn fill_up(&mut self, until: usize) {
        for slot in used_slots(&self.bytes)..until {
            self.bytes[slot * SLOT] = DELETED;
        }
    }
}

/// The first of so many free slots of the sector that starts there.
fn run_of(wanted: usize, start: usize, free: impl Fn(usize) -> bool) -> Option<usize> {
    (start..=(start + SLOTS).checked_sub(wanted)?).find(|first| (*first..first + wanted).all(&free))
}

impl<D: Device> Editor<D> {
    /// Puts a name where it fits. A `spare` cluster is there when the folder has to grow.
    pub(super) fn place(
        &mut self,
        table: &mut Table,
        folder: &mut Folder,
        slots: &[u8],
        spare: Option<u32>,
    ) -> Result<(), FatError> {
        self.clear_behind_end(folder)?;
        match (folder.spot(slots.len() / SLOT), spare) {
            (Spot::Here(slot), _) => {
                folder.put(slot, slots);
                self.write_sector(folder, slot / SLOTS)?;
                self.flush()
            }
            (Spot::Next(slot), _) => {
                folder.put(slot, slots);
                self.write_sector(folder, slot / SLOTS)?;
                self.flush()?;
                // With this it shows: before, the end mark hid it.
                self.fill_up(folder, slot)
            }
            (Spot::Grow, Some(spare)) => self.grow(table, folder, slots, spare),
            (Spot::Grow, None) => {
                Err(FatError::NoSpace { path: "a folder".into(), needed: slots.len() as u64, free: 0 })
            }
        }
    }

    /// Puts a name into a new cluster of its folder, and links it once all of it is written.
    fn grow(&mut self, table: &mut Table, folder: &mut Folder, slots: &[u8], spare: u32) -> Result<(), FatError> {
        let size = super::usize_of(self.layout.cluster_bytes);
        let mut bytes = vec![0; size];
        bytes[..slots.len()].copy_from_slice(slots);
        self.device.write_at(self.layout.cluster_at(spare), &bytes).map_err(write_error("a folder"))?;
        table.set(spare, table.end());
        self.write_table(table)?;
        let until = folder.slot_count();
        self.fill_up(folder, until)?;
        if let Some(last) = folder.last {
            table.set(last, spare);
        }
        self.write_table(table)?;
        let at = self.layout.cluster_at(spare);
        folder.sectors.extend((0..size / SECTOR).map(|index| at + (index * SECTOR) as u64));
        folder.bytes.append(&mut bytes);
        folder.last = Some(spare);
        Ok(())
    }

    fn fill_up(&mut self, folder: &mut Folder, until: usize) -> Result<(), FatError> {
        let from = super::folder::used_slots(&folder.bytes);
        if from >= until {
            return Ok(());
        }
        folder.fill_up(until);
        self.write_sector(folder, from / SLOTS)?;
        self.flush()
    }

    /// Puts the new name in the old one's place by writing one sector, when it fits there.
    pub(super) fn replace(&mut self, folder: &mut Folder, old: &Found, slots: &[u8]) -> Result<bool, FatError> {
        let sector = old.slots.start / SLOTS;
        if (old.slots.end - 1) / SLOTS != sector {
            return Ok(false);
        }
        let used = used_slots(&folder.bytes);
        let free = |slot: usize| slot >= used || old.slots.contains(&slot) || folder.bytes[slot * SLOT] == DELETED;
        let Some(slot) = run_of(slots.len() / SLOT, sector * SLOTS, free) else { return Ok(false) };
        erase_in_memory(folder, old);
        folder.put(slot, slots);
        self.write_sector(folder, sector)?;
        self.flush()?;
        Ok(true)
    }

    /// Takes a name out. The slot that makes it one goes first: others may have put it into two sectors.
    pub(super) fn erase(&mut self, folder: &mut Folder, old: &Found) -> Result<(), FatError> {
        let (first, last) = (old.slots.start / SLOTS, (old.slots.end - 1) / SLOTS);
        erase_in_memory(folder, old);
        for sector in (first..=last).rev() {
            self.write_sector(folder, sector)?;
            self.flush()?;
        }
        Ok(())
    }

    /// Zeros whatever lies behind the end mark: it would show once the mark moves.
    pub(super) fn clear_behind_end(&mut self, folder: &mut Folder) -> Result<(), FatError> {
        let from = used_slots(&folder.bytes) * SLOT;
        let sectors = from / SECTOR..folder.sectors.len();
        let behind = |sector: usize| (sector * SECTOR).max(from)..(sector + 1) * SECTOR;
        let dirty: Vec<_> =
            sectors.filter(|sector| folder.bytes[behind(*sector)].iter().any(|byte| *byte != 0)).collect();
        for sector in &dirty {
            folder.bytes[behind(*sector)].fill(0);
            self.write_sector(folder, *sector)?;
        }
        if dirty.is_empty() { Ok(()) } else { self.flush() }
    }

    pub(super) fn write_sector(&mut self, folder: &Folder, sector: usize) -> Result<(), FatError> {
        let bytes = &folder.bytes[sector * SECTOR..(sector + 1) * SECTOR];
        let at = folder.sectors.get(sector).copied().unwrap_or(u64::MAX);
        self.device.write_at(at, bytes).map_err(write_error("a folder"))
    }
}
