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
    /// The disk's name in sysfs, such as `vda`.
    disk: String,
    /// Its device file.
    pub node: PathBuf,
    /// Its number on the disk.
    number: u32,
}

/// All partitions that the kernel knows.
pub fn partitions() -> Vec<Partition> {
    folders(Path::new(CLASS)).iter().flat_map(|disk| partitions_of(disk)).collect()
}

/// Those of the disk with this folder; none when it is not a disk.
fn partitions_of(disk: &Path) -> Vec<Partition> {
    let name = disk.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let partition = |folder: &PathBuf| {
        let text = std::fs::read_to_string(folder.join("uevent")).ok()?;
        let vars = parse_file(&text);
        let var = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        let number = var("PARTN")?.parse().ok()?;
        Some(Partition { disk: name.clone(), node: Path::new("/dev").join(var("DEVNAME")?), number })
    };
    folders(disk).iter().filter_map(partition).collect()
}

fn folders(path: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(path).map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_default()
}

/// All partitions with their PARTUUIDs, which Linux 6.12 does not tell: read from the disks' own tables.
///
/// A disk that cannot be read, or has no such table, has none.
pub fn identified() -> Vec<(Partition, String)> {
    let disk = |folder: &PathBuf| {
        let partitions = partitions_of(folder);
        let node = Path::new("/dev").join(folder.file_name()?);
        let mut file = (!partitions.is_empty()).then(|| File::open(node).ok())??;
        let gpt = GPT::find_from(&mut file).ok()?;
        let entry = |number: u32| gpt.iter().find(|(n, e)| *n == number && e.is_used()).map(|(_, e)| uuid_text(e));
        Some(partitions.into_iter().filter_map(|p| entry(p.number).map(|uuid| (p, uuid))).collect::<Vec<_>>())
    };
    folders(Path::new(CLASS)).iter().filter_map(disk).flatten().collect()
}

/// As everybody writes it: the first three groups lie on disk with their lowest byte first.
fn uuid_text(entry: &GPTPartitionEntry) -> String {
    let b = entry.unique_partition_guid;
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text: String = order.iter().map(|&i| format!("{:02x}", b[i])).collect();
    [20, 16, 12, 8].iter().for_each(|&dash| text.insert(dash, '-'));
    text
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
    let root = identified().into_iter().find(|(_, u)| *u == uuid);
    let (root, _) = root.ok_or_else(|| BootError::NoRoot { uuid, seconds: 0, seen: "others".to_owned() })?;
    Ok(Disk { node: Path::new("/dev").join(&root.disk), name: root.disk })
}

impl Disk {
    /// The device file of one of its partitions.
    pub fn partition(&self, number: u32) -> Option<PathBuf> {
        let mine = partitions_of(&Path::new(CLASS).join(&self.name));
        mine.into_iter().find(|p| p.number == number).map(|p| p.node)
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
    fn a_uuid_is_written_as_tools_write_it() {
        let mut entry = GPTPartitionEntry::empty();
        // EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 as the UEFI specification puts it on disk.
        entry.unique_partition_guid =
            [0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99, 0xc7];
        assert_eq!(uuid_text(&entry), "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7");
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
