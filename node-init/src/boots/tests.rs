//! Records of boots in a scratch folder.

use super::*;

fn boots() -> (tempfile::TempDir, Boots) {
    let dir = tempfile::tempdir().expect("dir");
    let boots = Boots::at(dir.path().join("boots"));
    (dir, boots)
}

fn about(boot: &str) -> About {
    About { boot: boot.to_owned(), root: "r".to_owned(), version: "1.0".to_owned(), began_ms: 7 }
}

fn end(how: How) -> End {
    End { how, why: "somebody".to_owned(), at_ms: 12_999 }
}

fn panic() -> Panic {
    let text = "<6>[   10.1] x\n<0>[   11.200000] Kernel panic - not syncing: why\n".to_owned();
    Panic { records: vec!["1".to_owned()], reason: "kernel panic: why".to_owned(), text }
}

#[test]
fn the_end_of_a_boot_is_told_by_the_strongest_sign() {
    let why = || "somebody".to_owned();
    type Sign = fn(&Entry) -> io::Result<()>;
    let cases: &[(&[Sign], BootEnd)] = &[
        (&[], BootEnd::Cut),
        (&[|e| e.note_end(&end(How::Reboot))], BootEnd::Reboot(why())),
        (&[|e| e.note_end(&end(How::PowerOff))], BootEnd::PowerOff(why())),
        (&[|e| e.note_end(&end(How::GaveUp))], BootEnd::GaveUp(why())),
        (&[|e| e.note_hung(Some(Hung { since_ms: 3500 }))], BootEnd::Hang("PID 1 turned no more after 3 s".into())),
        (&[|e| e.note_hung(Some(Hung { since_ms: 1 })), |e| e.note_hung(None)], BootEnd::Cut),
        (
            &[|e| e.note_hung(Some(Hung { since_ms: 1 })), |e| e.note_panic(&panic())],
            BootEnd::Panic("kernel panic: why".into()),
        ),
        // It panicked on the way down.
        (&[|e| e.note_end(&end(How::Reboot)), |e| e.note_panic(&panic())], BootEnd::Panic("kernel panic: why".into())),
    ];
    for (signs, expect) in cases {
        let (_dir, boots) = boots();
        let entry = boots.begin(about("b")).expect("begins");
        signs.iter().for_each(|sign| sign(&entry).expect("noted"));
        assert_eq!(boots.all()[0].end(), *expect);
    }
}

#[test]
fn the_last_boots_are_kept_in_order_and_what_cannot_be_read_is_none() {
    let (_dir, boots) = boots();
    assert_eq!(boots.all(), []);
    for boot in 0..20 {
        boots.begin(about(&boot.to_string())).expect("begins");
    }
    let kept: Vec<_> = boots.all().into_iter().map(|e| (e.number, e.about.boot)).collect();
    assert_eq!((kept.len(), &kept[0], &kept[15]), (KEPT, &(5, "4".to_owned()), &(20, "19".to_owned())));
    fs::write(boots.all()[3].dir().join("about"), "{").expect("written");
    fs::create_dir(boots.0.join("lost+found")).expect("made");
    assert_eq!(boots.all().len(), KEPT - 1);
    assert_eq!(boots.begin(about("next")).expect("begins").number, 21);
}

#[test]
fn a_report_has_what_its_end_needs() {
    let (_dir, boots) = boots();
    let mut entry = boots.begin(about("b")).expect("begins");
    let mut ring = ring::Ring::begin(entry.dir(), ring::SIZES).expect("begins");
    let line = |n: usize| format!("{n:>6}.000 noded: {}\n", "x".repeat(80));
    ring.write(&(0..2000).map(line).collect::<String>()).expect("writes");
    let running = entry.report(true);
    assert_eq!((running.end, running.lasted_s, running.log.len()), (BootEnd::Running, 1999, 0));
    let cut = entry.report(false);
    assert!(cut.log.len() > boot::LOG_MAX - 200 && cut.log.len() <= boot::LOG_MAX, "{}", cut.log.len());
    entry.note_end(&end(How::Reboot)).expect("noted");
    entry.began(9).expect("noted");
    let calm = entry.report(false);
    assert!(calm.log.len() <= boot::CALM_LOG_MAX && calm.log.ends_with(&line(1999)));
    assert_eq!((calm.lasted_s, calm.began_ms, calm.version.as_str()), (12, 9, "1.0"));
    fs::remove_file(entry.dir().join("end")).expect("removed");
    entry.note_panic(&panic()).expect("noted");
    let panicked = boots.all()[0].report(false);
    assert_eq!((panicked.lasted_s, panicked.panic), (11, panic().text));
}

#[test]
fn a_boot_is_told_once() {
    let (_dir, boots) = boots();
    let entry = boots.begin(about("b")).expect("begins");
    assert!(!entry.is_told());
    entry.note_told().expect("noted");
    assert!(boots.all()[0].is_told());
}
