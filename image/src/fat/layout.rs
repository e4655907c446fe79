//! Where things are on a volume that somebody else may have made, and its file allocation table.

use std::collections::BTreeSet;

use super::FatError;
use super::geometry::Kind;

pub const SECTOR: usize = 512;
/// More clusters than this are damage, or no volume of ours: its table alone would have 64 MiB.
const CLUSTERS_MAX: u64 = 1 << 24;

/// What the boot sector says.
#[derive(Clone, Debug)]
pub struct Layout {
    pub kind: Kind,
    pub cluster_bytes: u64,
    /// First number that is no cluster any more.
    pub clusters: u32,
    pub fat_at: u64,
    /// Bytes of one table, padding included.
    pub fat_bytes: u64,
    pub fats: u64,
    pub root_at: u64,
    pub root_bytes: u64,
    pub root_cluster: u32,
    pub data_at: u64,
    /// Bytes of the whole volume.
    pub bytes: u64,
    /// Where FAT32 keeps the count of free clusters.
    pub info_at: Option<u64>,
    /// Every table has the same contents.
    pub mirrored: bool,
    pub label: String,
}

impl Layout {
    pub fn parse(boot: &[u8; SECTOR]) -> Result<Self, FatError> {
        let half = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let word = |at: usize| u32::from_le_bytes([boot[at], boot[at + 1], boot[at + 2], boot[at + 3]]);
        let (sector, per_cluster, fats) = (half(11), u64::from(boot[13]), u64::from(boot[16]));
        if boot[510..] != [0x55, 0xaa] || sector != SECTOR as u64 || !per_cluster.is_power_of_two() || fats == 0 {
            return Err(damaged("the boot sector is not one of FAT with sectors of 512 bytes"));
        }
        let kind = if half(22) == 0 { Kind::Fat32 } else { Kind::Fat16 };
        let fat32 = kind == Kind::Fat32;
        let fat_bytes = if fat32 { u64::from(word(36)) } else { half(22) } * sector;
        let bytes = if half(19) == 0 { u64::from(word(32)) } else { half(19) } * sector;
        let fat_at = half(14) * sector;
        let root_at = fat_at + fats * fat_bytes;
        let root_bytes = half(17) * 32;
        let data_at = root_at + root_bytes;
        let data = bytes.checked_sub(data_at).ok_or_else(|| damaged("it ends before its first cluster"))?;
        let count = data / sector / per_cluster;
        if count > CLUSTERS_MAX || !fat32 && !(4085..65525).contains(&count) {
            return Err(damaged(&format!("it would have {count} clusters, which FAT16 and FAT32 have not")));
        }
        let clusters = u32::try_from(count).unwrap_or(u32::MAX).saturating_add(2);
        if fat_bytes < u64::from(clusters) * entry_bytes(kind) as u64 {
            return Err(damaged("its table is shorter than its clusters need"));
        }
        let label = &boot[if fat32 { 71..82 } else { 43..54 }];
        Ok(Self {
            kind,
            cluster_bytes: sector * per_cluster,
            clusters,
            fat_at,
            fat_bytes,
            fats,
            root_at,
            root_bytes,
            root_cluster: if fat32 { word(44) } else { 0 },
            data_at,
            bytes,
            info_at: (fat32 && (1..half(14)).contains(&half(48))).then_some(half(48) * sector),
            mirrored: !fat32 || boot[40] & 0x80 == 0,
            label: String::from_utf8_lossy(label).trim_end().to_owned(),
        })
    }

    /// Bytes of a table that say something, in whole sectors.
    pub fn table_bytes(&self) -> usize {
        (self.clusters as usize * entry_bytes(self.kind)).next_multiple_of(SECTOR)
    }

    pub fn cluster_at(&self, cluster: u32) -> u64 {
        self.data_at + u64::from(cluster).saturating_sub(2) * self.cluster_bytes
    }
}

fn entry_bytes(kind: Kind) -> usize {
    if kind == Kind::Fat32 { 4 } else { 2 }
}

/// The allocation table in memory, and which of its sectors were changed.
pub struct Table {
    kind: Kind,
    clusters: u32,
    pub bytes: Vec<u8>,
    pub changed: BTreeSet<usize>,
}

impl Table {
    /// `bytes` are at least as many as [`Layout::table_bytes`].
    pub fn new(layout: &Layout, bytes: Vec<u8>) -> Self {
        Self { kind: layout.kind, clusters: layout.clusters, bytes, changed: BTreeSet::new() }
    }

    pub fn get(&self, cluster: u32) -> u32 {
        let at = cluster as usize * entry_bytes(self.kind);
        let mut word = [0; 4];
        word[..entry_bytes(self.kind)].copy_from_slice(&self.bytes[at..at + entry_bytes(self.kind)]);
        u32::from_le_bytes(word) & 0x0fff_ffff
    }

    pub fn set(&mut self, cluster: u32, value: u32) {
        let at = cluster as usize * entry_bytes(self.kind);
        let place = &mut self.bytes[at..at + entry_bytes(self.kind)];
        let mut word = value.to_le_bytes();
        // FAT32's upper four bits belong to nobody and stay.
        if let Some(top) = place.get(3) {
            word[3] = top & 0xf0 | word[3] & 0x0f;
        }
        let word = &word[..place.len()];
        if place != word {
            place.copy_from_slice(word);
            self.changed.insert(at / SECTOR);
        }
    }

    /// The value that ends a chain.
    pub fn end(&self) -> u32 {
        if self.kind == Kind::Fat32 { 0x0fff_ffff } else { 0xffff }
    }

    fn is_end(&self, value: u32) -> bool {
        value >= self.end() - 7
    }

    pub fn is_bad(&self, cluster: u32) -> bool {
        self.get(cluster) == self.end() - 8
    }

    /// Says in the table that the volume was left in order.
    pub fn set_clean(&mut self) {
        let clean = if self.kind == Kind::Fat32 { 1 << 27 } else { 1 << 15 };
        self.set(1, self.get(1) | clean);
    }

    pub fn free(&self) -> u32 {
        (2..self.clusters).map(|cluster| u32::from(self.get(cluster) == 0)).sum()
    }

    /// The clusters of a chain, at most `limit` of them.
    pub fn chain(&self, first: u32, limit: usize) -> Result<Vec<u32>, FatError> {
        let mut out = Vec::new();
        let mut cluster = first;
        loop {
            if !(2..self.clusters).contains(&cluster) {
                return Err(damaged(&format!("a chain leads to cluster {cluster} of {}", self.clusters)));
            }
            if out.len() >= self.clusters as usize {
                return Err(damaged("a chain of clusters is a circle"));
            }
            out.push(cluster);
            let next = self.get(cluster);
            if self.is_end(next) || out.len() >= limit {
                return Ok(out);
            }
            cluster = next;
        }
    }
}

pub fn damaged(what: &str) -> FatError {
    FatError::Damaged { what: what.to_owned() }
}
