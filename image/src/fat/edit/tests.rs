//! Every change cut off after every sector, with the sectors since the last flush arriving or not.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::Command;

use proptest::prelude::*;

use super::{Editor, FatError, Reclaimed};
use crate::device::recorder::{Memory, Recorder};
use crate::device::{Device, Stream};
use crate::fat::{FatReader, FatVolume};

const FAT16: u64 = 4 << 20;
const FAT32: u64 = 264 << 20;

type Files = BTreeMap<String, Vec<u8>>;

fn contents(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 + at / 4096 + seed * 31) as u8).collect()
}

/// A volume as `roost build` makes it; names lie across the sectors of its folders as they come.
fn volume(bytes: u64, crowd: usize) -> (Memory, Files) {
    let mut volume = FatVolume::new("ROOST-TEST", 0x1234_abcd, bytes).unwrap();
    let mut files = Files::new();
    let mut add = |path: &str, bytes: Vec<u8>| {
        volume.file(path, bytes.clone()).unwrap();
        files.insert(path.to_owned(), bytes);
    };
    add("EFI/BOOT/BOOTX64.EFI", contents(1, 10_001));
    add("EFI/Linux/node_1.0.efi", contents(2, 30_000));
    add("EFI/Linux/empty.efi", Vec::new());
    add("loader/loader.conf", b"timeout 0\n".to_vec());
    for n in 0..crowd {
        add(&format!("EFI/Linux/a neighbour with number {n}.txt"), contents(n, 300));
    }
    let mut memory = Stream::new(Memory::new(bytes));
    volume.write(&mut memory).unwrap();
    (memory.device().clone(), files)
}

fn files_on(device: &Memory) -> Files {
    let mut reader = FatReader::new(Stream::new(device.clone())).unwrap();
    let files = reader.files().unwrap();
    files.iter().map(|file| (file.path.clone(), reader.read(file).unwrap())).collect()
}

/// What `fsck.fat` complains about; nothing where it is not installed.
fn fsck(device: &Memory) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    device.save(file.path());
    let Ok(output) = Command::new("/usr/sbin/fsck.fat").arg("-n").arg(file.path()).output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Vec::new() } else { text.lines().map(str::to_owned).collect() }
}

/// What a cut may leave for `fsck.fat` to say, besides its advice and its summary.
const DOCUMENTED: [&str; 6] = [
    "FATs differ",
    "Reclaimed",
    "Free cluster summary wrong",
    "share clusters",
    "Orphaned long file name part",
    "Unused",
];

#[derive(Clone, Debug)]
enum Change {
    Create(&'static str, Vec<u8>),
    Rename(&'static str, &'static str),
    Remove(&'static str),
}

impl Change {
    fn make<D: Device>(&self, editor: &mut Editor<D>) -> Result<(), FatError> {
        match self {
            Self::Create(path, bytes) => editor.create(path, bytes.len() as u64, &mut &bytes[..]),
            Self::Rename(path, name) => editor.rename(path, name),
            Self::Remove(path) => editor.remove(path),
        }
    }

    fn expected(&self, before: &Files) -> Files {
        let mut files = before.clone();
        match self {
            Self::Create(path, bytes) => drop(files.insert((*path).to_owned(), bytes.clone())),
            Self::Rename(path, name) => {
                let bytes = files.remove(*path).unwrap();
                files.insert(sibling(path, name), bytes);
            }
            Self::Remove(path) => drop(files.remove(*path)),
        }
        files
    }
}

fn sibling(path: &str, name: &str) -> String {
    path.rsplit_once('/').map_or(name.to_owned(), |(folder, _)| format!("{folder}/{name}"))
}

/// The volume as a power cut left it: everything as before, as after, or both names for the same bytes.
#[track_caller]
fn check_cut(device: &Memory, before: &Files, change: &Change) {
    let after = change.expected(before);
    let found = files_on(device);
    let both: Files = before.iter().chain(&after).map(|(path, bytes)| (path.clone(), bytes.clone())).collect();
    let doubled = matches!(change, Change::Rename(..)) && found == both;
    assert!(found == *before || found == after || doubled, "{change:?}: {:?}", found.keys());
    let mut mended = device.clone();
    let mut editor = Editor::open(&mut mended).unwrap();
    let reclaimed = editor.reclaim().unwrap();
    assert_eq!(reclaimed.doubles, usize::from(doubled), "{change:?}");
    assert_eq!(editor.reclaim().unwrap(), Reclaimed::default(), "{change:?}");
    let found = files_on(&mended);
    assert!(found == *before || found == after, "{change:?}, mended: {:?}", found.keys());
    // Going on from there works first time.
    if found == *before {
        change.make(&mut Editor::open(&mut mended).unwrap()).unwrap();
    }
    assert_eq!(files_on(&mended), after, "{change:?}, once more");
    let usage = Editor::open(&mut mended).unwrap().usage().unwrap();
    assert_eq!(usage.lost().count(), 0);
}

/// Makes a change on a device that remembers.
#[track_caller]
fn recorded(device: &Memory, change: &Change) -> Recorder {
    let mut recorder = Recorder::new(device.clone());
    change.make(&mut Editor::open(&mut recorder).unwrap()).unwrap();
    recorder
}

#[track_caller]
fn check(bytes: u64, crowd: usize, change: Change) {
    let (device, before) = volume(bytes, crowd);
    let recorder = recorded(&device, &change);
    assert_eq!(files_on(&recorder.now), change.expected(&before));
    assert_eq!(fsck(&recorder.now), Vec::<String>::new(), "{change:?}");
    recorder.torn().for_each(|left| check_cut(&left, &before, &change));
    let every = recorder.writes().div_ceil(8);
    for (cut, left) in recorder.cuts().enumerate() {
        check_cut(&left, &before, &change);
        if cut % every == 0 {
            let strange = fsck(&left).into_iter().filter(|line| !is_documented(line)).collect::<Vec<_>>();
            assert_eq!(strange, Vec::<String>::new(), "{change:?}, cut after {cut} sectors");
        }
    }
}

fn is_documented(line: &str) -> bool {
    let noise = ["fsck.fat ", "  ", "Leaving", "Dirty", "1)", "2)", "Using", "Performing", "Auto-"];
    line.is_empty()
        || noise.iter().any(|start| line.starts_with(start))
        || line.starts_with('/')
        || DOCUMENTED.iter().any(|part| line.contains(part))
}

fn changes() -> Vec<Change> {
    vec![
        Change::Create("EFI/Linux/node_2.0+3-0.efi", contents(9, 21_000)),
        Change::Create("EFI/Linux/none.efi", Vec::new()),
        Change::Create("NEW.TXT", contents(3, 1)),
        Change::Rename("EFI/Linux/node_1.0.efi", "node_1.0+0-0.efi"),
        Change::Rename("EFI/Linux/node_1.0.efi", "NODE.EFI"),
        Change::Rename("EFI/Linux/node_1.0.efi", "Node_1.0.efi"),
        Change::Rename("EFI/Linux/node_1.0.efi", "a much longer name, which takes many more slots than there are.efi"),
        Change::Rename("EFI/BOOT/BOOTX64.EFI", "a name that is longer than it was before.efi"),
        Change::Remove("EFI/Linux/node_1.0.efi"),
        Change::Remove("EFI/Linux/empty.efi"),
        Change::Remove("loader/loader.conf"),
    ]
}

#[test]
fn a_cut_at_any_sector_leaves_every_file_whole_on_fat16() {
    for change in changes() {
        for crowd in [0, 4, 11] {
            check(FAT16, crowd, change.clone());
        }
    }
}

#[test]
fn a_cut_at_any_sector_leaves_every_file_whole_on_fat32() {
    for change in changes() {
        check(FAT32, 3, change);
    }
}

#[test]
fn a_folder_that_is_full_grows_and_no_cut_shows() {
    // 3 slots for each neighbour: the folder's cluster is full, or nearly so.
    for crowd in [17, 18, 19, 20] {
        check(FAT16, crowd, Change::Create("EFI/Linux/node_2.0+3-0.efi", contents(9, 5000)));
        check(FAT16, crowd, Change::Rename("EFI/Linux/node_1.0.efi", "node_1.0, and what else can be said of it.efi"));
    }
    check(FAT32, 40, Change::Create("EFI/Linux/node_2.0+3-0.efi", contents(9, 5000)));
}

#[test]
fn a_renaming_of_a_boot_entry_is_one_sector() {
    for (from, to) in [("node_1.0.efi", "node_1.0+5-0.efi"), ("node_1.0.efi", "node_1.0+0-0.efi")] {
        let (device, _) = volume(FAT32, 0);
        let mut recorder = Recorder::new(device);
        Editor::open(&mut recorder).unwrap().rename(&format!("EFI/Linux/{from}"), to).unwrap();
        assert_eq!((recorder.writes(), recorder.flushes()), (1, 1));
        let mut recorder = Recorder::new(recorder.now);
        Editor::open(&mut recorder).unwrap().rename(&format!("EFI/Linux/{to}"), from).unwrap();
        assert_eq!((recorder.writes(), recorder.flushes()), (1, 1));
    }
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_written() {
    let (device, files) = volume(FAT16, 2);
    let mut recorder = Recorder::new(device);
    let mut editor = Editor::open(&mut recorder).unwrap();
    let free = editor.free_bytes().unwrap();
    let refused = |result: Result<(), FatError>, expect: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    let mut create = |path: &str, len: u64| editor.create(path, len, &mut std::io::repeat(1));
    refused(create("large", free + 1), &format!("large needs {} bytes, and the FAT volume has {free}", free + 512));
    refused(create("efi/linux/NODE_1.0.EFI", 1), "has efi/linux/NODE_1.0.EFI already");
    refused(create("EFI/Linux/NODE_1~1.EFI", 1), "already");
    refused(create("EFI/Linux", 1), "already");
    refused(create("EFI/Nowhere/x", 1), "no file EFI/Nowhere");
    refused(create("EFI/a:b", 1), "cannot be stored");
    refused(create("EFI/é", 1), "not ASCII");
    refused(create("EFI/", 1), "empty");
    refused(create(&"x".repeat(196), 1), "too long");
    refused(create("huge", 4 << 30), "below 4 GiB");
    refused(editor.rename("EFI/Linux/node_1.0.efi", "EMPTY.efi"), "already");
    refused(editor.rename("EFI/Linux/node_2.0.efi", "x"), "no file");
    refused(editor.rename("EFI/Linux", "x"), "no file");
    refused(editor.remove("EFI/Linux/node_2.0.efi"), "no file");
    refused(editor.remove("EFI"), "no file");
    assert_eq!(recorder.writes(), 0);
    assert_eq!(files_on(&recorder.now), files);
}

#[test]
fn contents_that_end_early_leave_no_file() {
    let (device, files) = volume(FAT16, 2);
    let mut device = device;
    let mut editor = Editor::open(&mut device).unwrap();
    assert!(editor.create("short", 5000, &mut [1; 4999].take(9999)).is_err());
    assert_eq!(files_on(&device), files);
    assert_eq!(fsck(&device), Vec::<String>::new());
}

#[test]
fn a_device_that_fails_at_any_write_leaves_what_a_cut_would() {
    for change in changes() {
        let (device, before) = volume(FAT16, 4);
        for writes in 0.. {
            let mut recorder = Recorder::new(device.clone());
            recorder.fails_after = Some(writes);
            let result = change.make(&mut Editor::open(&mut recorder).unwrap());
            check_cut(&recorder.now, &before, &change);
            if result.is_ok() {
                break;
            }
        }
    }
}

#[test]
fn all_that_is_free_can_be_used_and_comes_back() {
    let (mut device, files) = volume(FAT32, 0);
    let mut editor = Editor::open(&mut device).unwrap();
    let free = editor.free_bytes().unwrap();
    editor.create("all.bin", free, &mut std::io::repeat(0)).unwrap();
    assert_eq!(editor.free_bytes().unwrap(), 0);
    assert!(matches!(editor.create("more", 1, &mut std::io::repeat(0)), Err(FatError::NoSpace { .. })));
    editor.remove("ALL.BIN").unwrap();
    assert_eq!(editor.free_bytes().unwrap(), free);
    assert_eq!(files_on(&device), files);
    assert_eq!(fsck(&device), Vec::<String>::new());
}

#[test]
fn mtools_sees_what_was_made_and_renamed() {
    let (mut device, _) = volume(FAT32, 30);
    let mut editor = Editor::open(&mut device).unwrap();
    let bytes = contents(5, 100_000);
    editor.create("EFI/Linux/node_2.0+3-0.efi", bytes.len() as u64, &mut &bytes[..]).unwrap();
    editor.rename("EFI/Linux/node_2.0+3-0.efi", "node_2.0.efi").unwrap();
    assert_eq!(editor.read("efi/linux/node_2.0.EFI").unwrap(), bytes);
    let listed = editor.list("EFI/Linux").unwrap();
    assert_eq!(
        listed.iter().filter(|file| file.path == "EFI/Linux/node_2.0.efi").map(|file| file.len).sum::<u32>(),
        100_000
    );
    assert_eq!(editor.list("no/such").unwrap(), []);
    let file = tempfile::NamedTempFile::new().unwrap();
    device.save(file.path());
    if let Ok(output) = Command::new("mtype").arg("-i").arg(file.path()).arg("::/EFI/Linux/node_2.0.efi").output() {
        assert!(output.stdout == bytes, "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn what_others_write_is_worked_with() {
    let (device, files) = volume(FAT32, 2);
    let file = tempfile::NamedTempFile::new().unwrap();
    device.save(file.path());
    let mtools = |args: &[&str]| {
        let run = Command::new(args[0]).arg("-i").arg(file.path()).args(&args[1..]).output();
        run.is_ok_and(|output| output.status.success())
    };
    if !mtools(&["mren", "::/EFI/Linux/node_1.0.efi", "node_1.0+2-1.efi"]) || !mtools(&["mmd", "::/EFI/vendor"]) {
        return;
    }
    let mut editor = Editor::open(file.reopen().unwrap()).unwrap();
    editor.rename("EFI/Linux/node_1.0+2-1.efi", "node_1.0.efi").unwrap();
    editor.create("EFI/vendor/x", 3, &mut &b"abc"[..]).unwrap();
    editor.reclaim().unwrap();
    let device = Memory::of(&std::fs::read(file.path()).unwrap());
    let mut expect = files;
    expect.insert("EFI/vendor/x".into(), b"abc".to_vec());
    assert_eq!(files_on(&device), expect);
    assert_eq!(fsck(&device), Vec::<String>::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn sectors_that_arrive_in_any_order_leave_every_file_whole(
        which in 0..11usize, crowd in 0..21usize, cut in any::<prop::sample::Index>(), arrived in any::<u64>(), late in any::<bool>(),
    ) {
        let change = &changes()[which];
        let (device, before) = volume(FAT16, crowd);
        let recorder = recorded(&device, change);
        let cut = cut.index(recorder.writes() + 1);
        // The last 64 sectors each arrive or not; of those before, all or none.
        let left = recorder.cut(cut, |back| if back < 64 { arrived >> back & 1 == 1 } else { late });
        check_cut(&left, &before, change);
    }
}

proptest! {
    // Each case ends in a run of fsck.fat.
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_row_of_changes_is_what_a_map_would_make_of_it(steps in prop::collection::vec((0..3u8, 0..9usize, 0..9usize, 0..9000usize), 1..40)) {
        let (mut device, mut files) = volume(FAT16, 1);
        let name = |n: usize| ["a", "b.efi", "B~1.EFI", "node_1.5+3-0.efi", "node_1.5+2-1.efi", "node_1.5.efi", "NODE_1~2.EFI", "with spaces and many letters in it", "C.TXT"][n];
        for (kind, a, b, len) in steps {
            let mut editor = Editor::open(&mut device).unwrap();
            let path = |n| format!("EFI/Linux/{}", name(n));
            match kind {
                0 => {
                    let bytes = contents(a, len);
                    let made = editor.create(&path(a), len as u64, &mut &bytes[..]);
                    // Names are taken by long and short names alike, so only what was made is known.
                    if made.is_ok() {
                        prop_assert!(files.insert(path(a), bytes).is_none());
                    }
                }
                1 => {
                    if editor.rename(&path(a), name(b)).is_ok() && files.contains_key(&path(a)) {
                        let bytes = files.remove(&path(a)).unwrap();
                        prop_assert!(files.insert(path(b), bytes).is_none());
                    } else {
                        files = files_on(&device);
                    }
                }
                _ => {
                    let removed = editor.remove(&path(a)).is_ok();
                    let known = files.remove(&path(a)).is_some();
                    if removed != known {
                        files = files_on(&device);
                    }
                }
            }
            let found = files_on(&device);
            prop_assert!(found == files, "{:?} instead of {:?}", found.keys(), files.keys());
        }
        prop_assert_eq!(fsck(&device), Vec::<String>::new());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn any_damage_is_an_error_or_is_lived_with(places in prop::collection::vec((0usize..40_000, any::<[u8; 4]>()), 1..12), cut in prop::option::of(0u64..200_000), which in 0..11usize) {
        let (mut device, _) = volume(FAT16, 6);
        for (at, bytes) in places {
            device.put(at as u64, &bytes);
        }
        if let Some(cut) = cut {
            let mut bytes = vec![0; cut as usize];
            device.read_at(0, &mut bytes).unwrap();
            device = Memory::of(&bytes);
        }
        if let Ok(mut editor) = Editor::open(&mut device) {
            for file in editor.list("EFI/Linux").unwrap_or_default() {
                let _may_be_damaged = editor.read(&file.path);
            }
            let _may_be_damaged = changes()[which].make(&mut editor);
            let _may_be_damaged = editor.reclaim();
        }
    }
}
