use super::{home::numbered, *};
use std::{fs, os::unix::fs::PermissionsExt, path::Path, thread};
use vma_proto::{Text, files::UploadId};

const ID: UploadId = [0xab; 16];

/// One request on a connection of its own: the frames and raw bytes that came back.
fn ask(home: &Path, request: &ToFiles, body: &[u8]) -> Vec<u8> {
    let (mut ours, theirs) = UnixStream::pair().expect("pair");
    let home = Home::open(home).expect("home");
    let server = thread::spawn(move || serve(theirs, &home));
    let mut buffer = [0; MAX_FRAME];
    ours.write_all(vma_proto::encode(request, &mut buffer).expect("encodes")).expect("sent");
    // A refusal may close before it has read the body.
    let _refused = ours.write_all(body).and_then(|()| ours.shutdown(std::net::Shutdown::Write));
    let mut answer = vec![];
    let _cut = ours.read_to_end(&mut answer);
    server.join().expect("no panic").expect("served");
    answer
}

/// Takes the first frame off.
fn frame(answer: &mut Vec<u8>) -> FromFiles {
    let (used, frame) = Decoder::default().push(answer);
    answer.drain(..used);
    frame.expect("a frame").expect("a good one")
}

fn text<const N: usize>(text: &str) -> heapless::String<N> {
    text.try_into().expect("short")
}

fn put(name: &str, offset: u64, total: u64) -> ToFiles {
    ToFiles::Put { id: ID, folder: text(""), name: text(name), offset, total }
}

#[track_caller]
fn refused(home: &Path, request: &ToFiles, expect: Why) {
    let answer = frame(&mut ask(home, request, b""));
    let FromFiles::Refused { why, reason } = answer else { panic!("not refused: {answer:?}") };
    let _: Text = reason;
    assert_eq!(why, expect);
}

#[test]
fn a_folder_is_told_without_hidden_names_links_and_pipes() {
    let home = tempfile::tempdir().expect("home");
    fs::create_dir(home.path().join("Documents")).expect("folder");
    fs::write(home.path().join("a.txt"), "12345").expect("file");
    fs::write(home.path().join(".secret"), "").expect("file");
    std::os::unix::fs::symlink("a.txt", home.path().join("link")).expect("link");
    let mut answer = ask(home.path(), &ToFiles::List { folder: text("") }, b"");
    let mut found = vec![];
    loop {
        match frame(&mut answer) {
            FromFiles::Entry { name, folder, size, .. } => found.push((name.to_string(), folder, size)),
            end => break assert_eq!(end, FromFiles::End { more: false }),
        }
    }
    found.sort();
    assert_eq!(found, [("Documents".into(), true, 0), ("a.txt".into(), false, 5)]);
}

#[test]
fn a_file_is_given_from_any_byte_on() {
    let home = tempfile::tempdir().expect("home");
    fs::write(home.path().join("a"), "0123456789").expect("file");
    let mut answer = ask(home.path(), &ToFiles::Get { file: text("a"), offset: 7 }, b"");
    assert!(matches!(frame(&mut answer), FromFiles::Ready { offset: 7, size: 10, modified: 1.. }));
    assert_eq!(answer, b"789");
    refused(home.path(), &ToFiles::Get { file: text("a"), offset: 11 }, Why::Offset);
}

#[test]
fn nothing_leads_out_of_the_home_and_only_regular_files_are_given() {
    let home = tempfile::tempdir().expect("home");
    std::os::unix::fs::symlink("/etc", home.path().join("out")).expect("link");
    std::os::unix::fs::symlink("../../etc", home.path().join("up")).expect("link");
    nix::unistd::mkfifo(&home.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("pipe");
    let get = |path: &str| ToFiles::Get { file: text(path), offset: 0 };
    refused(home.path(), &get("out/passwd"), Why::Forbidden);
    refused(home.path(), &get("up/passwd"), Why::Forbidden);
    refused(home.path(), &get("../x"), Why::BadName);
    refused(home.path(), &get("/etc/passwd"), Why::BadName);
    refused(home.path(), &get(""), Why::BadName);
    refused(home.path(), &get("missing"), Why::NotFound);
    refused(home.path(), &get("pipe"), Why::Forbidden);
    refused(home.path(), &ToFiles::List { folder: text("out") }, Why::Forbidden);
    refused(home.path(), &put("a/b", 0, 0), Why::BadName);
}

#[test]
fn an_upload_that_is_cut_off_goes_on_and_gets_its_name_when_whole() {
    let home = tempfile::tempdir().expect("home");
    let mut answer = ask(home.path(), &put("report.pdf", 0, 10), b"01234");
    assert_eq!(frame(&mut answer), FromFiles::Ready { offset: 0, size: 0, modified: 0 });
    assert!(answer.is_empty() && !home.path().join("report.pdf").exists());
    let kept = frame(&mut ask(home.path(), &ToFiles::Have { id: ID }, b""));
    assert_eq!(kept, FromFiles::Ready { offset: 5, size: 0, modified: 0 });
    refused(home.path(), &put("report.pdf", 6, 10), Why::Offset);
    let mut answer = ask(home.path(), &put("report.pdf", 5, 10), b"56789");
    assert_eq!(frame(&mut answer), FromFiles::Ready { offset: 5, size: 0, modified: 0 });
    assert_eq!(frame(&mut answer), FromFiles::Done { name: text("report.pdf"), size: 10 });
    assert_eq!(fs::read(home.path().join("report.pdf")).expect("there"), b"0123456789");
}

#[test]
fn an_upload_whose_last_answer_was_lost_is_told_again_and_not_made_again() {
    let home = tempfile::tempdir().expect("home");
    fs::write(home.path().join("a.txt"), "old").expect("file");
    ask(home.path(), &put("a.txt", 0, 3), b"new");
    let done = FromFiles::Done { name: text("a (2).txt"), size: 3 };
    for again in [ToFiles::Have { id: ID }, put("a.txt", 0, 3), put("a.txt", 3, 3)] {
        assert_eq!(frame(&mut ask(home.path(), &again, b"")), done);
    }
    assert!(!home.path().join("a (3).txt").exists());
    // Another file that the user brings is another upload.
    let other = ToFiles::Put { id: [7; 16], folder: text(""), name: text("a.txt"), offset: 0, total: 3 };
    let mut answer = ask(home.path(), &other, b"too");
    frame(&mut answer);
    assert_eq!(frame(&mut answer), FromFiles::Done { name: text("a (3).txt"), size: 3 });
}

#[test]
fn an_upload_that_has_its_name_is_never_cut_whatever_was_left_of_it() {
    let home = tempfile::tempdir().expect("home");
    ask(home.path(), &put("a.txt", 0, 3), b"new");
    // As one that was killed leaves it, first with its note and then without.
    let uploads = home.path().join(".cache/roost-uploads");
    let left = uploads.join("ab".repeat(16));
    fs::hard_link(home.path().join("a.txt"), &left).expect("linked");
    assert!(matches!(frame(&mut ask(home.path(), &put("a.txt", 0, 3), b"")), FromFiles::Done { .. }));
    assert!(!left.exists());
    fs::hard_link(home.path().join("a.txt"), &left).expect("linked");
    fs::remove_file(uploads.join(format!("{}.done", "ab".repeat(16)))).expect("removed");
    refused(home.path(), &put("a.txt", 0, 3), Why::Busy);
    assert!(!left.exists(), "the next try begins anew");
    assert_eq!(fs::read(home.path().join("a.txt")).expect("there"), b"new");
}

#[test]
fn an_upload_that_nobody_went_on_with_for_a_day_makes_room_for_the_next() {
    let home = tempfile::tempdir().expect("home");
    ask(home.path(), &put("old.bin", 0, 10), b"01234");
    let uploads = home.path().join(".cache/roost-uploads");
    let old = fs::read_dir(&uploads).expect("there").next().expect("one").expect("read").path();
    let back = |hours: u64| {
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3600);
        fs::File::options().write(true).open(&old).expect("opens").set_modified(time).expect("set");
    };
    let other = ToFiles::Put { id: [7; 16], folder: text(""), name: text("new.bin"), offset: 0, total: 3 };
    back(23);
    ask(home.path(), &other, b"1");
    assert!(old.exists(), "it may still go on");
    back(25);
    ask(home.path(), &other, b"1");
    assert!(!old.exists() && uploads.join("07".repeat(16)).exists());
}

#[test]
fn a_name_that_is_taken_is_not_overwritten() {
    let home = tempfile::tempdir().expect("home");
    fs::write(home.path().join("a.txt"), "old").expect("file");
    let mut answer = ask(home.path(), &put("a.txt", 0, 3), b"new");
    frame(&mut answer);
    assert_eq!(frame(&mut answer), FromFiles::Done { name: text("a (2).txt"), size: 3 });
    assert_eq!(fs::read(home.path().join("a.txt")).expect("there"), b"old");
    let mode = fs::metadata(home.path().join("a (2).txt")).expect("there").permissions().mode();
    assert_ne!(mode & 0o200, 0);
}

#[test]
fn an_upload_larger_than_the_disk_is_refused_before_it_begins() {
    let home = tempfile::tempdir().expect("home");
    refused(home.path(), &put("a", 0, u64::MAX), Why::NoRoom);
    refused(home.path(), &put("a", 2, 1), Why::Offset);
}

#[test]
fn a_free_name_keeps_its_ending_and_fits() {
    assert_eq!(numbered("a.txt", 1), "a.txt");
    assert_eq!(numbered("a.txt", 2), "a (2).txt");
    assert_eq!(numbered(".profile", 2), ".profile (2)");
    assert_eq!(numbered("a", 12), "a (12)");
    let long = numbered(&"é".repeat(127), 2);
    assert!(long.len() <= 255 && long.ends_with(" (2)"), "{long}");
}
