//! The disk that the root lies on, and its partition table.

use super::cmdline::Cmdline;
use super::phases::BootError;
use image::gpt::{self, GptError};
use std::fs::File;
use std::path::{Path, PathBuf};
use sys::uevent::parse_file;

const CLASS: &str = "/sys/class/block";

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

/// A partition with what its disk's table says of it.
#[derive(Debug, PartialEq)]
pub struct Identified {
    /// As the kernel shows it.
    pub partition: Partition,
    /// Its PARTUUID.
    pub uuid: String,
    /// Its name.
    pub name: String,
}

/// All partitions with their names and PARTUUIDs, which Linux 6.12 does not tell: read from the disks' own tables.
///
/// A disk that cannot be read, or has no such table, has none.
pub fn identified() -> Vec<Identified> {
    let disk = |folder: &PathBuf| {
        let partitions = partitions_of(folder);
        let node = Path::new("/dev").join(folder.file_name()?);
        let mut file = (!partitions.is_empty()).then(|| File::open(node).ok())??;
        let table = gpt::Table::read(&mut file).ok()?.partitions();
        let identify = |partition: Partition| {
            let entry = table.iter().find(|entry| entry.number == partition.number)?;
            Some(Identified { partition, uuid: entry.guid.to_string(), name: entry.name.clone() })
        };
        Some(partitions.into_iter().filter_map(identify).collect::<Vec<_>>())
    };
    folders(Path::new(CLASS)).iter().filter_map(disk).flatten().collect()
}

/// Whether one of the disks has both slots of a node.
pub fn has_slots(all: &[Identified]) -> bool {
    let has = |disk: &str, name: &str| all.iter().any(|p| p.partition.disk == disk && p.name == name);
    all.iter().any(|p| has(&p.partition.disk, gpt::ROOT_A) && has(&p.partition.disk, gpt::ROOT_B))
}

/// The whole disk that carries the root.
#[derive(Debug)]
pub struct Disk {
    name: String,
    /// Its device file.
    pub node: PathBuf,
}

/// The disk with the partition of the root.
pub fn with_root(cmdline: &Cmdline) -> Option<Disk> {
    let uuid = cmdline.root_uuid();
    let root = identified().into_iter().find(|p| p.uuid == uuid)?.partition;
    Some(Disk { node: Path::new("/dev").join(&root.disk), name: root.disk })
}

/// The disk of the partition that the root was found on. Written down for `noded`.
pub fn of_root(cmdline: &Cmdline) -> Result<Disk, BootError> {
    let none = || BootError::NoRoot { uuid: cmdline.root_uuid(), seconds: 0, seen: "others".to_owned() };
    let disk = with_root(cmdline).ok_or_else(none)?;
    let told = model::paths::ROOT_DISK;
    std::fs::write(told, disk.node.display().to_string()).map_err(sys::Error::of("write", told))?;
    Ok(disk)
}

impl Disk {
    /// The device file of one of its partitions.
    pub fn partition(&self, number: u32) -> Option<PathBuf> {
        let mine = partitions_of(&Path::new(CLASS).join(&self.name));
        mine.into_iter().find(|p| p.number == number).map(|p| p.node)
    }

    /// Opens its partition table for change.
    pub fn table(&self) -> Result<Table, BootError> {
        let file = File::options().read(true).write(true).open(&self.node);
        Table::read(file.map_err(sys::Error::of("open", self.node.display()))?, &self.node)
    }
}

/// A partition table, with the disk it came from.
#[derive(Debug)]
pub struct Table {
    /// The disk, open for writing.
    pub disk: File,
    name: String,
    /// The table, which reaches to the disk's end: the image may be smaller than the disk that it was written to.
    pub gpt: gpt::Table,
}

impl Table {
    fn read(mut disk: File, node: &Path) -> Result<Self, BootError> {
        let name = node.display().to_string();
        let gpt = gpt::Table::read(&mut disk).and_then(|mut gpt| gpt.grow(&mut disk).map(|()| gpt));
        let gpt = gpt.map_err(|source| BootError::Table { action: "read", disk: name.clone(), source })?;
        Ok(Self { disk, name, gpt })
    }

    /// An error about this table.
    pub fn failed(&self, action: &'static str) -> impl FnOnce(GptError) -> BootError + use<> {
        let disk = self.name.clone();
        move |source| BootError::Table { action, disk, source }
    }

    /// Writes it; a power cut at any moment leaves the old one or the new one.
    pub fn write(&mut self) -> Result<(), BootError> {
        let failed = self.failed("write");
        self.gpt.write(&mut self.disk, |disk| disk.sync_all()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::gpt::{STATE, STATE_NEW, StatePlan, Wanted};

    /// A disk as an image leaves it: the table is for less than the disk has.
    fn disk(mib: u64) -> File {
        let mut disk = tempfile::tempfile().expect("file");
        let root = Wanted { name: gpt::ROOT_A, kind: gpt::TYPE_ROOT_X86_64, len: 4 << 20, guid: None };
        disk.set_len(gpt::disk_bytes(std::slice::from_ref(&root))).expect("sized");
        gpt::write_new(&mut disk, b"seed", &[root]).expect("written");
        disk.set_len(mib << 20).expect("sized");
        disk
    }

    fn table(disk: File) -> Table {
        Table::read(disk, Path::new("/dev/x")).expect("reads")
    }

    #[test]
    fn state_is_made_behind_the_image_and_found_again() {
        let mut first = table(disk(100));
        assert!(matches!(first.gpt.plan_state(64 << 20), Ok(StatePlan::Make { .. })));
        let made = first.gpt.add_state(uuid::Uuid::from_u128(9)).expect("made");
        first.write().expect("written");
        let mut second = table(first.disk);
        assert_eq!(second.gpt.find(STATE_NEW).expect("there"), made);
        assert!(made.len > 90 << 20, "{made:?}");
        second.gpt.rename(STATE_NEW, STATE).expect("renamed");
        second.write().expect("written");
        assert!(matches!(table(second.disk).gpt.plan_state(64 << 20), Ok(StatePlan::Use(part)) if part.name == STATE));
    }

    #[test]
    fn the_slots_of_a_node_are_both_on_one_disk() {
        let part = |disk: &str, name: &str| Identified {
            partition: Partition { disk: disk.to_owned(), node: "/dev/x".into(), number: 1 },
            uuid: String::new(),
            name: name.to_owned(),
        };
        let (a, b, other) = (part("vda", gpt::ROOT_A), part("vda", gpt::ROOT_B), part("vdb", gpt::ROOT_B));
        assert!(has_slots(&[part("vda", gpt::ESP), a, b]));
        assert!(!has_slots(&[part("vda", gpt::ROOT_A), other]) && !has_slots(&[]));
    }

    #[test]
    fn a_disk_without_a_table_is_refused() {
        let empty = tempfile::tempfile().expect("file");
        empty.set_len(65536).expect("sized");
        let error = Table::read(empty, Path::new("/dev/x")).expect_err("refused");
        assert_eq!(error.to_string(), "Cannot read the partition table of /dev/x");
    }
}
