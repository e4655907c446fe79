//! The disk that the root lies on, and its partition table.

use super::cmdline::Cmdline;
use super::phases::BootError;
use gptman::{GPT, GPTPartitionEntry};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use sys::uevent::parse_file;

const CLASS: &str = "/sys/class/block";
const MIB: u64 = 1024 * 1024;
/// `0FC63DAF-8483-4772-8E79-3D69D8477DE4`, a Linux file system, in the order of bytes on disk.
const LINUX_DATA: [u8; 16] =
    [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];

/// A partition as the kernel shows it.
#[derive(Debug, PartialEq)]
pub struct Partition {
    /// Its name in sysfs, such as `vda3`.
    pub name: String,
    /// Its device file.
    pub node: PathBuf,
    /// Its PARTUUID in lower case; empty when the kernel was told of it by hand.
    pub uuid: String,
    /// Its number on the disk.
    pub number: u32,
}

/// All partitions that the kernel knows.
pub fn partitions() -> Vec<Partition> {
    let all = std::fs::read_dir(CLASS).into_iter().flatten().flatten();
    all.filter_map(|e| partition(&e.path())).collect()
}

fn partition(folder: &Path) -> Option<Partition> {
    let text = std::fs::read_to_string(folder.join("uevent")).ok()?;
    let vars = parse_file(&text);
    let var = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
    let number = var("PARTN")?.parse().ok()?;
    let uuid = var("PARTUUID").unwrap_or_default().to_ascii_lowercase();
    let name = folder.file_name()?.to_string_lossy().into_owned();
    Some(Partition { node: Path::new("/dev").join(var("DEVNAME")?), name, uuid, number })
}

/// The whole disk that carries the root.
#[derive(Debug)]
pub struct Disk {
    name: String,
    /// Its device file.
    pub node: PathBuf,
}

/// The disk of the partition that the root was found on.
pub fn of_root(cmdline: &Cmdline) -> Result<Disk, BootError> {
    let uuid = cmdline.root_uuid();
    let root = partitions().into_iter().find(|p| p.uuid == uuid);
    let root = root.ok_or_else(|| BootError::NoRoot { uuid, seconds: 0, seen: "others".to_owned() })?;
    let folder = Path::new(CLASS).join(&root.name);
    let folder = folder.canonicalize().map_err(sys::Error::of("resolve", folder.display()))?;
    let name = folder.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    Ok(Disk { node: Path::new("/dev").join(&name), name })
}

impl Disk {
    /// The device file of one of its partitions.
    pub fn partition(&self, number: u32) -> Option<PathBuf> {
        let mine = Path::new(CLASS).join(&self.name);
        let all = std::fs::read_dir(mine).into_iter().flatten().flatten();
        all.filter_map(|e| partition(&e.path())).find(|p| p.number == number).map(|p| p.node)
    }

    /// Opens its partition table for change.
    pub fn table(&self) -> Result<Table<File>, BootError> {
        let file = File::options().read(true).write(true).open(&self.node);
        Table::read(file.map_err(sys::Error::of("open", self.node.display()))?, &self.node)
    }
}

/// A partition table, with the disk it came from.
pub struct Table<D> {
    disk: D,
    name: String,
    gpt: GPT,
}

impl<D: Read + Write + Seek> Table<D> {
    fn read(mut disk: D, name: &Path) -> Result<Self, BootError> {
        let name = name.display().to_string();
        let gpt = GPT::find_from(&mut disk)
            .and_then(|mut gpt| {
                // The image may be smaller than the disk it was written to: what is behind it is ours too.
                let sector_size = gpt.sector_size;
                gpt.header.update_from(&mut disk, sector_size)?;
                gpt.align = (MIB / sector_size).max(1);
                Ok(gpt)
            })
            .map_err(|source| BootError::Table { action: "read", disk: name.clone(), source })?;
        Ok(Self { disk, name, gpt })
    }

    /// The disk itself.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Number of the partition of this name.
    pub fn find(&self, name: &str) -> Option<u32> {
        self.gpt.iter().find(|(_, p)| p.is_used() && p.partition_name.as_str() == name).map(|(n, _)| n)
    }

    /// First byte and length of a partition.
    pub fn extent(&self, number: u32) -> (u64, u64) {
        let p = &self.gpt[number];
        let sector = self.gpt.sector_size;
        (p.starting_lba * sector, (p.ending_lba + 1).saturating_sub(p.starting_lba) * sector)
    }

    /// Makes a partition of this name in the largest free space, which has at least `min` bytes, and writes the table.
    pub fn create(&mut self, name: &str, uuid: [u8; 16], min: u64) -> Result<u32, BootError> {
        let sector = self.gpt.sector_size;
        let free = self.gpt.find_free_sectors().into_iter().max_by_key(|&(_, length)| length);
        let number = self.gpt.iter().find(|(_, p)| p.is_unused()).map(|(n, _)| n);
        let (Some((start, length)), Some(number)) = (free.filter(|&(_, l)| l * sector >= min), number) else {
            let free_mib = free.map_or(0, |(_, l)| l * sector / MIB);
            return Err(BootError::NoRoom { disk: self.name.clone(), free_mib, need_mib: min / MIB });
        };
        self.gpt[number] = GPTPartitionEntry {
            partition_type_guid: LINUX_DATA,
            unique_partition_guid: uuid,
            starting_lba: start,
            ending_lba: start + length - 1,
            attribute_bits: 0,
            partition_name: name.into(),
        };
        self.write().map(|()| number)
    }

    /// Names a partition anew and writes the table.
    pub fn rename(&mut self, number: u32, name: &str) -> Result<(), BootError> {
        self.gpt[number].partition_name = name.into();
        self.write()
    }

    /// Lets a partition have the free space behind it, if that is worth it, and writes the table.
    pub fn grow(&mut self, number: u32) -> Result<bool, BootError> {
        let end = self.gpt[number].ending_lba;
        let behind = self.gpt.iter().filter(|(_, p)| p.is_used() && p.starting_lba > end).map(|(_, p)| p.starting_lba);
        let limit = behind.min().unwrap_or(self.gpt.header.last_usable_lba + 1);
        let worth_it = limit.saturating_sub(end + 1) * self.gpt.sector_size >= 64 * MIB;
        if worth_it {
            self.gpt[number].ending_lba = limit - 1;
            self.write()?;
        }
        Ok(worth_it)
    }

    fn write(&mut self) -> Result<(), BootError> {
        let written = self.gpt.write_into(&mut self.disk);
        let flushed = written.and_then(|_| Ok(self.disk.flush()?));
        flushed.map_err(|source| BootError::Table { action: "write", disk: self.name.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn disk(mib: u64) -> Cursor<Vec<u8>> {
        let mut disk = Cursor::new(vec![0; (mib * MIB) as usize]);
        let mut gpt = GPT::new_from(&mut disk, 512, [1; 16]).expect("table");
        gpt[3] = GPTPartitionEntry {
            partition_type_guid: LINUX_DATA,
            unique_partition_guid: [3; 16],
            starting_lba: 2048,
            ending_lba: 4095,
            attribute_bits: 0,
            partition_name: "root-a".into(),
        };
        gpt.write_into(&mut disk).expect("written");
        disk
    }

    fn table(disk: Cursor<Vec<u8>>) -> Table<Cursor<Vec<u8>>> {
        Table::read(disk, Path::new("/dev/x")).expect("reads")
    }

    #[test]
    fn a_partition_is_made_named_and_found_again() {
        let mut first = table(disk(100));
        let number = first.create("roost-state-new", [9; 16], 64 * MIB).expect("made");
        assert_eq!(number, 1);
        first.rename(number, "roost-state").expect("renamed");
        let again = table(first.disk);
        assert_eq!((again.find("roost-state"), again.find("roost-state-new")), (Some(1), None));
        assert_eq!(again.find("root-a"), Some(3));
        let (start, length) = again.extent(1);
        assert!(start == 2 * MIB && length > 96 * MIB, "{start} {length}");
    }

    #[test]
    fn a_small_disk_is_refused_with_figures() {
        let error = table(disk(20)).create("roost-state-new", [9; 16], 64 * MIB).expect_err("refused");
        assert_eq!(error.to_string(), "/dev/x has 17 MiB free for STATE; expected at least 64 MiB");
    }

    #[test]
    fn a_partition_grows_into_a_larger_disk_once() {
        let mut small = table(disk(70));
        small.create("roost-state", [9; 16], MIB).expect("made");
        let mut bytes = small.disk.into_inner();
        bytes.resize((200 * MIB) as usize, 0);
        let mut large = table(Cursor::new(bytes));
        let before = large.extent(1).1;
        assert!(large.grow(1).expect("grows") && large.extent(1).1 >= before + 129 * MIB);
        assert!(!large.grow(1).expect("stays"));
        let (start, _) = table(large.disk).extent(1);
        assert_eq!(start, 2 * MIB);
    }

    #[test]
    fn a_disk_without_a_table_is_refused() {
        let error = Table::read(Cursor::new(vec![0; 65536]), Path::new("/dev/x")).map(drop).expect_err("refused");
        assert_eq!(error.to_string(), "Cannot read the partition table of /dev/x");
    }
}
