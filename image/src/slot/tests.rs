//! Slots on a whole disk in memory, as `roost build` writes it: what is refused, and what a cut leaves.

use sha2::{Digest, Sha256};

use super::*;
use crate::device::recorder::{Memory, Recorder};
use crate::device::{Device, Part, Stream};
use crate::disk::Disk;
use crate::fat::Editor;
use crate::gpt::{self, Table};
use crate::tree::Content;
use crate::uki::{self, Parts, tests::stub};
use crate::verity::{self, Verity};

mod world;

/// A version and all its bytes.
#[derive(Clone)]
pub struct Release {
    pub new: New,
    pub root: Vec<u8>,
    pub uki: Vec<u8>,
}

fn release_of(name: &str, version: &str) -> Release {
    // Some hundred bytes are as good as a whole system here; what differs is what counts.
    let data: Vec<u8> = format!("{name} {version} ").bytes().cycle().take(9 * 4096).collect();
    let (verity, tree) = verity::tree(&mut &data[..], 9, &[7; 32]).unwrap();
    let root = [data, tree].concat();
    let uki = uki_of(name, version, &verity);
    let new = New {
        name: name.into(),
        version: version.into(),
        architecture: "x86_64".into(),
        cluster: None,
        root_bytes: root.len() as u64,
        uki_bytes: uki.len() as u64,
        uki_sha256: Sha256::digest(&uki).into(),
        verity,
    };
    Release { new, root, uki }
}

fn uki_of(name: &str, version: &str, verity: &Verity) -> Vec<u8> {
    let os_release = format!("ID=roost\nVERSION_ID=9\nIMAGE_ID={name}\nIMAGE_VERSION={version}\n");
    let cmdline = format!("quiet roost.verity={verity}");
    let parts = Parts { os_release: &os_release, cmdline: &cmdline, initrd: &[3; 3000], uname: "6", linux: &[4; 5000] };
    uki::build(&stub(0x600), &parts).unwrap()
}

pub fn release(version: &str) -> Release {
    release_of("node", version)
}

/// A new node's disk with this version in slot A.
pub fn disk_with(first: &Release) -> Memory {
    let disk = Disk {
        name: first.new.name.clone(),
        version: first.new.version.clone(),
        uki: Content::from(first.uki.clone()),
        loader: Content::from(vec![1; 5000]),
        enrolment: Vec::new(),
        seed: None,
        verity: first.new.verity.clone(),
        esp_bytes: 4 << 20,
        seed_bytes: 4 << 20,
        slot_bytes: 1 << 20,
    };
    let mut out = Stream::new(Memory::new(disk.bytes()));
    disk.write(&mut out, &mut &first.root[..]).unwrap();
    out.device().clone()
}

pub fn slots(disk: &Memory, running: &Release) -> Slots {
    Slots::read(&mut disk.clone(), Some(&running.new.verity.root)).unwrap()
}

pub fn install_on(disk: &mut impl Device, new: &Release, running: &Release) -> Result<(), SlotError> {
    let slots = Slots::read(disk, Some(&running.new.verity.root))?;
    let plan = install(&new.new, &slots, None).unwrap_or_else(|refusal| panic!("{refusal}"));
    apply(&plan, disk, Sources { root: &mut &new.root[..], uki: &mut &new.uki[..] }, &mut |_| {})
}

fn mark_on(disk: &mut Memory, running: &Release, plan: impl Fn(&Slots) -> Option<Plan>) {
    let plan = plan(&slots(disk, running)).expect("there is something to do");
    apply_marks(&plan, disk).unwrap();
}

fn esp(disk: &mut Memory) -> Editor<Part<&mut Memory>> {
    let part = Table::read(&mut Stream::new(&mut *disk)).unwrap().find(gpt::ESP).unwrap();
    Editor::open(Part::new(disk, part.start, part.len)).unwrap()
}

fn files(disk: &Memory) -> Vec<String> {
    let mut disk = disk.clone();
    let mut names: Vec<_> =
        esp(&mut disk).list("EFI/Linux").unwrap().iter().map(|f| f.path["EFI/Linux/".len()..].to_owned()).collect();
    names.sort();
    names
}

fn rename(disk: &mut Memory, from: &str, to: &str) {
    esp(disk).rename(&format!("EFI/Linux/{from}"), to).unwrap();
}

#[test]
fn a_new_disk_runs_one_good_version_that_nobody_counts() {
    let first = release("1.0");
    let slots = slots(&disk_with(&first), &first);
    assert_eq!((slots.running, slots.a.state(), slots.b.state()), (Some(Side::A), State::Good, State::Empty));
    assert_eq!(slots.a.version(), Some("1.0"));
    assert_eq!((slots.strays.len(), bless(&slots)), (0, None));
    assert_eq!(roll_back(&slots), Err(Refusal::NothingGood { side: Side::B, state: State::Empty }));
    assert!(matches!(retry(&slots), Err(Refusal::NothingFailed { .. })));
    assert_eq!(forget(&slots), None);
}

#[test]
fn a_version_is_installed_tried_blessed_and_counted_from_then_on() {
    let (first, second, third) = (release("1.0"), release("1.1"), release("1.2"));
    let mut disk = disk_with(&first);
    install_on(&mut disk, &second, &first).unwrap();
    assert_eq!(files(&disk), ["node_1.0.efi", "node_1.1+3-0.efi"]);
    assert_eq!(slots(&disk, &first).next_boot().unwrap().0, Side::B);
    // The boot loader counts, and the node turns out good.
    rename(&mut disk, "node_1.1+3-0.efi", "node_1.1+2-1.efi");
    mark_on(&mut disk, &second, bless);
    assert_eq!(files(&disk), ["node_1.0.efi", "node_1.1+5-0.efi"]);
    assert_eq!(bless(&slots(&disk, &second)), None);
    // Another boot of it, blessed again.
    rename(&mut disk, "node_1.1+5-0.efi", "node_1.1+0-5.efi");
    // Its last one: counted before it boots, it is called failed, and was good all the same.
    let last = slots(&disk, &second);
    assert_eq!((last.b.state(), last.b.held().unwrap().was_blessed()), (State::Failed, true));
    mark_on(&mut disk, &second, bless);
    assert_eq!(files(&disk), ["node_1.0.efi", "node_1.1+5-0.efi"]);
    // The next one goes where the first was, and leaves the second as what is fallen back on.
    install_on(&mut disk, &third, &second).unwrap();
    assert_eq!(files(&disk), ["node_1.1.efi", "node_1.2+3-0.efi"]);
    assert_eq!(slots(&disk, &second).a.version(), Some("1.2"));
    mark_on(&mut disk, &second, forget);
    assert_eq!((files(&disk), slots(&disk, &second).a.state()), (vec!["node_1.1.efi".to_owned()], State::Empty));
}

#[test]
fn rolling_back_gives_up_what_runs_and_it_can_be_tried_again() {
    let (first, second) = (release("1.0"), release("1.1"));
    let mut disk = disk_with(&first);
    install_on(&mut disk, &second, &first).unwrap();
    mark_on(&mut disk, &second, bless);
    mark_on(&mut disk, &second, |slots| roll_back(slots).ok());
    assert_eq!(files(&disk), ["node_1.0.efi", "node_1.1+0-0.efi"]);
    let now = slots(&disk, &first);
    assert_eq!(now.next_boot().unwrap().0, Side::A);
    assert_eq!(install(&second.new, &now, None), Err(Refusal::FailedBefore { version: "1.1".into(), side: Side::B }));
    assert_eq!(bless(&now), None);
    mark_on(&mut disk, &first, |slots| retry(slots).ok());
    assert_eq!(files(&disk), ["node_1.0.efi", "node_1.1+3-0.efi"]);
}

#[test]
fn what_cannot_be_installed_is_refused_with_the_reason() {
    let first = release("1.0");
    let disk = disk_with(&first);
    let slots = slots(&disk, &first);
    let new = release("1.1").new;
    let refused = |new: New, floor, expect: &str| {
        let text = install(&new, &slots, floor).unwrap_err().to_string();
        assert!(text.contains(expect), "{text}");
    };
    refused(New { architecture: "aarch64".into(), ..new.clone() }, None, "is for aarch64, and this node is x86_64");
    refused(New { root_bytes: 5, ..new.clone() }, None, "announced with 5 bytes");
    refused(New { uki_bytes: 5 << 20, ..new.clone() }, None, "the ESP has room for");
    refused(New { version: "1_1".into(), ..new.clone() }, None, "cannot be a boot entry's");
    refused(new.clone(), Some("1.2"), "below the floor 1.2");
    refused(first.new.clone(), None, "installed in slot A already: good");
    refused(New { version: "1.00".into(), ..new.clone() }, None, "versions are not used twice");
    refused(New { version: "1.0".into(), ..new.clone() }, None, "versions are not used twice");
    refused(New { version: "0.9".into(), ..new.clone() }, None, "Version 0.9 is not newer than 1.0");
    refused(New { version: "2".into(), ..first.new.clone() }, None, "the very root that runs");
    refused(New { name: "other".into(), ..new.clone() }, None, "not updated to another image");
    let large = Verity { data_blocks: 300, ..new.verity.clone() };
    refused(New { root_bytes: large.total_bytes(), verity: large, ..new.clone() }, None, "slot B has 1048576");
    let elsewhere = Slots::read(&mut disk.clone(), None).unwrap();
    assert_eq!(install(&new, &elsewhere, None), Err(Refusal::NotFromDisk));
    assert!(install(&new, &slots, Some("1.1")).is_ok());
}

#[test]
fn nothing_is_installed_while_a_version_is_on_trial_or_has_lost_its_entry() {
    let (first, second, third) = (release("1.0"), release("1.1"), release("1.2"));
    let mut disk = disk_with(&first);
    install_on(&mut disk, &second, &first).unwrap();
    let on_trial = Err(Refusal::OnTrial { version: "1.1".into() });
    for file in ["node_1.1+2-1.efi", "node_1.1+0-3.efi"] {
        let now = files(&disk).pop().unwrap();
        rename(&mut disk, &now, file);
        assert_eq!(install(&third.new, &slots(&disk, &second), None), on_trial, "{file}");
    }
    assert!(matches!(install(&second.new, &slots(&disk, &first), None), Err(Refusal::FailedBefore { .. })));
    esp(&mut disk).remove("EFI/Linux/node_1.1+0-3.efi").unwrap();
    assert_eq!(install(&third.new, &slots(&disk, &second), None), Err(Refusal::NoEntry { side: Side::B }));
    assert_eq!((bless(&slots(&disk, &second)), forget(&slots(&disk, &second))), (None, None));
}

#[test]
fn what_lies_about_is_named_and_what_is_ours_removed() {
    let (first, second) = (release("1.0"), release("1.1"));
    let mut disk = disk_with(&first);
    let lost = release("0.5");
    for (file, bytes) in [
        ("node_0.5+3-0.efi", &lost.uki[..]),
        ("node_0.6.efi.new", &lost.uki[..100]),
        ("node_0.7.efi", b"MZ"),
        ("windows.efi", b"MZ"),
    ] {
        esp(&mut disk).create(&format!("EFI/Linux/{file}"), bytes.len() as u64, &mut &bytes[..]).unwrap();
    }
    let found = slots(&disk, &first);
    let mut strays: Vec<_> = found.strays.iter().map(|s| (s.file.as_str(), s.ours, s.reason.as_str())).collect();
    strays.sort();
    assert_eq!(strays[0], ("node_0.5+3-0.efi", true, "no partition has its root"));
    assert_eq!((strays[1].0, strays[1].1), ("node_0.6.efi.new", true));
    assert!(strays[2].2.contains("no whole 64-bit PE file"), "{strays:?}");
    assert_eq!(strays[3], ("windows.efi", false, "its name is not one of a boot entry"));
    install_on(&mut disk, &second, &first).unwrap();
    assert_eq!(files(&disk), ["node_1.0.efi", "node_1.1+3-0.efi", "windows.efi"]);
}

#[test]
fn a_version_with_two_entries_gets_one() {
    let (first, second) = (release("1.0"), release("1.1"));
    let mut disk = disk_with(&first);
    install_on(&mut disk, &second, &first).unwrap();
    let copy = second.uki.clone();
    esp(&mut disk).create("EFI/Linux/node_1.1.efi", copy.len() as u64, &mut &copy[..]).unwrap();
    mark_on(&mut disk, &second, bless);
    assert_eq!(files(&disk), ["node_1.0.efi", "node_1.1+5-0.efi"]);
}

#[test]
fn bytes_that_are_not_what_was_announced_never_become_a_boot_entry() {
    let (first, second) = (release("1.0"), release("1.1"));
    let broken = |change: &dyn Fn(&mut Release)| {
        let mut disk = disk_with(&first);
        let mut bad = second.clone();
        change(&mut bad);
        let error = install_on(&mut disk, &bad, &first).unwrap_err();
        assert!(files(&disk).iter().all(|file| file == "node_1.0.efi" || file.ends_with(".new")), "{error}");
        // The next attempt works first time.
        install_on(&mut disk, &second, &first).unwrap();
        assert_eq!(files(&disk), ["node_1.0.efi", "node_1.1+3-0.efi"]);
        error.to_string()
    };
    let of = |bad: &mut Release| bad.new.uki_sha256 = Sha256::digest(&bad.uki).into();
    assert!(broken(&|bad| bad.root[5000] ^= 1).contains("does not hold the root"));
    assert!(broken(&|bad| bad.root.truncate(8192)).contains("Cannot get the root"));
    assert!(broken(&|bad| bad.uki[6000] ^= 1).contains("SHA-256"));
    assert!(broken(&|bad| bad.uki.truncate(900)).contains("ESP could not"));
    assert!(
        broken(&|bad| {
            bad.uki.fill(0);
            of(bad)
        })
        .contains("not a UKI of ours")
    );
    let other = release("1.7");
    assert!(
        broken(&|bad| {
            bad.uki = other.uki.clone();
            bad.new.uki_bytes = other.uki.len() as u64;
            of(bad)
        })
        .contains("has roost.verity")
    );
    assert!(
        broken(&|bad| {
            bad.uki = uki_of("node", "1.7", &bad.new.verity);
            bad.new.uki_bytes = bad.uki.len() as u64;
            of(bad)
        })
        .contains("has version 1.7, expected 1.1")
    );
    assert!(broken(&|bad| bad.new.cluster = Some("c1".into())).contains("has roost.cluster none, expected c1"));
}

#[test]
fn only_an_emptied_slot_is_written_to() {
    let (first, second) = (release("1.0"), release("1.1"));
    let mut disk = disk_with(&first);
    let write = |side| Plan { steps: vec![Step::WriteRoot { side, bytes: second.new.root_bytes }] };
    for side in [Side::A, Side::B] {
        let error =
            apply(&write(side), &mut disk, Sources { root: &mut &second.root[..], uki: &mut &[][..] }, &mut |_| {});
        assert!(matches!(error, Err(SlotError::NotEmpty { .. })));
    }
}

#[test]
fn an_install_says_how_far_it_is() {
    let (first, second) = (release("1.0"), release("1.1"));
    let mut disk = disk_with(&first);
    let plan = install(&second.new, &slots(&disk, &first), None).unwrap();
    let mut seen = Vec::new();
    let sources = Sources { root: &mut &second.root[..], uki: &mut &second.uki[..] };
    apply(&plan, &mut disk, sources, &mut |p| seen.push((p.step.to_string(), p.number, p.of, p.bytes))).unwrap();
    let bytes = second.new.root_bytes;
    assert!(seen.contains(&("write the root into slot B".to_owned(), 3, 8, bytes)), "{seen:?}");
    assert_eq!(seen.last().unwrap().0, "rename EFI/Linux/node_1.1.efi.new to node_1.1+3-0.efi");
}

/// The plan's one promise, on a disk that a cut left: a blessed version boots, by an entry that nobody counts.
#[track_caller]
fn check_left(left: &Memory, blessed: &[&Release]) {
    let found = Slots::read(&mut left.clone(), None).unwrap();
    let good = |slot: &Slot| {
        slot.entries.iter().any(|held| {
            held.name.mark() == Mark::Good
                && blessed.iter().any(|release| release.new.verity == held.identity.verity)
                && verifies(left, slot, &held.identity.verity)
        })
    };
    assert!(good(&found.a) || good(&found.b), "{:?}", files(left));
}

pub fn verifies(disk: &Memory, slot: &Slot, verity: &Verity) -> bool {
    let part = Part::new(disk.clone(), slot.partition.start, slot.partition.len);
    verity::verify(&mut Stream::new(part), verity).is_ok()
}

#[test]
fn a_cut_at_any_sector_of_an_install_leaves_what_was_good_and_the_next_one_works() {
    let (first, second, third) = (release("1.0"), release("1.1"), release("1.2"));
    let mut disk = disk_with(&first);
    install_on(&mut disk, &second, &first).unwrap();
    mark_on(&mut disk, &second, bless);
    let mut recorder = Recorder::new(disk);
    install_on(&mut recorder, &third, &second).unwrap();
    recorder.torn().for_each(|left| check_left(&left, &[&first, &second]));
    for (cut, left) in recorder.cuts().enumerate() {
        check_left(&left, &[&first, &second]);
        if cut % 5 > 0 {
            continue;
        }
        let now = slots(&left, &second);
        let mut left = left;
        if now.a.version() != Some("1.2") {
            install_on(&mut left, &third, &second).unwrap();
        }
        assert_eq!(files(&left), ["node_1.1.efi", "node_1.2+3-0.efi"], "cut after {cut}");
        assert!(verifies(&left, &slots(&left, &second).a, &third.new.verity));
    }
}

#[test]
fn a_disk_that_fails_at_any_write_leaves_what_was_good_and_the_next_install_works() {
    let (first, second) = (release("1.0"), release("1.1"));
    let disk = disk_with(&first);
    for writes in (0..).step_by(3) {
        let mut recorder = Recorder::new(disk.clone());
        recorder.fails_after = Some(writes);
        let ended = install_on(&mut recorder, &second, &first);
        check_left(&recorder.now, &[&first]);
        if ended.is_ok() {
            assert!(writes > 100);
            break;
        }
        let mut left = recorder.now;
        if slots(&left, &first).b.version().is_none() {
            install_on(&mut left, &second, &first).unwrap();
        }
        assert_eq!(files(&left), ["node_1.0.efi", "node_1.1+3-0.efi"], "failed after {writes}");
    }
}

#[test]
fn a_cut_at_any_sector_of_marking_leaves_one_good_version() {
    let (first, second) = (release("1.0"), release("1.1"));
    let mut disk = disk_with(&first);
    install_on(&mut disk, &second, &first).unwrap();
    let mut blessed = Recorder::new(disk.clone());
    apply_marks(&bless(&slots(&disk, &second)).unwrap(), &mut blessed).unwrap();
    let mut back = Recorder::new(blessed.now.clone());
    apply_marks(&roll_back(&slots(&blessed.now, &second)).unwrap(), &mut back).unwrap();
    for recorder in [&blessed, &back] {
        assert!(recorder.writes() <= 2, "{}", recorder.writes());
        recorder.cuts().chain(recorder.torn()).for_each(|left| check_left(&left, &[&first, &second]));
    }
}

#[test]
fn a_damaged_disk_is_an_error() {
    let mut disk = disk_with(&release("1.0"));
    let esp = Table::read(&mut Stream::new(&mut disk)).unwrap().find(gpt::ESP).unwrap();
    disk.put(esp.start, &[0; 512]);
    assert!(matches!(Slots::read(&mut disk, None), Err(SlotError::Esp(_))));
    disk.put(0, &[0; 40 << 10]);
    assert!(matches!(Slots::read(&mut Memory::new(1 << 20), None), Err(SlotError::Gpt(_))));
}
