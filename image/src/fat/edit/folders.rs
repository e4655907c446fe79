//! Folders of a volume, found and read.

use super::super::geometry::Kind;
use super::super::read::read_error;
use super::{Device, Editor, FatError, Found, SECTOR, Table, damaged, folder, split, usize_of};

/// A folder of more bytes is damage: FAT allows 65,536 slots.
pub const FOLDER_MAX: usize = 2 << 20;
/// A folder in memory, and where its sectors are.
pub struct Folder {
    pub bytes: Vec<u8>,
    pub sectors: Vec<u64>,
    /// Its last cluster; `None` for FAT16's root, which cannot grow.
    pub last: Option<u32>,
}

impl<D: Device> Editor<D> {
    pub(super) fn root(&self, table: &Table) -> Result<Folder, FatError> {
        if self.layout.kind == Kind::Fat32 {
            return self.folder_at(table, self.layout.root_cluster);
        }
        let sectors = self.layout.root_bytes / SECTOR as u64;
        let sectors: Vec<_> = (0..sectors).map(|index| self.layout.root_at + index * SECTOR as u64).collect();
        let mut bytes = vec![0; sectors.len() * SECTOR];
        self.device.read_at(self.layout.root_at, &mut bytes).map_err(read_error("the root folder"))?;
        Ok(Folder { bytes, sectors, last: None })
    }

    pub(super) fn folder_at(&self, table: &Table, first: u32) -> Result<Folder, FatError> {
        let most = FOLDER_MAX / usize_of(self.layout.cluster_bytes) + 1;
        let chain = table.chain(first, most)?;
        if chain.len() >= most {
            return Err(damaged("a folder has no end"));
        }
        let mut folder = Folder { bytes: Vec::new(), sectors: Vec::new(), last: chain.last().copied() };
        for cluster in chain {
            let at = self.layout.cluster_at(cluster);
            let mut bytes = vec![0; usize_of(self.layout.cluster_bytes)];
            self.device.read_at(at, &mut bytes).map_err(read_error("a folder"))?;
            folder.sectors.extend((0..bytes.len() / SECTOR).map(|index| at + (index * SECTOR) as u64));
            folder.bytes.append(&mut bytes);
        }
        Ok(folder)
    }

    pub(super) fn folder(&self, table: &Table, path: &str) -> Result<Option<Folder>, FatError> {
        let mut folder = self.root(table)?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let mut below = folder::entries(&folder.bytes).into_iter().filter(|found| found.is_folder);
            let Some(found) = below.find(|found| found.is_called(part)) else { return Ok(None) };
            folder = self.folder_at(table, found.cluster)?;
        }
        Ok(Some(folder))
    }

    /// A file and the folder it is in.
    pub(super) fn find(&self, table: &Table, path: &str) -> Result<(Folder, Found), FatError> {
        let missing = || FatError::Missing { path: path.to_owned() };
        let (folder, name) = split(path);
        let folder = self.folder(table, folder)?.ok_or_else(missing)?;
        let mut files = folder::entries(&folder.bytes);
        files.retain(|found| !found.is_folder && found.is_called(name));
        // What is really called so comes before what only its short name calls so.
        files.sort_by_key(|found| !found.name.eq_ignore_ascii_case(name));
        let found = files.into_iter().next().ok_or_else(missing)?;
        Ok((folder, found))
    }
}
