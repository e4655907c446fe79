//! Reading a FAT16 or FAT32 volume: enough to list it, check it and take files out. Any bytes may be on it.

use std::io::{Read, Seek, SeekFrom};

use super::FatError;
use super::folder::{self, Found};
use super::geometry::Kind;
use super::layout::{Layout, Table, damaged};

/// Folders deeper than this are damage.
pub(super) const DEPTH_MAX: usize = 32;
/// More entries than this in one volume are damage, or not ours.
pub(super) const FILES_MAX: usize = 65_536;

/// A file found on a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Path with `/`, in the long name's spelling.
    pub path: String,
    /// Length in bytes.
    pub len: u32,
    pub(super) cluster: u32,
}

/// A volume being read.
pub struct FatReader<R> {
    input: R,
    base: u64,
    layout: Layout,
    table: Table,
}

impl<R: Read + Seek> FatReader<R> {
    /// Opens the volume at the reader's present position.
    ///
    /// # Errors
    /// When there is none or its tables are cut off.
    pub fn new(mut input: R) -> Result<Self, FatError> {
        let base = input.stream_position().map_err(read_error("the start"))?;
        let mut boot = [0; 512];
        input.read_exact(&mut boot).map_err(read_error("the boot sector"))?;
        let layout = Layout::parse(&boot)?;
        let mut table = Vec::new();
        let wanted = layout.table_bytes();
        input.seek(SeekFrom::Start(base + layout.fat_at)).map_err(read_error("the file table"))?;
        input.by_ref().take(wanted as u64).read_to_end(&mut table).map_err(read_error("the file table"))?;
        if table.len() < wanted {
            return Err(damaged("its table is cut off"));
        }
        let table = Table::new(&layout, table);
        Ok(Self { input, base, layout, table })
    }

    /// The volume's label.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.layout.label
    }

    /// All files, by path.
    ///
    /// # Errors
    /// When a folder is damaged or cut off.
    pub fn files(&mut self) -> Result<Vec<FileInfo>, FatError> {
        let mut files = Vec::new();
        let root = match self.layout.kind {
            Kind::Fat32 => self.chain(self.layout.root_cluster, None)?,
            Kind::Fat16 => self.fixed_root()?,
        };
        self.folder("", &root, 0, &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// The bytes of a file that [`FatReader::files`] gave.
    ///
    /// # Errors
    /// When its clusters are damaged or cut off.
    pub fn read(&mut self, file: &FileInfo) -> Result<Vec<u8>, FatError> {
        if file.len == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = self.chain(file.cluster, Some(u64::from(file.len)))?;
        if bytes.len() < file.len as usize {
            return Err(damaged(&format!("{} is shorter than its entry says", file.path)));
        }
        bytes.truncate(file.len as usize);
        Ok(bytes)
    }

    /// The bytes of the file at a path, whatever the case of its letters.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn read_path(&mut self, path: &str) -> Result<Vec<u8>, FatError> {
        let files = self.files()?;
        let file = files.iter().find(|file| file.path.eq_ignore_ascii_case(path));
        self.read(file.ok_or_else(|| FatError::Missing { path: path.to_owned() })?)
    }

    fn fixed_root(&mut self) -> Result<Vec<u8>, FatError> {
        let mut bytes = vec![0; usize::try_from(self.layout.root_bytes).unwrap_or_default()];
        self.input.seek(SeekFrom::Start(self.base + self.layout.root_at)).map_err(read_error("the root folder"))?;
        self.input.read_exact(&mut bytes).map_err(read_error("the root folder"))?;
        Ok(bytes)
    }

    /// The bytes of a chain to its end, or until `wanted` bytes are there.
    fn chain(&mut self, first: u32, wanted: Option<u64>) -> Result<Vec<u8>, FatError> {
        let limit = wanted.map_or(u64::MAX, |wanted| wanted.div_ceil(self.layout.cluster_bytes));
        let mut out = Vec::new();
        for cluster in self.table.chain(first, usize::try_from(limit).unwrap_or(usize::MAX))? {
            let at = self.base + self.layout.cluster_at(cluster);
            self.input.seek(SeekFrom::Start(at)).map_err(read_error("a cluster"))?;
            let before = out.len() as u64;
            self.input
                .by_ref()
                .take(self.layout.cluster_bytes)
                .read_to_end(&mut out)
                .map_err(read_error("a cluster"))?;
            if (out.len() as u64) < before + self.layout.cluster_bytes {
                return Err(damaged(&format!("it is cut off in cluster {cluster}")));
            }
        }
        Ok(out)
    }

    fn folder(&mut self, path: &str, bytes: &[u8], depth: usize, files: &mut Vec<FileInfo>) -> Result<(), FatError> {
        if depth > DEPTH_MAX || files.len() > FILES_MAX {
            return Err(damaged("its folders have no end"));
        }
        for Found { name, is_folder, cluster, len, .. } in folder::entries(bytes) {
            let path = if path.is_empty() { name } else { format!("{path}/{name}") };
            if is_folder {
                let below = self.chain(cluster, None)?;
                self.folder(&path, &below, depth + 1, files)?;
            } else {
                files.push(FileInfo { path, len, cluster });
            }
        }
        Ok(())
    }
}

pub(super) fn read_error(what: &str) -> impl FnOnce(std::io::Error) -> FatError {
    let what = what.to_owned();
    move |source| FatError::Read { what, source }
}
