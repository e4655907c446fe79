//! Which clusters the files and folders of a volume use, found by looking at all of them.

use std::collections::BTreeMap;

use super::super::read::{DEPTH_MAX, FILES_MAX};
use super::{Device, Editor, FatError, Folder, Found, Layout, Table, damaged, folder, usize_of};

/// The table, and what files and folders say of it.
pub struct Usage {
    pub table: Table,
    used: Vec<bool>,
    pub folders: Vec<FolderUse>,
    files: usize,
}

/// What [`Editor::reclaim`] has to mend in one folder.
pub struct FolderUse {
    pub folder: Folder,
    /// Second names of files that have a better one.
    pub doubles: Vec<Found>,
    /// Slots of long names without an entry.
    pub strays: Vec<usize>,
}

impl Usage {
    fn new(layout: &Layout, table: Table) -> Self {
        Self { table, used: vec![false; layout.clusters as usize], folders: Vec::new(), files: 0 }
    }

    /// Clusters that neither the table nor a file claims.
    pub fn free(&self) -> impl Iterator<Item = u32> + '_ {
        self.numbers().filter(|cluster| !self.is_used(*cluster) && self.table.get(*cluster) == 0)
    }

    /// Clusters that the table claims and no file uses.
    pub fn lost(&self) -> impl Iterator<Item = u32> + '_ {
        let lost = |cluster: &u32| self.table.get(*cluster) != 0 && !self.table.is_bad(*cluster);
        self.numbers().filter(|cluster| !self.is_used(*cluster)).filter(lost)
    }

    pub fn take(&mut self, cluster: u32) {
        self.used[cluster as usize] = true;
    }

    fn numbers(&self) -> std::ops::Range<u32> {
        2..u32::try_from(self.used.len()).unwrap_or(2)
    }

    fn is_used(&self, cluster: u32) -> bool {
        self.used[cluster as usize]
    }

    /// Marks a chain; no cluster may be in two.
    fn mark(&mut self, first: u32) -> Result<(), FatError> {
        for cluster in self.table.chain(first, usize::MAX)? {
            if std::mem::replace(&mut self.used[cluster as usize], true) {
                return Err(damaged(&format!("cluster {cluster} belongs to two files")));
            }
        }
        Ok(())
    }
}

impl<D: Device> Editor<D> {
    /// Looks at every folder.
    pub(super) fn usage(&self) -> Result<Usage, FatError> {
        let mut usage = Usage::new(&self.layout, self.table()?);
        if self.layout.root_cluster != 0 {
            usage.mark(self.layout.root_cluster)?;
        }
        let root = self.root(&usage.table)?;
        self.look_into(root, 0, &mut usage)?;
        Ok(usage)
    }

    fn look_into(&self, folder: Folder, depth: usize, usage: &mut Usage) -> Result<(), FatError> {
        let mut found = folder::entries(&folder.bytes);
        usage.files += found.len();
        if depth > DEPTH_MAX || usage.files > FILES_MAX {
            return Err(damaged("its folders have no end"));
        }
        let doubles = take_doubles(&mut found);
        for entry in &found {
            self.check_length(&usage.table, entry)?;
            // An empty file has no cluster.
            if entry.cluster != 0 || entry.is_folder {
                usage.mark(entry.cluster)?;
            }
        }
        let strays = folder::strays(&folder.bytes);
        usage.folders.push(FolderUse { folder, doubles, strays });
        for entry in found.iter().filter(|entry| entry.is_folder) {
            let below = self.folder_at(&usage.table, entry.cluster)?;
            self.look_into(below, depth + 1, usage)?;
        }
        Ok(())
    }

    fn check_length(&self, table: &Table, entry: &Found) -> Result<(), FatError> {
        let wanted = usize_of(u64::from(entry.len).div_ceil(self.layout.cluster_bytes));
        if entry.is_folder || wanted == 0 || table.chain(entry.cluster, wanted)?.len() == wanted {
            return Ok(());
        }
        Err(damaged(&format!("{} is shorter than its entry says", entry.name)))
    }
}

/// Takes out all names but one of files that have several: what a cut between the two steps of a renaming leaves.
/// The name that sorts last stays: of a boot entry's, the one without a counter.
fn take_doubles(found: &mut Vec<Found>) -> Vec<Found> {
    let place = |entry: &Found| (!entry.is_folder && entry.cluster != 0).then_some((entry.cluster, entry.len));
    let mut best: BTreeMap<_, String> = BTreeMap::new();
    for entry in found.iter() {
        let Some(place) = place(entry) else { continue };
        let name = best.entry(place).or_default();
        if entry.name > *name {
            name.clone_from(&entry.name);
        }
    }
    let is_worse =
        |entry: &mut Found| place(entry).and_then(|place| best.get(&place)).is_some_and(|best| *best != entry.name);
    found.extract_if(.., is_worse).collect()
}
