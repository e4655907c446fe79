//! Sizes and places on a FAT volume, and the sectors before its first cluster.

use super::{Chain, FatError};

pub const SECTOR: u64 = 512;
/// From here on FAT32: with clusters of 4 KiB it then has more than the 65,524 that make it FAT16.
const FAT32_FROM: u64 = 260 << 20;
const FAT16_ROOT_ENTRIES: u16 = 512;
const MEDIA: u8 = 0xf8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Fat16,
    Fat32,
}

#[derive(Clone, Debug)]
pub struct Geometry {
    pub kind: Kind,
    pub sectors: u32,
    pub sectors_per_cluster: u32,
    pub reserved: u32,
    pub fat_sectors: u32,
    pub root_entries: u16,
    pub clusters: u32,
}

impl Geometry {
    pub fn new(bytes: u64) -> Result<Self, FatError> {
        let bad = || FatError::Size { bytes };
        let sectors = u32::try_from(bytes / SECTOR).ok().filter(|_| bytes.is_multiple_of(SECTOR)).ok_or_else(bad)?;
        let kind = if bytes >= FAT32_FROM { Kind::Fat32 } else { Kind::Fat16 };
        // The largest cluster up to 4 KiB that leaves enough of them; larger ones only where the number would overflow.
        let (least, most, choices): (u32, u32, &[u32]) = match kind {
            Kind::Fat16 => (4085, 65524, &[4, 2, 1, 8, 16]),
            Kind::Fat32 => (65525, 4 << 20, &[8, 16, 32, 64, 128]),
        };
        choices
            .iter()
            .filter_map(|choice| Self::with(kind, sectors, *choice))
            .find(|geometry| (least..=most).contains(&geometry.clusters))
            .ok_or_else(bad)
    }

    fn with(kind: Kind, sectors: u32, sectors_per_cluster: u32) -> Option<Self> {
        let (reserved, root_entries, entry) = match kind {
            Kind::Fat16 => (4, FAT16_ROOT_ENTRIES, 2u64),
            Kind::Fat32 => (32, 0, 4),
        };
        let root_sectors = u32::from(root_entries) / 16;
        let rest = sectors.checked_sub(reserved + root_sectors)?;
        // A little more than needed: as if the tables themselves were clusters too.
        let fat_sectors =
            u32::try_from((u64::from(rest / sectors_per_cluster) + 2).saturating_mul(entry).div_ceil(SECTOR)).ok()?;
        let clusters = rest.checked_sub(fat_sectors.checked_mul(2)?)? / sectors_per_cluster;
        Some(Self { kind, sectors, sectors_per_cluster, reserved, fat_sectors, root_entries, clusters })
    }

    pub fn cluster_bytes(&self) -> u64 {
        u64::from(self.sectors_per_cluster) * SECTOR
    }

    fn root_start(&self) -> u64 {
        (u64::from(self.reserved) + 2 * u64::from(self.fat_sectors)) * SECTOR
    }

    fn data_start(&self) -> u64 {
        self.root_start() + u64::from(self.root_entries) * 32
    }

    pub fn cluster_at(&self, cluster: u32) -> u64 {
        self.data_start() + (u64::from(cluster) - 2) * self.cluster_bytes()
    }

    /// Where FAT16 keeps its root; `None` where the root is a chain like any folder.
    pub fn root_region(&self, bytes: u64) -> Result<Option<u64>, FatError> {
        match self.kind {
            Kind::Fat32 => Ok(None),
            Kind::Fat16 if bytes > u64::from(self.root_entries) * 32 => {
                Err(FatError::Full { label: "root".into(), needed: bytes, room: u64::from(self.root_entries) * 32 })
            }
            Kind::Fat16 => Ok(Some(self.root_start())),
        }
    }

    /// Boot sector, its copy, the count of free clusters and both tables, with where each goes.
    pub fn system_area(
        &self,
        label: &[u8; 11],
        id: u32,
        hidden: u32,
        chains: &[Chain],
        next: u32,
    ) -> Vec<(u64, Vec<u8>)> {
        let boot = self.boot_sector(label, id, hidden);
        let fat = self.table(chains);
        let fat_at = u64::from(self.reserved) * SECTOR;
        let mut out = vec![(0, boot.clone())];
        if self.kind == Kind::Fat32 {
            let info = self.free_info(next);
            out.extend([(SECTOR, info.clone()), (6 * SECTOR, boot), (7 * SECTOR, info)]);
        }
        out.push((fat_at, fat.clone()));
        out.push((fat_at + u64::from(self.fat_sectors) * SECTOR, fat));
        out
    }

    fn boot_sector(&self, label: &[u8; 11], id: u32, hidden: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        let (jump, short_fat): (u8, u16) = match self.kind {
            Kind::Fat16 => (0x3c, u16::try_from(self.fat_sectors).unwrap_or_default()),
            Kind::Fat32 => (0x58, 0),
        };
        let short_total = u16::try_from(self.sectors).ok().filter(|_| self.kind == Kind::Fat16);
        out.extend([0xeb, jump, 0x90]);
        out.extend(b"ROOST   ");
        out.extend(512u16.to_le_bytes());
        out.push(u8::try_from(self.sectors_per_cluster).unwrap_or_default());
        out.extend(u16::try_from(self.reserved).unwrap_or_default().to_le_bytes());
        out.push(2);
        out.extend(self.root_entries.to_le_bytes());
        out.extend(short_total.unwrap_or(0).to_le_bytes());
        out.push(MEDIA);
        for half in [short_fat, 63, 255] {
            out.extend(half.to_le_bytes());
        }
        out.extend(hidden.to_le_bytes());
        out.extend(if short_total.is_some() { 0 } else { self.sectors }.to_le_bytes());
        if self.kind == Kind::Fat32 {
            out.extend(self.fat_sectors.to_le_bytes());
            out.extend([0; 4]);
            out.extend(2u32.to_le_bytes());
            out.extend(1u16.to_le_bytes());
            out.extend(6u16.to_le_bytes());
            out.extend([0; 12]);
        }
        out.extend([0x80, 0, 0x29]);
        out.extend(id.to_le_bytes());
        out.extend(label);
        out.extend(if self.kind == Kind::Fat32 { b"FAT32   " } else { b"FAT16   " });
        out.resize(510, 0);
        out.extend([0x55, 0xaa]);
        out
    }

    fn free_info(&self, next: u32) -> Vec<u8> {
        let free = (self.clusters + 2).saturating_sub(next);
        let mut out = vec![0; 512];
        out[..4].copy_from_slice(b"RRaA");
        out[484..488].copy_from_slice(b"rrAa");
        out[488..492].copy_from_slice(&free.to_le_bytes());
        out[492..496].copy_from_slice(&if free == 0 { u32::MAX } else { next }.to_le_bytes());
        out[510..].copy_from_slice(&[0x55, 0xaa]);
        out
    }

    fn table(&self, chains: &[Chain]) -> Vec<u8> {
        let mut entries: Vec<u32> = vec![0x0fff_ff00 | u32::from(MEDIA), 0x0fff_ffff];
        for (first, count) in chains {
            let end = first + count;
            entries.extend((first + 1..end).chain((*count > 0).then_some(0x0fff_ffff)));
        }
        match self.kind {
            Kind::Fat32 => entries.iter().flat_map(|entry| entry.to_le_bytes()).collect(),
            Kind::Fat16 => entries.iter().flat_map(|entry| [entry.to_le_bytes()[0], entry.to_le_bytes()[1]]).collect(),
        }
    }
}
