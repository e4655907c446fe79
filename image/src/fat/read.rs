//! Reading a FAT16 or FAT32 volume: enough to list it, check it and take files out. Any bytes may be on it.

use std::io::{Read, Seek, SeekFrom};

use super::names::{self, LONG_NAME};
use super::{FatError, geometry::Kind};

/// Folders deeper than this are damage.
const DEPTH_MAX: usize = 32;
/// More entries than this in one volume are damage, or not ours.
const FILES_MAX: usize = 65_536;

/// A file found on a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Path with `/`, in the long name's spelling.
    pub path: String,
    /// Length in bytes.
    pub len: u32,
    cluster: u32,
}

/// A volume being read.
pub struct FatReader<R> {
    input: R,
    base: u64,
    kind: Kind,
    cluster_bytes: u64,
    clusters: u32,
    fat: Vec<u8>,
    root_at: u64,
    root_bytes: u64,
    root_cluster: u32,
    data_at: u64,
    label: String,
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
        let half = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let word = |at: usize| u32::from_le_bytes([boot[at], boot[at + 1], boot[at + 2], boot[at + 3]]);
        let (sector, per_cluster) = (half(11), u64::from(boot[13]));
        if boot[510..] != [0x55, 0xaa] || sector != 512 || !per_cluster.is_power_of_two() || boot[16] == 0 {
            return Err(damaged("the boot sector is not one of FAT with sectors of 512 bytes"));
        }
        let kind = if half(22) == 0 { Kind::Fat32 } else { Kind::Fat16 };
        let fat_sectors = if kind == Kind::Fat32 { u64::from(word(36)) } else { half(22) };
        let sectors = if half(19) == 0 { u64::from(word(32)) } else { half(19) };
        let root_at = (half(14) + u64::from(boot[16]) * fat_sectors) * sector;
        let root_bytes = half(17) * 32;
        let data_at = root_at + root_bytes;
        let data =
            (sectors * sector).checked_sub(data_at).ok_or_else(|| damaged("it ends before its first cluster"))?;
        let clusters = u32::try_from(data / sector / per_cluster).unwrap_or(u32::MAX).saturating_add(2);
        let entry = if kind == Kind::Fat32 { 4 } else { 2 };
        if fat_sectors * sector < u64::from(clusters) * entry {
            return Err(damaged("its table is shorter than its clusters need"));
        }
        let mut fat = Vec::new();
        input.seek(SeekFrom::Start(base + half(14) * sector)).map_err(read_error("the file table"))?;
        let wanted = u64::from(clusters) * entry;
        input.by_ref().take(wanted).read_to_end(&mut fat).map_err(read_error("the file table"))?;
        if (fat.len() as u64) < wanted {
            return Err(damaged("its table is cut off"));
        }
        let label = &boot[if kind == Kind::Fat32 { 71..82 } else { 43..54 }];
        let label = String::from_utf8_lossy(label).trim_end().to_owned();
        let root_cluster = if kind == Kind::Fat32 { word(44) } else { 0 };
        let cluster_bytes = sector * per_cluster;
        Ok(Self { input, base, kind, cluster_bytes, clusters, fat, root_at, root_bytes, root_cluster, data_at, label })
    }

    /// The volume's label.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// All files, by path.
    ///
    /// # Errors
    /// When a folder is damaged or cut off.
    pub fn files(&mut self) -> Result<Vec<FileInfo>, FatError> {
        let mut files = Vec::new();
        let root = if self.kind == Kind::Fat32 { self.chain(self.root_cluster, None)? } else { self.fixed_root()? };
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
        let mut bytes = vec![0; usize::try_from(self.root_bytes).unwrap_or_default()];
        self.input.seek(SeekFrom::Start(self.base + self.root_at)).map_err(read_error("the root folder"))?;
        self.input.read_exact(&mut bytes).map_err(read_error("the root folder"))?;
        Ok(bytes)
    }

    /// Follows a chain to its end, or until `wanted` bytes are there.
    fn chain(&mut self, first: u32, wanted: Option<u64>) -> Result<Vec<u8>, FatError> {
        let mut out = Vec::new();
        let mut cluster = first;
        for _ in 0..self.clusters {
            if !(2..self.clusters).contains(&cluster) {
                return Err(damaged(&format!("a chain leads to cluster {cluster} of {}", self.clusters)));
            }
            let at = self.base + self.data_at + (u64::from(cluster) - 2) * self.cluster_bytes;
            self.input.seek(SeekFrom::Start(at)).map_err(read_error("a cluster"))?;
            let before = out.len() as u64;
            self.input.by_ref().take(self.cluster_bytes).read_to_end(&mut out).map_err(read_error("a cluster"))?;
            if (out.len() as u64) < before + self.cluster_bytes {
                return Err(damaged(&format!("it is cut off in cluster {cluster}")));
            }
            cluster = self.next(cluster);
            let end = if self.kind == Kind::Fat32 { 0x0fff_fff8 } else { 0xfff8 };
            if cluster >= end || wanted.is_some_and(|wanted| out.len() as u64 >= wanted) {
                return Ok(out);
            }
        }
        Err(damaged("a chain of clusters is a circle"))
    }

    fn next(&self, cluster: u32) -> u32 {
        let at = cluster as usize;
        match self.kind {
            Kind::Fat16 => u32::from(u16::from_le_bytes([self.fat[at * 2], self.fat[at * 2 + 1]])),
            Kind::Fat32 => {
                let at = at * 4;
                u32::from_le_bytes([self.fat[at], self.fat[at + 1], self.fat[at + 2], self.fat[at + 3]]) & 0x0fff_ffff
            }
        }
    }

    fn folder(&mut self, path: &str, bytes: &[u8], depth: usize, files: &mut Vec<FileInfo>) -> Result<(), FatError> {
        if depth > DEPTH_MAX || files.len() > FILES_MAX {
            return Err(damaged("its folders have no end"));
        }
        let mut long: Vec<u16> = Vec::new();
        for slot in bytes.chunks_exact(32) {
            match (slot[0], slot[11]) {
                (0, _) => break,
                (0xe5, _) => long.clear(),
                (order, LONG_NAME) => {
                    if order & 0x40 != 0 {
                        long.clear();
                    }
                    long.splice(0..0, names::long_units(slot));
                }
                (b'.', _) => {}
                (_, attributes) if attributes & 0x08 != 0 => long.clear(),
                (_, attributes) => {
                    let name = if long.is_empty() { short_name(slot) } else { String::from_utf16_lossy(&long) };
                    long.clear();
                    let path = if path.is_empty() { name } else { format!("{path}/{name}") };
                    let cluster = u32::from(u16::from_le_bytes([slot[20], slot[21]])) << 16
                        | u32::from(u16::from_le_bytes([slot[26], slot[27]]));
                    let len = u32::from_le_bytes([slot[28], slot[29], slot[30], slot[31]]);
                    if attributes & 0x10 == 0 {
                        files.push(FileInfo { path, len, cluster });
                    } else {
                        let below = self.chain(cluster, None)?;
                        self.folder(&path, &below, depth + 1, files)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn short_name(slot: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let (base, extension) = (text(&slot[..8]), text(&slot[8..11]));
    if extension.is_empty() { base } else { format!("{base}.{extension}") }
}

fn damaged(what: &str) -> FatError {
    FatError::Damaged { what: what.to_owned() }
}

fn read_error(what: &str) -> impl FnOnce(std::io::Error) -> FatError {
    let what = what.to_owned();
    move |source| FatError::Read { what, source }
}
