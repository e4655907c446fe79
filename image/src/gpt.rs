//! Partition tables: the one `roost build` writes, and what a node changes in it at its first boot.
//!
//! ```text
//! 1 roost-esp | 2 roost-seed | 3 roost-root-a | 4 roost-root-b | roost-state (made on the node)
//! ```
//!
//! Every GUID is derived from a seed, so two builds are equal. What to do about STATE is decided by
//! [`Table::plan_state`] without touching a disk; reading and writing are separate steps.

use std::io::{self, Read, Seek, SeekFrom, Write};

use gptman::{GPT, GPTHeader, GPTPartitionEntry};
use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::{Builder, Uuid};

/// Partitions start on multiples of this.
pub const ALIGN: u64 = 1 << 20;
/// Sector size of the images that are built.
pub const SECTOR: u64 = 512;

/// Name of the EFI system partition.
pub const ESP: &str = "roost-esp";
/// Name of the partition with `seed.toml`.
pub const SEED: &str = "roost-seed";
/// Name of the first root slot.
pub const ROOT_A: &str = "roost-root-a";
/// Name of the second root slot.
pub const ROOT_B: &str = "roost-root-b";
/// Name of STATE once it is formatted.
pub const STATE: &str = "roost-state";
/// Name of STATE from its making until it is formatted; only this one may be formatted.
pub const STATE_NEW: &str = "roost-state-new";

/// Type of an EFI system partition.
pub const TYPE_ESP: Uuid = Uuid::from_u128(0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b);
/// Type of a FAT partition that any system mounts.
pub const TYPE_BASIC_DATA: Uuid = Uuid::from_u128(0xebd0a0a2_b9e5_4433_87c0_68b6b72699c7);
/// Type of a root for x86-64 (Discoverable Partitions Specification).
pub const TYPE_ROOT_X86_64: Uuid = Uuid::from_u128(0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709);
/// Type of any Linux data.
pub const TYPE_LINUX: Uuid = Uuid::from_u128(0x0fc63daf_8483_4772_8e79_3d69d8477de4);

/// Attribute bits of the Discoverable Partitions Specification.
const READ_ONLY: u64 = 1 << 60;
const NO_AUTO: u64 = 1 << 63;

/// What is wrong with a table, or with what was asked of it.
#[derive(Debug, Error)]
pub enum GptError {
    /// There is no usable table, neither the first nor the backup.
    #[error("The disk has no readable GPT partition table")]
    Read(#[source] gptman::Error),
    /// The table could not be written.
    #[error("Cannot write the partition table")]
    Write(#[source] gptman::Error),
    /// The protective MBR or the disk itself refused.
    #[error("Cannot {action} the disk")]
    Disk {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A header that no tool of ours writes, and that could ask for any amount of memory.
    #[error("The partition table announces {count} entries of {size} bytes, expected 1 to 512 of 128")]
    Strange {
        /// Number of entries.
        count: u32,
        /// Bytes of each.
        size: u32,
    },
    /// One of the two copies is damaged; the other may still serve.
    #[error("The {copy} partition table is damaged")]
    Copy {
        /// `first` or `backup`.
        copy: &'static str,
        /// What was found.
        source: gptman::Error,
    },
    /// Both copies are valid and say different things.
    #[error("The two copies of the partition table differ")]
    CopiesDiffer,
    /// The table is made for a larger disk.
    #[error("The partition table is made for {expected} bytes, and the disk or image has {found}: it is cut off")]
    CutOff {
        /// Bytes that the table covers.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// No partition of this name.
    #[error("The disk has no partition named {name}")]
    Missing {
        /// The name.
        name: String,
    },
    /// More than one: which is meant cannot be known.
    #[error("The disk has {count} partitions named {name}, expected one")]
    Ambiguous {
        /// The name.
        name: String,
        /// How many.
        count: usize,
    },
    /// All entries are taken.
    #[error("The partition table has no free entry")]
    Full,
}

/// One partition, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Number as the kernel counts (`sda3` is 3).
    pub number: u32,
    /// Name in the table.
    pub name: String,
    /// Its type.
    pub kind: Uuid,
    /// Its PARTUUID.
    pub guid: Uuid,
    /// Where it starts.
    pub start: u64,
    /// How long it is.
    pub len: u64,
}

/// A partition to be made.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Name in the table.
    pub name: &'static str,
    /// Its type.
    pub kind: Uuid,
    /// Length in bytes; rounded up to [`ALIGN`].
    pub len: u64,
    /// Its PARTUUID; `None` derives one from the seed and the name.
    pub guid: Option<Uuid>,
}

/// A GUID that depends only on a seed and a label.
#[must_use]
pub fn derived_guid(seed: &[u8], label: &str) -> Uuid {
    let digest = Sha256::new().chain_update(seed).chain_update([0]).chain_update(label).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

/// Bytes of a disk with these partitions: one [`ALIGN`] for each table around them.
#[must_use]
pub fn disk_bytes(wanted: &[Wanted]) -> u64 {
    wanted.iter().map(|part| part.len.next_multiple_of(ALIGN)).sum::<u64>() + 2 * ALIGN
}

/// Writes a new table with its protective MBR and backup on a disk of exactly [`disk_bytes`].
///
/// # Errors
/// When the disk cannot be written.
pub fn write_new(
    disk: &mut (impl Read + Write + Seek),
    seed: &[u8],
    wanted: &[Wanted],
) -> Result<Vec<Partition>, GptError> {
    let guid = derived_guid(seed, "disk").to_bytes_le();
    let mut gpt = GPT::new_from(disk, SECTOR, guid).map_err(GptError::Write)?;
    gpt.align = ALIGN / SECTOR;
    let mut at = ALIGN / SECTOR;
    for (index, part) in (1..).zip(wanted) {
        let sectors = part.len.next_multiple_of(ALIGN) / SECTOR;
        gpt[index] = GPTPartitionEntry {
            partition_type_guid: part.kind.to_bytes_le(),
            unique_partition_guid: part.guid.unwrap_or_else(|| derived_guid(seed, part.name)).to_bytes_le(),
            starting_lba: at,
            ending_lba: at + sectors - 1,
            attribute_bits: if part.kind == TYPE_ROOT_X86_64 { READ_ONLY | NO_AUTO } else { 0 },
            partition_name: part.name.into(),
        };
        at += sectors;
    }
    let mut table = Table { gpt };
    table.write(disk, |_| Ok(()))?;
    Ok(table.partitions())
}

/// What a node has to do about STATE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatePlan {
    /// It is there and was formatted: mount it, and never format it.
    Use(Partition),
    /// A boot made it and did not end formatting it: format it, then rename it.
    Format(Partition),
    /// There is room: [`Table::add_state`], then format, then rename.
    Make {
        /// Where it will start, in bytes.
        start: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// There is no partition and no room for one.
    NoRoom {
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
}

/// A partition table in memory.
#[derive(Clone, Debug)]
pub struct Table {
    gpt: GPT,
}

impl Table {
    /// Reads the table of a disk, or its backup when the first is damaged. Sectors may have 512 or 4096 bytes.
    ///
    /// # Errors
    /// When neither is usable.
    pub fn read(disk: &mut (impl Read + Seek)) -> Result<Self, GptError> {
        refuse_strange(disk)?;
        Ok(Self { gpt: GPT::find_from(disk).map_err(GptError::Read)? })
    }

    /// Bytes that the table covers, its backup included.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        let last = self.gpt.header.primary_lba.max(self.gpt.header.backup_lba);
        last.saturating_add(1).saturating_mul(self.gpt.sector_size)
    }

    /// Checks what [`Table::read`] forgives: that both copies are whole, equal, and that the disk is not cut off.
    ///
    /// # Errors
    /// Names the copy that is damaged.
    pub fn check_copies(&self, disk: &mut (impl Read + Seek)) -> Result<(), GptError> {
        let found = disk.seek(SeekFrom::End(0)).map_err(|source| GptError::Disk { action: "read", source })?;
        let (expected, sector) = (self.disk_bytes(), self.gpt.sector_size);
        let first = entries_at(disk, sector, sector).map_err(|source| GptError::Copy { copy: "first", source })?;
        if found < expected {
            return Err(GptError::CutOff { expected, found });
        }
        let backup = entries_at(disk, expected - sector, sector);
        let backup = backup.map_err(|source| GptError::Copy { copy: "backup", source })?;
        if first == backup { Ok(()) } else { Err(GptError::CopiesDiffer) }
    }

    /// All partitions by number.
    #[must_use]
    pub fn partitions(&self) -> Vec<Partition> {
        let used = self.gpt.iter().filter(|(_, entry)| entry.is_used() && entry.ending_lba >= entry.starting_lba);
        used.map(|(number, entry)| self.partition(number, entry)).collect()
    }

    fn partition(&self, number: u32, entry: &GPTPartitionEntry) -> Partition {
        Partition {
            number,
            name: entry.partition_name.as_str().to_owned(),
            kind: Uuid::from_bytes_le(entry.partition_type_guid),
            guid: Uuid::from_bytes_le(entry.unique_partition_guid),
            start: entry.starting_lba.saturating_mul(self.gpt.sector_size),
            len: (entry.ending_lba - entry.starting_lba).saturating_add(1).saturating_mul(self.gpt.sector_size),
        }
    }

    /// The one partition of this name.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn find(&self, name: &str) -> Result<Partition, GptError> {
        let mut found: Vec<_> = self.partitions().into_iter().filter(|part| part.name == name).collect();
        match (found.pop(), found.len()) {
            (Some(part), 0) => Ok(part),
            (None, _) => Err(GptError::Missing { name: name.to_owned() }),
            (Some(_), more) => Err(GptError::Ambiguous { name: name.to_owned(), count: more + 1 }),
        }
    }

    /// Lets the table reach to the end of the disk; the backup header moves there when it is written.
    ///
    /// # Errors
    /// When the disk's length cannot be found.
    pub fn grow(&mut self, disk: &mut impl Seek) -> Result<(), GptError> {
        let sector = self.gpt.sector_size;
        self.gpt.header.update_from(disk, sector).map_err(GptError::Read)
    }

    /// Decides about STATE. After [`Table::grow`]; `needed` is the least length worth formatting.
    ///
    /// # Errors
    /// When a name is there twice: then nothing may be formatted.
    pub fn plan_state(&self, needed: u64) -> Result<StatePlan, GptError> {
        match self.find(STATE) {
            Ok(part) => return Ok(StatePlan::Use(part)),
            Err(GptError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
        match self.find(STATE_NEW) {
            Ok(part) => return Ok(StatePlan::Format(part)),
            Err(GptError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
        let (start, len) = self.largest_gap();
        Ok(if len >= needed { StatePlan::Make { start, len } } else { StatePlan::NoRoom { free: len, needed } })
    }

    /// Adds STATE, under its name for "not yet formatted", in the largest gap. Then [`Table::write`] it,
    /// let the kernel read the table again, format, and [`Table::rename`].
    ///
    /// # Errors
    /// When all entries are taken.
    pub fn add_state(&mut self, guid: Uuid) -> Result<Partition, GptError> {
        let (start, len) = self.largest_gap();
        let free = self.gpt.iter().find(|(_, entry)| entry.is_unused()).map(|(number, _)| number);
        let number = free.ok_or(GptError::Full)?;
        let sector = self.gpt.sector_size;
        self.gpt[number] = GPTPartitionEntry {
            partition_type_guid: TYPE_LINUX.to_bytes_le(),
            unique_partition_guid: guid.to_bytes_le(),
            starting_lba: start / sector,
            ending_lba: (start + len.max(sector)) / sector - 1,
            attribute_bits: 0,
            partition_name: STATE_NEW.into(),
        };
        Ok(self.partition(number, &self.gpt[number]))
    }

    /// Lets a partition have the free space behind it, when that is at least `worth` bytes; its new extent then.
    /// After [`Table::grow`]; then [`Table::write`] it.
    ///
    /// # Errors
    /// When there is not exactly one of this name.
    pub fn grow_partition(&mut self, name: &str, worth: u64) -> Result<Option<Partition>, GptError> {
        let part = self.find(name)?;
        let (sector, end) = (self.gpt.sector_size, part.start.saturating_add(part.len));
        let behind = self.partitions().into_iter().map(|other| other.start).filter(|start| *start >= end).min();
        let limit = behind.unwrap_or(self.gpt.header.last_usable_lba.saturating_add(1).saturating_mul(sector));
        let limit = limit / ALIGN * ALIGN;
        if limit < end.saturating_add(worth.max(sector)) {
            return Ok(None);
        }
        self.gpt[part.number].ending_lba = limit / sector - 1;
        Ok(Some(self.partition(part.number, &self.gpt[part.number])))
    }

    /// Gives a partition another name.
    ///
    /// # Errors
    /// When there is not exactly one of the old name.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), GptError> {
        let number = self.find(from)?.number;
        self.gpt[number].partition_name = to.into();
        Ok(())
    }

    /// Gives a partition another PARTUUID.
    ///
    /// # Errors
    /// When there is not exactly one of this name.
    pub fn set_guid(&mut self, name: &str, guid: Uuid) -> Result<(), GptError> {
        let number = self.find(name)?.number;
        self.gpt[number].unique_partition_guid = guid.to_bytes_le();
        Ok(())
    }

    /// Writes both copies of the table and the protective MBR: first the backup at the disk's end, and, once
    /// `sync` says that it is on the disk, the copy in front. So a power cut at any moment leaves the old table
    /// or the new one, even on a disk larger than the image, whose old backup nobody would find. Where the copy in
    /// front was damaged, and this table read from the backup, the one in front goes first.
    /// The caller then asks the kernel to read the table again.
    ///
    /// # Errors
    /// When two partitions overlap or have one GUID, or the disk cannot be written.
    pub fn write<D: Write + Seek>(
        &mut self,
        disk: &mut D,
        sync: impl Fn(&mut D) -> io::Result<()>,
    ) -> Result<(), GptError> {
        // The library checks a table only while writing it, and in the other order.
        self.gpt.clone().write_into(&mut io::empty()).map_err(GptError::Write)?;
        let sector = self.gpt.sector_size;
        let entries: Vec<GPTPartitionEntry> = self.gpt.iter().map(|(_, entry)| entry.clone()).collect();
        let synced = |disk: &mut D| {
            disk.flush().and_then(|()| sync(disk)).map_err(|source| GptError::Disk { action: "sync", source })
        };
        let [front, backup] = self.headers();
        let read_from_backup = self.gpt.header.primary_lba > self.gpt.header.backup_lba;
        for mut header in if read_from_backup { [front, backup] } else { [backup, front] } {
            header.write_into(disk, sector, &entries).map_err(GptError::Write)?;
            synced(disk)?;
        }
        GPT::write_protective_mbr_into(disk, sector).map_err(GptError::Write)?;
        synced(disk)
    }

    /// The headers of the copy in front and of the backup, whichever was read.
    fn headers(&self) -> [GPTHeader; 2] {
        let header = &self.gpt.header;
        let (last, entry_size) = (header.primary_lba.max(header.backup_lba), u64::from(header.size_of_partition_entry));
        let entry_sectors = (u64::from(header.number_of_partition_entries) * entry_size).div_ceil(self.gpt.sector_size);
        let at = |primary_lba, backup_lba, partition_entry_lba| GPTHeader {
            primary_lba,
            backup_lba,
            partition_entry_lba,
            ..header.clone()
        };
        [at(1, last, 2), at(last, 1, last - entry_sectors)]
    }

    /// Start and length in bytes, both multiples of [`ALIGN`]; length 0 when there is none.
    fn largest_gap(&self) -> (u64, u64) {
        let (header, sector) = (&self.gpt.header, self.gpt.sector_size);
        let mut used: Vec<(u64, u64)> =
            self.partitions().iter().map(|part| (part.start, part.start.saturating_add(part.len))).collect();
        used.push((header.last_usable_lba.saturating_add(1).saturating_mul(sector), u64::MAX));
        used.sort_unstable();
        let mut at = header.first_usable_lba.saturating_mul(sector);
        let mut best = (at, 0);
        for (start, end) in used {
            let from = at.checked_next_multiple_of(ALIGN).unwrap_or(u64::MAX);
            let len = start.saturating_sub(from) / ALIGN * ALIGN;
            if len > best.1 {
                best = (from, len);
            }
            at = at.max(end);
        }
        best
    }
}

/// One copy of the table: the disk's GUID, and every entry in use.
type Copy = ([u8; 16], Vec<([u8; 16], [u8; 16], u64, u64, u64, String)>);

fn entries_at(disk: &mut (impl Read + Seek), at: u64, sector: u64) -> Result<Copy, gptman::Error> {
    disk.seek(SeekFrom::Start(at))?;
    let header = GPTHeader::read_from(disk)?;
    let entries = header.read_partitions(disk, sector)?;
    let entry = |entry: GPTPartitionEntry| {
        let name = entry.partition_name.as_str().to_owned();
        let guids = (entry.partition_type_guid, entry.unique_partition_guid);
        (guids.0, guids.1, entry.starting_lba, entry.ending_lba, entry.attribute_bits, name)
    };
    Ok((header.disk_guid, entries.into_iter().filter(GPTPartitionEntry::is_used).map(entry).collect()))
}

/// `gptman` takes as much memory as the header says.
fn refuse_strange(disk: &mut (impl Read + Seek)) -> Result<(), GptError> {
    let failed = |source| GptError::Disk { action: "read", source };
    let len = disk.seek(SeekFrom::End(0)).map_err(failed)?;
    for sector in [512, 4096] {
        for at in [sector, len.saturating_sub(len % sector).saturating_sub(sector)] {
            let mut header = [0; 92];
            disk.seek(SeekFrom::Start(at)).map_err(failed)?;
            let read = disk.read_exact(&mut header);
            let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let (count, size) = (word(80), word(84));
            if read.is_ok() && header.starts_with(b"EFI PART") && (!(1..=512).contains(&count) || size != 128) {
                return Err(GptError::Strange { count, size });
            }
        }
    }
    disk.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests;
