//! Mending what a power cut left, ours or the firmware's.

use super::super::folder::{DELETED, SLOT};
use super::super::read::read_error;
use super::{Device, Editor, FatError, SECTOR, Table, usage::FolderUse, write_error};

/// Where FAT32 has its count of free clusters, and the one that was taken last.
const FREE_AT: usize = 488;
const LAST_AT: usize = 492;

/// What [`Editor::reclaim`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Clusters that no file used.
    pub clusters: usize,
    /// Files that had two names, and have one now.
    pub doubles: usize,
    /// Slots of long names without a file.
    pub slots: usize,
}

impl<D: Device> Editor<D> {
    /// Gives back clusters that no file uses, takes second names from files that have two, makes the tables
    /// copies of the first, counts what is free and says that the volume is in order.
    ///
    /// # Errors
    /// Before anything is written, when the volume is damaged in a way that no power cut explains: a cluster of two
    /// files, a chain that leads nowhere. Later, when the device fails.
    pub fn reclaim(&mut self) -> Result<Reclaimed, FatError> {
        let mut usage = self.usage()?;
        let mut found = Reclaimed::default();
        for folder in &mut usage.folders {
            found.doubles += folder.doubles.len();
            found.slots += folder.strays.len();
            self.mend_folder(folder)?;
        }
        let lost: Vec<u32> = usage.lost().collect();
        found.clusters = lost.len();
        lost.into_iter().for_each(|cluster| usage.table.set(cluster, 0));
        usage.table.set_clean();
        self.mirror(&mut usage.table)?;
        self.write_info(&usage.table)?;
        Ok(found)
    }

    fn mend_folder(&mut self, found: &mut FolderUse) -> Result<(), FatError> {
        for double in &found.doubles {
            self.erase(&mut found.folder, double)?;
        }
        for slot in &found.strays {
            found.folder.bytes[slot * SLOT] = DELETED;
            self.write_sector(&found.folder, slot * SLOT / SECTOR)?;
        }
        if found.strays.is_empty() { Ok(()) } else { self.flush() }
    }

    /// Writes the changes into every table, and what else differs from the first into the others.
    fn mirror(&mut self, table: &mut Table) -> Result<(), FatError> {
        for copy in 1..self.layout.fats {
            let mut other = vec![0; table.bytes.len()];
            let at = self.layout.fat_at + copy * self.layout.fat_bytes;
            self.device.read_at(at, &mut other).map_err(read_error("the second file table"))?;
            let pairs = other.chunks(SECTOR).zip(table.bytes.chunks(SECTOR));
            table.changed.extend(pairs.enumerate().filter(|(_, (a, b))| a != b).map(|(sector, _)| sector));
        }
        self.write_table(table)
    }

    /// Sets FAT32's count of free clusters, which is a hint and the last thing that any change writes.
    pub(super) fn write_info(&mut self, table: &Table) -> Result<(), FatError> {
        let Some(at) = self.layout.info_at else { return Ok(()) };
        let mut info = [0; SECTOR];
        self.device.read_at(at, &mut info).map_err(read_error("the count of free clusters"))?;
        if !info.starts_with(b"RRaA") || info[484..488] != *b"rrAa" {
            return Ok(());
        }
        let free = table.free().to_le_bytes();
        if info[FREE_AT..LAST_AT] == free {
            return Ok(());
        }
        info[FREE_AT..LAST_AT].copy_from_slice(&free);
        info[LAST_AT..LAST_AT + 4].fill(0xff);
        self.device.write_at(at, &info).map_err(write_error("the count of free clusters"))?;
        self.flush()
    }
}
