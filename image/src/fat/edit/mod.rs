//! A FAT volume changed in place, so that a power cut at any moment leaves every file whole.
//!
//! Nothing is kept between two calls: the firmware and the kernel write to the volume as well, though never at
//! the same time. Each change is a row of steps with a flush after each, and one of them, a single sector, is the
//! one that shows:
//!
//! ```text
//! create:  contents | both tables | the folder's sector *            | count of free clusters
//! remove:             the folder's sector *            | both tables | count of free clusters
//! rename:             the folder's sector * (old name out, new name in)
//! rename, when the new name does not fit there: new name * | old name out *; between them it has both names
//! ```
//!
//! What a cut leaves behind is never more than clusters that nobody uses, tables that differ there, a wrong count
//! of free clusters, a folder with room for more, and a file with two names. [`Editor::reclaim`] mends all of it
//! (but for an empty file with two names: without clusters nobody can tell that it is one).
//! The first table is the one that counts, for us as for the firmware and the kernel.

mod file;
mod folders;
mod place;
mod reclaim;
mod usage;

use std::io::{self, Read};

use super::folder::{self, Found};
use super::layout::{Layout, SECTOR, Table, damaged};
use super::read::read_error;
use super::{FatError, FileInfo, names, write_error};
use crate::device::Device;
use folders::{FOLDER_MAX, Folder};
use usage::Usage;

pub use file::File;
pub use reclaim::Reclaimed;

/// How much of a file is copied at a time.
const CHUNK: usize = 1 << 20;

/// A volume that exists, to be changed.
#[derive(Debug)]
pub struct Editor<D> {
    device: D,
    layout: Layout,
}

impl<D: Device> Editor<D> {
    /// Opens the volume that the device holds from its first byte on.
    ///
    /// # Errors
    /// When it holds none, or one that reaches beyond it.
    pub fn open(device: D) -> Result<Self, FatError> {
        let mut boot = [0; SECTOR];
        device.read_at(0, &mut boot).map_err(read_error("the boot sector"))?;
        let layout = Layout::parse(&boot)?;
        let found = device.length().map_err(read_error("the length"))?;
        if layout.bytes > found {
            return Err(damaged(&format!("it says that it has {} bytes, and there are {found}", layout.bytes)));
        }
        if !layout.mirrored {
            return Err(damaged("its tables are not copies of each other"));
        }
        Ok(Self { device, layout })
    }

    /// The files directly in a folder; none when there is no such folder.
    ///
    /// # Errors
    /// When a folder is damaged, or cannot be read.
    pub fn list(&self, folder: &str) -> Result<Vec<FileInfo>, FatError> {
        let Some(found) = self.folder(&self.table()?, folder)? else { return Ok(Vec::new()) };
        let files = folder::entries(&found.bytes).into_iter().filter(|found| !found.is_folder);
        Ok(files.map(|file| file_info(folder, &file)).collect())
    }

    /// A file, to be read from its start or from anywhere.
    ///
    /// # Errors
    /// When there is none at this path, or its chain is damaged.
    pub fn file(&self, path: &str) -> Result<File<'_, D>, FatError> {
        let table = self.table()?;
        let (_, found) = self.find(&table, path)?;
        let count = u64::from(found.len).div_ceil(self.layout.cluster_bytes);
        let chain = if count == 0 { Vec::new() } else { table.chain(found.cluster, usize_of(count))? };
        if (chain.len() as u64) < count {
            return Err(damaged(&format!("{path} is shorter than its entry says")));
        }
        Ok(File { editor: self, chain, len: u64::from(found.len), at: 0 })
    }

    /// All bytes of a file.
    ///
    /// # Errors
    /// As [`Editor::file`], or when it cannot be read.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, FatError> {
        let mut bytes = Vec::new();
        self.file(path)?.read_to_end(&mut bytes).map_err(read_error(path))?;
        Ok(bytes)
    }

    /// Bytes that a new file may have, clusters rounded down.
    ///
    /// # Errors
    /// When the volume is damaged: what is free is then not known.
    pub fn free_bytes(&self) -> Result<u64, FatError> {
        let usage = self.usage()?;
        Ok(usage.free().count() as u64 * self.layout.cluster_bytes)
    }

    /// Bytes that [`Editor::reclaim`] would give back.
    ///
    /// # Errors
    /// As [`Editor::free_bytes`].
    pub fn lost_bytes(&self) -> Result<u64, FatError> {
        Ok(self.usage()?.lost().count() as u64 * self.layout.cluster_bytes)
    }

    /// Bytes that a file of this length takes.
    #[must_use]
    pub fn footprint(&self, len: u64) -> u64 {
        len.next_multiple_of(self.layout.cluster_bytes)
    }

    /// Makes a file of `len` bytes in a folder that exists.
    ///
    /// # Errors
    /// Before anything is written: when the name is taken or unusable (ASCII only), the folder does not exist, the
    /// volume is damaged or has no room. Later: when `contents` ends early, or the device fails; no such file then.
    pub fn create(&mut self, path: &str, len: u64, contents: &mut impl Read) -> Result<(), FatError> {
        let (folder_path, name) = split(path);
        let usable = usable_name(path, name)?;
        let size = u32::try_from(len).map_err(|_| bad_path(path, "FAT holds files below 4 GiB"))?;
        let mut usage = self.usage()?;
        let missing = || FatError::Missing { path: folder_path.to_owned() };
        let mut folder = self.folder(&usage.table, folder_path)?.ok_or_else(missing)?;
        let slots = new_slots(&folder, path, usable)?;
        let clusters = self.allot(&mut usage, len, path)?;
        let spare = self.spare(&mut usage, &folder, slots.len(), path)?;

        self.write_contents(path, &clusters, len, contents)?;
        self.flush()?;
        let end = usage.table.end();
        for (index, cluster) in clusters.iter().enumerate() {
            usage.table.set(*cluster, clusters.get(index + 1).copied().unwrap_or(end));
        }
        self.write_table(&mut usage.table)?;
        let first = clusters.first().copied().unwrap_or(0);
        let slots = with_short(slots, |short| set_place(short, first, size));
        self.place(&mut usage.table, &mut folder, &slots, spare)?;
        self.write_info(&usage.table)
    }

    /// Gives a file another name in its folder.
    ///
    /// # Errors
    /// When there is no such file, or the new name is taken or unusable, or the device fails: then it has its old
    /// name, the new one, or both until [`Editor::reclaim`].
    pub fn rename(&mut self, path: &str, name: &str) -> Result<(), FatError> {
        let (folder_path, _) = split(path);
        let target = if folder_path.is_empty() { name.to_owned() } else { format!("{folder_path}/{name}") };
        let name = usable_name(&target, name)?;
        let mut table = self.table()?;
        let (mut folder, old) = self.find(&table, path)?;
        // Its own name in other letters is not taken by itself.
        let mut others = Folder { bytes: folder.bytes.clone(), sectors: Vec::new(), last: None };
        erase_in_memory(&mut others, &old);
        let slots = new_slots(&others, &target, name)?;
        let at = (old.slots.end - 1) * folder::SLOT;
        let old_short = folder.bytes[at..at + folder::SLOT].to_vec();
        let slots = with_short(slots, |short| {
            short[11..].copy_from_slice(&old_short[11..]);
            // In capitals: the name that counts is the long one.
            short[12] = 0;
        });
        self.clear_behind_end(&mut folder)?;
        if self.replace(&mut folder, &old, &slots)? {
            return Ok(());
        }
        let mut usage = self.usage()?;
        let spare = self.spare(&mut usage, &folder, slots.len(), &target)?;
        table = usage.table;
        self.place(&mut table, &mut folder, &slots, spare)?;
        self.erase(&mut folder, &old)?;
        self.write_info(&table)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When there is no such file, or the volume is damaged, or the device fails.
    pub fn remove(&mut self, path: &str) -> Result<(), FatError> {
        // Whether another name leads to the same clusters must be known first.
        let usage = self.usage()?;
        let (mut folder, old) = self.find(&usage.table, path)?;
        self.erase(&mut folder, &old)?;
        self.reclaim().map(drop)
    }

    fn table(&self) -> Result<Table, FatError> {
        let mut bytes = vec![0; self.layout.table_bytes()];
        self.device.read_at(self.layout.fat_at, &mut bytes).map_err(read_error("the file table"))?;
        Ok(Table::new(&self.layout, bytes))
    }

    /// Writes the changed sectors into every copy of the table.
    fn write_table(&mut self, table: &mut Table) -> Result<(), FatError> {
        for copy in 0..self.layout.fats {
            for sector in &table.changed {
                let at = self.layout.fat_at + copy * self.layout.fat_bytes + (sector * SECTOR) as u64;
                let bytes = &table.bytes[sector * SECTOR..(sector + 1) * SECTOR];
                self.device.write_at(at, bytes).map_err(write_error("the file tables"))?;
            }
        }
        table.changed.clear();
        self.flush()
    }

    fn flush(&mut self) -> Result<(), FatError> {
        self.device.flush().map_err(write_error("what was written"))
    }

    /// Takes free clusters for so many bytes. Only in memory.
    fn allot(&self, usage: &mut Usage, bytes: u64, path: &str) -> Result<Vec<u32>, FatError> {
        let wanted = usize_of(bytes.div_ceil(self.layout.cluster_bytes));
        let clusters: Vec<u32> = usage.free().take(wanted).collect();
        if clusters.len() < wanted {
            let free = clusters.len() as u64 * self.layout.cluster_bytes;
            return Err(FatError::NoSpace { path: path.to_owned(), needed: self.footprint(bytes), free });
        }
        clusters.iter().for_each(|cluster| usage.take(*cluster));
        Ok(clusters)
    }

    /// A cluster for the folder, should it have to grow for so many more bytes of slots.
    fn spare(&self, usage: &mut Usage, folder: &Folder, slots: usize, path: &str) -> Result<Option<u32>, FatError> {
        if folder.has_room(slots / folder::SLOT) {
            return Ok(None);
        }
        let full = FatError::NoSpace { path: path.to_owned(), needed: slots as u64, free: 0 };
        if folder.last.is_none() || folder.bytes.len() + usize_of(self.layout.cluster_bytes) > FOLDER_MAX {
            return Err(full);
        }
        self.allot(usage, 1, path).map(|clusters| clusters.first().copied())
    }

    fn write_contents(
        &mut self,
        path: &str,
        clusters: &[u32],
        len: u64,
        contents: &mut impl Read,
    ) -> Result<(), FatError> {
        let failed = write_error(path);
        let mut write = || -> io::Result<()> {
            let mut left = usize_of(len);
            for run in clusters.chunks(CHUNK / usize_of(self.layout.cluster_bytes)) {
                let mut bytes = vec![0; run.len() * usize_of(self.layout.cluster_bytes)];
                let here = left.min(bytes.len());
                contents.read_exact(&mut bytes[..here])?;
                left -= here;
                let mut rest = &bytes[..];
                for piece in run.chunk_by(|a, b| a + 1 == *b) {
                    let (head, tail) = rest.split_at(piece.len() * usize_of(self.layout.cluster_bytes));
                    self.device.write_at(self.layout.cluster_at(piece[0]), head)?;
                    rest = tail;
                }
            }
            Ok(())
        };
        write().map_err(failed)
    }
}

/// Slots for a new name in a folder, with an empty short one at their end.
fn new_slots(folder: &Folder, path: &str, name: &str) -> Result<Vec<u8>, FatError> {
    let known = folder::entries(&folder.bytes);
    if known.iter().any(|found| found.is_called(name)) {
        return Err(FatError::Taken { path: path.to_owned() });
    }
    // A made-up short name must not be what another file is really called.
    let taken = known.iter().flat_map(|found| [Some(found.short), names::as_short(&found.name)]).flatten();
    let short = names::short_name(name, taken);
    let mut slots = names::long_slots(name, &short);
    slots.extend(names::Slot { short, attributes: 0x20, cluster: 0, len: 0 }.to_bytes());
    if slots.len() > SECTOR {
        return Err(bad_path(path, "its name is too long to appear at once"));
    }
    Ok(slots)
}

fn with_short(mut slots: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let at = slots.len() - folder::SLOT;
    change(&mut slots[at..]);
    slots
}

fn set_place(short: &mut [u8], cluster: u32, len: u32) {
    let cluster = cluster.to_le_bytes();
    short[20..22].copy_from_slice(&cluster[2..]);
    short[26..28].copy_from_slice(&cluster[..2]);
    short[28..32].copy_from_slice(&len.to_le_bytes());
}

fn erase_in_memory(folder: &mut Folder, old: &Found) {
    for slot in old.slots.clone() {
        folder.bytes[slot * folder::SLOT] = folder::DELETED;
    }
}

fn usable_name<'a>(path: &str, name: &'a str) -> Result<&'a str, FatError> {
    if name.is_empty() || !name.is_ascii() {
        return Err(bad_path(path, "its name is empty or not ASCII, where drivers do not agree on letters"));
    }
    names::checked(name).map_err(|reason| bad_path(path, reason))
}

fn bad_path(path: &str, reason: &'static str) -> FatError {
    FatError::BadPath { path: path.to_owned(), reason }
}

fn file_info(folder: &str, found: &Found) -> FileInfo {
    let folder = folder.trim_matches('/');
    let path = if folder.is_empty() { found.name.clone() } else { format!("{folder}/{}", found.name) };
    FileInfo { path, len: found.len, cluster: found.cluster }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
