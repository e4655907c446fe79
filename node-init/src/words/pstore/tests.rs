//! Records as Debian's kernel writes them through OVMF, and such as nobody should.

use super::*;
use proptest::prelude::*;

fn record(at_s: u64, part: u64, count: u64, text: &str) -> Found {
    let id = (at_s * 100 + part) * 1000 + count;
    Found { name: format!("dmesg-efi_pstore-{id}"), text: text.to_owned() }
}

#[test]
fn parts_are_put_in_order_whatever_the_order_of_files() {
    let newest = record(
        1_790_000_000,
        1,
        1,
        "Panic#1 Part1\n<0>[   31.2] Kernel panic - not syncing: Attempted to kill init! exitcode=0x9\n",
    );
    // The firmware takes its time with each.
    let oldest = record(1_790_000_001, 3, 1, "Panic#1 Part3\n<6>[   30.0] node-init: Boot boot=ab-1 root=77\n");
    let middle = record(1_790_000_000, 2, 1, "Panic#1 Part2\n<4>[   31.1] middle\n");
    let found = crashes(vec![newest.clone(), oldest.clone(), middle.clone()]);
    let [crash] = found.as_slice() else { panic!("{found:?}") };
    let times: Vec<_> = crash.panic.text.lines().filter_map(|l| l.split("] ").next()).collect();
    assert_eq!(times, ["<6>[   30.0", "<4>[   31.1", "<0>[   31.2"]);
    assert_eq!((crash.boot.as_deref(), crash.root.as_deref()), (Some("ab-1"), Some("77")));
    assert_eq!(crash.panic.reason, "kernel panic: Attempted to kill init! exitcode=0x9");
    assert_eq!((crash.at_s, &crash.panic.records), (1_790_000_000, &vec![newest.name, middle.name, oldest.name]));
}

#[test]
fn an_oops_and_its_panic_are_one_and_the_next_boots_panic_is_another() {
    let bug = "<1>[   9.1] BUG: kernel NULL pointer dereference, address: 0000000000000010\n";
    let found = crashes(vec![
        record(100, 1, 1, &format!("Oops#1 Part1\n{bug}")),
        record(101, 1, 2, &format!("Panic#2 Part1\n{bug}<0>[   9.2] Kernel panic - not syncing: Fatal exception\n")),
        record(109, 1, 1, "Panic#1 Part1\n<0>[   4.2] Kernel panic - not syncing: dm-verity device corrupted\n"),
    ]);
    let reasons: Vec<_> = found.iter().map(|c| c.panic.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "kernel panic: Fatal exception (BUG: kernel NULL pointer dereference, address: 0000000000000010)",
            "kernel panic: dm-verity device corrupted"
        ]
    );
    assert_eq!((found[0].panic.records.len(), found[0].panic.text.matches("BUG").count()), (2, 1));
}

#[test]
fn what_cannot_be_read_is_told_as_such_and_no_record_is_passed_over() {
    let compressed = Found { name: "dmesg-efi_pstore-10000001001.enc.z".to_owned(), text: "\u{1}\u{2}".to_owned() };
    let strange = Found { name: "dmesg-erst-x".to_owned(), text: String::new() };
    let found = crashes(vec![compressed, strange]);
    assert_eq!(found.iter().map(|c| c.panic.records.len()).sum::<usize>(), 2);
    assert!(found.iter().all(|c| c.panic.reason.contains("without a reason")), "{found:?}");
    assert!(found[1].panic.text.contains("could not decompress"));
}

#[test]
fn only_records_of_the_log_are_looked_at_and_erased() {
    let dir = tempfile::tempdir().expect("dir");
    for name in ["dmesg-efi_pstore-1", "console-ramoops-0"] {
        fs::write(dir.path().join(name), "Panic#1 Part1\nx").expect("written");
    }
    let found = look(dir.path());
    assert_eq!(found.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["dmesg-efi_pstore-1"]);
    erase(dir.path(), &["dmesg-efi_pstore-1".to_owned(), "gone".to_owned()]);
    assert_eq!((look(dir.path()).len(), look(&dir.path().join("none")).len()), (0, 0));
    assert!(dir.path().join("console-ramoops-0").exists());
}

proptest! {
    #[test]
    fn any_records_are_panics_within_bounds(
        records in prop::collection::vec(("(dmesg-)?[a-z0-9-]{0,20}(\\.enc\\.z)?", "((Panic|Oops)#[0-9]{1,3} Part[0-9]\n)?.{0,40}\n?.{0,9}"), 0..20),
    ) {
        let found: Vec<Found> = records.into_iter().map(|(name, text)| Found { name, text }).collect();
        let crashes = crashes(found);
        prop_assert!(crashes.len() <= PANICS);
        for crash in crashes {
            prop_assert!(crash.panic.text.len() <= PANIC_MAX && !crash.panic.reason.contains('\n'));
            prop_assert!(!crash.panic.reason.is_empty() && crash.panic.reason.len() <= WORD_MAX);
        }
    }
}
