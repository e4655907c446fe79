use std::io::Cursor;
use std::process::Command;

use super::*;

const ROOT: Uuid = Uuid::from_u128(0x00112233_4455_6677_8899_aabbccddeeff);

fn wanted() -> Vec<Wanted> {
    let part = |name, kind, len, guid| Wanted { name, kind, len, guid };
    vec![
        part(ESP, TYPE_ESP, 3 << 20, None),
        part(SEED, TYPE_BASIC_DATA, (1 << 20) + 1, None),
        part(ROOT_A, TYPE_ROOT_X86_64, 4 << 20, Some(ROOT)),
        part(ROOT_B, TYPE_ROOT_X86_64, 4 << 20, None),
    ]
}

fn disk() -> Cursor<Vec<u8>> {
    let mut disk = Cursor::new(vec![0; disk_bytes(&wanted()) as usize]);
    write_new(&mut disk, b"seed", &wanted()).unwrap();
    disk
}

fn larger(mut disk: Cursor<Vec<u8>>, by: usize) -> Cursor<Vec<u8>> {
    let len = disk.get_ref().len();
    disk.get_mut().resize(len + by, 0);
    disk
}

#[track_caller]
fn check_with_sgdisk(disk: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), disk).unwrap();
    let Ok(output) = Command::new("/usr/sbin/sgdisk").arg("-v").arg(file.path()).output() else { return };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("No problems found"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn sgdisk_finds_no_problem_in_a_new_table_or_a_grown_one() {
    check_with_sgdisk(disk().get_ref());
    let mut disk = larger(disk(), (64 << 20) + 512 * 7);
    let mut table = Table::read(&mut disk).unwrap();
    table.grow(&mut disk).unwrap();
    table.add_state(Uuid::from_u128(5)).unwrap();
    table.write(&mut disk, |_| Ok(())).unwrap();
    check_with_sgdisk(disk.get_ref());
}

#[test]
fn a_table_has_the_names_and_guids_that_were_asked_for_and_always_the_same() {
    assert_eq!(disk().get_ref(), disk().get_ref());
    let table = Table::read(&mut disk()).unwrap();
    let root = table.find(ROOT_A).unwrap();
    assert_eq!((root.number, root.guid, root.start, root.len), (3, ROOT, 6 << 20, 4 << 20));
    let names: Vec<_> = table.partitions().into_iter().map(|part| part.name).collect();
    assert_eq!(names, [ESP, SEED, ROOT_A, ROOT_B]);
    assert_ne!(derived_guid(b"a", "x"), derived_guid(b"b", "x"));
}

#[test]
fn state_is_made_once_formatted_once_and_then_only_used() {
    let mut disk = larger(disk(), 64 << 20);
    let mut table = Table::read(&mut disk).unwrap();
    assert_eq!(table.plan_state(1 << 20).unwrap(), StatePlan::NoRoom { free: 0, needed: 1 << 20 });
    table.grow(&mut disk).unwrap();
    let Ok(StatePlan::Make { start, len }) = table.plan_state(1 << 20) else { panic!() };
    assert_eq!((start, len), (14 << 20, 64 << 20));
    let made = table.add_state(Uuid::from_u128(5)).unwrap();
    assert_eq!((made.number, made.start, made.len), (5, start, len));
    table.write(&mut disk, |_| Ok(())).unwrap();
    let mut table = Table::read(&mut disk).unwrap();
    assert_eq!(table.plan_state(1 << 20).unwrap(), StatePlan::Format(made));
    table.rename(STATE_NEW, STATE).unwrap();
    table.write(&mut disk, |_| Ok(())).unwrap();
    let table = Table::read(&mut disk).unwrap();
    assert!(matches!(table.plan_state(1 << 40).unwrap(), StatePlan::Use(part) if part.name == STATE));
}

/// Keeps the first so many writes, and drops the rest.
struct Cut {
    disk: Cursor<Vec<u8>>,
    left: usize,
}

impl Write for Cut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                self.disk.write(bytes)
            }
            None => {
                self.disk.seek_relative(bytes.len() as i64)?;
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Cut {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.disk.seek(to)
    }
}

#[test]
fn a_power_cut_at_any_write_leaves_the_old_table_or_the_new_one() {
    let mut seen = [false; 2];
    for left in 0..2000 {
        let mut cut = Cut { disk: larger(disk(), 2 << 20), left };
        let mut table = Table::read(&mut cut.disk).unwrap();
        table.grow(&mut cut.disk).unwrap();
        table.add_state(Uuid::from_u128(5)).unwrap();
        table.write(&mut cut, |_| Ok(())).unwrap();
        let table = Table::read(&mut cut.disk).unwrap_or_else(|error| panic!("after {left} writes: {error}"));
        assert_eq!(table.find(ROOT_A).unwrap().guid, ROOT);
        seen[table.partitions().len() - 4] = true;
        if cut.left > 0 {
            table.check_copies(&mut cut.disk).unwrap();
            assert_eq!(seen, [true, true]);
            return;
        }
    }
    panic!("more writes than expected");
}

#[test]
fn a_second_power_cut_while_the_first_is_mended_leaves_a_table() {
    let renamed = |disk: Cursor<Vec<u8>>, left, guid| {
        let mut cut = Cut { disk, left };
        let mut table = Table::read(&mut cut.disk).unwrap_or_else(|error| panic!("after {left} writes: {error}"));
        table.set_guid(ROOT_B, Uuid::from_u128(guid)).unwrap();
        table.write(&mut cut, |_| Ok(())).unwrap();
        cut.disk
    };
    let mut whole = Cut { disk: disk(), left: usize::MAX };
    Table::read(&mut disk()).unwrap().write(&mut whole, |_| Ok(())).unwrap();
    let writes = usize::MAX - whole.left;
    // Cut where the copy in front is damaged: only the backup is left, and must not be touched first.
    let damaged = |disk: &mut Cursor<Vec<u8>>| {
        let found = Table::read(disk).and_then(|table| table.check_copies(disk));
        matches!(found, Err(GptError::Copy { copy: "first", .. }))
    };
    let cuts = (writes / 2 - 5..writes).map(|first| renamed(disk(), first, 5));
    let left = cuts.into_iter().find_map(|mut left| damaged(&mut left).then_some(left)).unwrap();
    for second in 0..writes {
        let mut left = renamed(left.clone(), second, 6);
        let table = Table::read(&mut left).unwrap_or_else(|error| panic!("after {second} more: {error}"));
        assert_eq!(table.find(ROOT_A).unwrap().guid, ROOT);
    }
}

#[test]
fn state_grows_into_a_larger_disk_once() {
    let mut disk = larger(disk(), 70 << 20);
    let mut table = Table::read(&mut disk).unwrap();
    table.grow(&mut disk).unwrap();
    let made = table.add_state(Uuid::from_u128(5)).unwrap();
    table.rename(STATE_NEW, STATE).unwrap();
    assert_eq!(table.grow_partition(STATE, 64 << 20).unwrap(), None);
    table.write(&mut disk, |_| Ok(())).unwrap();
    let mut disk = larger(disk, 130 << 20);
    let mut table = Table::read(&mut disk).unwrap();
    table.grow(&mut disk).unwrap();
    let grown = table.grow_partition(STATE, 64 << 20).unwrap().unwrap();
    assert_eq!((grown.number, grown.start, grown.len), (made.number, made.start, made.len + (130 << 20)));
    assert_eq!(table.grow_partition(STATE, 64 << 20).unwrap(), None);
    assert_eq!(table.grow_partition(ROOT_A, 1).unwrap(), None, "what is behind it belongs to another");
    table.write(&mut disk, |_| Ok(())).unwrap();
    check_with_sgdisk(disk.get_ref());
}

#[test]
fn two_partitions_named_state_forbid_everything() {
    let mut disk = larger(disk(), 64 << 20);
    let mut table = Table::read(&mut disk).unwrap();
    table.grow(&mut disk).unwrap();
    table.rename(ROOT_A, STATE).unwrap();
    table.rename(ROOT_B, STATE).unwrap();
    assert!(matches!(table.plan_state(0), Err(GptError::Ambiguous { count: 2, .. })));
}

#[test]
fn the_backup_is_read_and_repairs_the_first() {
    let mut disk = disk();
    Table::read(&mut disk).unwrap().check_copies(&mut disk).unwrap();
    disk.get_mut()[512..600].fill(0);
    let mut table = Table::read(&mut disk).unwrap();
    assert!(matches!(table.check_copies(&mut disk), Err(GptError::Copy { copy: "first", .. })));
    assert_eq!(table.find(ROOT_A).unwrap().guid, ROOT);
    table.write(&mut disk, |_| Ok(())).unwrap();
    table.check_copies(&mut disk).unwrap();
    check_with_sgdisk(disk.get_ref());
    let end = disk.get_ref().len() - 1000;
    disk.get_mut().truncate(end);
    assert!(matches!(table.check_copies(&mut disk), Err(GptError::CutOff { .. })));
}

#[test]
fn damaged_headers_are_errors() {
    for at in 512..600 {
        for flip in [1, 0x80] {
            let mut disk = disk();
            let len = disk.get_ref().len();
            disk.get_mut()[at] ^= flip;
            disk.get_mut()[len - 1024 + at] ^= flip;
            assert!(Table::read(&mut disk).is_err(), "byte {at}");
        }
    }
}
