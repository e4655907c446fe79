//! Sets as another minisign signs them, and every way in which one may be wrong.

use std::io::Cursor;

use minisign::KeyPair;
use proptest::prelude::*;

use super::*;
use crate::verity;

const EPOCH: u64 = 1_790_000_000;
const NOW: u64 = EPOCH + 1000;

struct Made {
    uki: Vec<u8>,
    root: Vec<u8>,
    manifest: Manifest,
    contents: Contents,
}

/// A set of small parts, always the same.
fn made() -> Made {
    let uki: Vec<u8> = (0..70_001u32).map(|at| (at / 3) as u8).collect();
    let data: Vec<u8> = (0..300_000u32 / 4096 * 4096).map(|at| (at.wrapping_mul(at) >> 11) as u8).collect();
    let len = data.len() as u64;
    let mut root = Cursor::new(data);
    let verity = verity::append(&mut root, len, &[7; 32]).expect("a tree");
    let root = root.into_inner();
    let contents = measure(&uki[..], &root[..]).expect("measured");
    let about = About {
        name: "node".into(),
        version: "1.2".into(),
        level: "dev".into(),
        epoch: EPOCH,
        expires: Some(EPOCH + 86_400),
        verity: verity.to_string(),
        kernel: "6.12-test".into(),
        keys: None,
        cluster: None,
    };
    let manifest = about.manifest(&contents);
    Made { uki, root, manifest, contents }
}

impl Made {
    fn file(&self, signatures: &[String]) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        write(&mut out, &self.manifest, signatures, &self.contents, &self.uki[..], &self.root[..]).expect("written");
        out.into_inner()
    }

    fn signed(&self, keys: &[&KeyPair]) -> Vec<u8> {
        let bytes = self.manifest.to_json().expect("JSON");
        self.file(&keys.iter().map(|key| signature(key, &bytes)).collect::<Vec<_>>())
    }
}

fn key() -> KeyPair {
    KeyPair::generate_unencrypted_keypair().expect("a key")
}

fn signature(key: &KeyPair, bytes: &[u8]) -> String {
    let made = minisign::sign(None, &key.sk, bytes, Some("timestamp:1\tfile:x"), Some("a comment"));
    made.expect("signed").into_string()
}

fn keys(threshold: usize, keys: &[&KeyPair]) -> Keys {
    Keys { threshold, keys: keys.iter().map(|key| key.pk.to_base64()).collect() }
}

fn verified(file: &[u8], trusted: &Keys, expect: &Expect<'_>) -> Result<Verified, SetError> {
    Set::open(file)?.verify(trusted, expect)
}

#[track_caller]
fn refused(result: Result<Verified, SetError>, expect: &str) {
    let error = result.expect_err("refused").to_string();
    assert!(error.contains(expect), "{error}");
}

#[test]
fn the_layout_is_the_documented_one() {
    let made = made();
    let file = made.file(&[]);
    assert_eq!(&file[..16], b"ROOSTSET\x01\0\0\0\0\0\0\0");
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("eight"));
    let table: Vec<(u64, u64)> = (0..5).map(|n| (word(16 + n * 16), word(24 + n * 16))).collect();
    let manifest = made.manifest.to_json().expect("JSON");
    let count = made.contents.chunks.count;
    let expect = [(4096, manifest.len() as u64), (8192, 0), (24576, count * 36), (28672, 70_001), (102_400, 303_104)];
    assert_eq!(table, expect);
    assert!(file[96..4096].iter().all(|byte| *byte == 0));
    assert_eq!(file[4096..][..manifest.len()], manifest);
    assert_eq!(file[28672..][..70_001], made.uki);
    assert_eq!(file[102_400..], made.root);
    let golden = concat!(
        r#"{"format":1,"name":"node","version":"1.2","arch":"x86_64","level":"dev","epoch":1790000000,"expires":1790086400,"#,
        r#""verity":"VERITY","kernel":"6.12-test","uki":{"bytes":70001,"sha256":"UKI"},"root":{"bytes":303104,"sha256":"ROOT"},"#,
        r#""chunks":{"bytes":TABLE,"sha256":"CHUNKS","count":COUNT},"state_format":{"oldest":1,"newest":1}}"#,
    );
    let golden = golden.replace("VERITY", &made.manifest.verity).replace("UKI", &made.contents.uki.sha256);
    let golden = golden.replace("ROOT", &made.contents.root.sha256).replace("CHUNKS", &made.contents.chunks.sha256);
    let golden = golden.replace("TABLE", &(count * 36).to_string()).replace("COUNT", &count.to_string());
    assert_eq!(String::from_utf8(manifest).expect("text"), golden);
}

#[test]
fn patches_lie_behind_the_root_and_are_found_by_the_root_they_are_for() {
    let (mut made, key) = (made(), key());
    made.contents.patch(&[1; 32], b"one".to_vec());
    made.contents.patch(&[2; 32], b"the other".to_vec());
    made.manifest.patches = made.contents.patches().collect();
    let file = made.signed(&[&key]);
    let set = verified(&file, &keys(1, &[&key]), &Expect::new("node", NOW)).expect("verified");
    let (patch, range) = set.patch(&[2; 32]).expect("there is one");
    assert_eq!((range.start, range.end), (102_400 + 303_104 + 3, file.len() as u64));
    assert_eq!(set.header.file_len(), file.len() as u64);
    let range = usize::try_from(range.start).expect("small")..file.len();
    patch.check(&file[range.clone()]).expect("what was signed");
    assert!(patch.check(&file[range.start + 1..]).expect_err("another").to_string().contains("patch"));
    assert!(set.patch(&[3; 32]).is_none());
    let all: Vec<_> = Set::open(&file[..]).expect("a set").patches().map(|(patch, _)| patch.bytes).collect();
    assert_eq!(all, [3, 9]);

    made.manifest.patches[1].bytes += 1;
    refused(verified(&made.signed(&[&key]), &keys(1, &[&key]), &Expect::new("node", NOW)), "13, as the manifest says");
}

#[test]
fn a_signed_set_is_taken_and_its_parts_are_held_against_it() {
    let (made, key) = (made(), key());
    let file = made.signed(&[&key]);
    let head = &file[..usize::try_from(HEAD_MAX).expect("small").min(file.len())];
    let verified = verified(head, &keys(1, &[&key]), &Expect::new("node", NOW)).expect("verified");
    assert_eq!(verified.signed_by.len(), 1);
    let range = |section| {
        let range = verified.header.range(section);
        &file[usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small")]
    };
    let (uki, root) = verified.chunks(range(Section::Chunks)).expect("chunks");
    assert_eq!((uki.len() + root.len()) as u64, verified.manifest.chunks.count);
    verified.check_uki(range(Section::Uki)).expect("the UKI");
    verified.check_root(range(Section::Root)).expect("the root");
    assert_eq!(verified.header.file_len(), file.len() as u64);

    let error = verified.check_root(&range(Section::Root)[1..]).expect_err("cut").to_string();
    assert!(error.contains("and 303103 bytes, and the signed manifest says SHA-256"), "{error}");
    let mut table = range(Section::Chunks).to_vec();
    table[3] ^= 1;
    let error = verified.chunks(&table).expect_err("altered").to_string();
    assert!(error.starts_with("The chunk table has SHA-256"), "{error}");
}

#[test]
fn who_signed_decides() {
    let (made, one, two, other) = (made(), key(), key(), key());
    let expect = Expect::new("node", NOW);
    refused(verified(&made.file(&[]), &keys(1, &[&one]), &expect), "is not signed; expected 1 of the keys");
    refused(verified(&made.signed(&[&other]), &keys(1, &[&one]), &expect), "which is not trusted here; expected 1 of");
    let both = keys(2, &[&one, &two]);
    refused(verified(&made.signed(&[&one]), &both, &expect), "is signed by 1 of the trusted keys");
    // The same key twice is one key, in the set as in the list.
    refused(verified(&made.signed(&[&one, &one]), &both, &expect), "is signed by 1 of the trusted keys");
    refused(verified(&made.signed(&[&one]), &keys(2, &[&one, &one]), &expect), "threshold 2 with 1 different keys");
    refused(verified(&made.signed(&[&one]), &keys(0, &[&one]), &expect), "threshold 0");
    verified(&made.signed(&[&other, &two, &one]), &both, &expect).expect("enough, and one more");

    let mut altered = made.signed(&[&one]);
    let at = 4096 + altered[4096..].windows(5).position(|w| w == b"\"dev\"").expect("the level");
    altered[at + 1] = b'D';
    refused(verified(&altered, &keys(1, &[&one]), &expect), "is not the one that key");
    refused(verified(&made.file(&["nonsense\n".into()]), &keys(1, &[&one]), &expect), "Signature 1 of the update set");
    let garbled = Keys { threshold: 1, keys: vec!["RWnothing".into()] };
    refused(verified(&made.file(&[]), &garbled, &expect), "Update key \"RWnothing\" cannot be used");
}

#[test]
fn what_it_is_decides() {
    let key = key();
    let trusted = keys(1, &[&key]);
    let file = made().signed(&[&key]);
    let expect = Expect::new("node", NOW);
    let with = |change: &dyn Fn(&mut Expect<'_>)| {
        let mut expect = expect;
        change(&mut expect);
        verified(&file, &trusted, &expect)
    };
    with(&|_| {}).expect("as it is");
    with(&|e| e.floor = Some("1.2")).expect("the floor itself");
    refused(with(&|e| e.floor = Some("1.10")), "has version 1.2, older than 1.10");
    refused(with(&|e| e.name = "node-metal"), "is of image \"node\", expected \"node-metal\"");
    refused(with(&|e| e.arch = "aarch64"), "is for architecture x86_64, expected aarch64");
    refused(with(&|e| e.state_format = 2), "reads STATE formats 1 to 1, and this node's is 2");
    let late = "expired on 2026-09-22T14:13:20Z, and it is 2100-01-01T00:00:00Z";
    refused(with(&|e| e.now = 4_102_444_800), late);
    refused(with(&|e| e.now = EPOCH + 86_400), "expired on");
    refused(with(&|e| e.now = 0), "The clock says 1970-01-01T00:00:00Z, before the update set was made (2026-09-21");
    refused(with(&|e| e.now = u64::MAX), "expired on");
}

#[test]
fn a_node_keeps_to_its_cluster_and_an_image_for_one_to_its_own_kind() {
    let key = key();
    let (ours, theirs) = ("ab".repeat(32), "cd".repeat(32));
    let check = |set: Option<&String>, pinned: bool| {
        let mut made = made();
        made.manifest.cluster = set.cloned();
        let expect = Expect { cluster: Some(&ours), pinned, ..Expect::new("node", NOW) };
        verified(&made.signed(&[&key]), &keys(1, &[&key]), &expect)
    };
    check(None, false).expect("for any, on a node of any");
    check(Some(&ours), false).expect("for ours, on a node of any: from now on it is for ours alone");
    check(Some(&ours), true).expect("for ours, on one of ours");
    for pinned in [false, true] {
        refused(check(Some(&theirs), pinned), "for the nodes of cluster cdcdcdcd");
    }
    refused(check(None, true), "is for any cluster, and the image that runs is for abababab");
    refused(check(Some(&"AB".repeat(32)), false), "has cluster \"ABAB");
}

#[track_caller]
fn damaged(change: impl FnOnce(&mut Vec<u8>), expect: &str) {
    let mut file = made().file(&[]);
    change(&mut file);
    let error = Set::open(&file[..]).expect_err("refused");
    let text = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
    let text: Vec<String> = text.map(ToString::to_string).collect();
    assert!(text.join(": ").contains(expect), "{text:?}");
}

#[test]
fn a_damaged_beginning_says_what_was_found() {
    damaged(|file| file[0] = b'r', "it begins with \"rOOSTSET\"");
    damaged(|file| file[8] = 2, "has layout 2, and this version knows 1");
    damaged(|file| file.truncate(100), "Cannot read the header of the update set");
    damaged(|file| file.truncate(4500), "Cannot read the manifest of the update set");
    damaged(|file| file[17] = 0x11, "Section manifest of the update set has offset 4352, expected a multiple of 4096");
    damaged(|file| file[26] = 1, "Section manifest of the update set has 66160 bytes, expected at most 65536");
    damaged(|file| file[42] = 1, "Section signatures of the update set has 65536 bytes, expected at most 16384");
    damaged(
        |file| file[72] ^= 1,
        "Section UKI of the update set has 70000 bytes, expected 70001, as the manifest says",
    );
    damaged(|file| file[4096 + 10] = b'9', "has manifest format 9, and this version knows 1");
    damaged(|file| file[4096] = b'[', "cannot be understood");
    damaged(
        |file| {
            let at = file.windows(6).position(|w| w == b"\"node\"").expect("the name");
            file[at + 1] = b'/';
        },
        "name and version \"/ode_1.2\"",
    );
}

#[test]
fn a_signature_is_added_in_place_and_another_of_the_same_key_replaces_it() {
    let (made, one, two) = (made(), key(), key());
    let bytes = made.manifest.to_json().expect("JSON");
    let mut file = Cursor::new(made.file(&[]));
    for (key, count) in [(&one, 1), (&two, 2), (&one, 2)] {
        sign(&mut file, &signature(key, &bytes)).expect("signed");
        file.set_position(0);
        assert_eq!(Set::open(&mut file).expect("a set").signatures.len(), count);
    }
    let file = file.into_inner();
    assert_eq!(file[24576..], made.file(&[])[24576..]);
    verified(&file, &keys(2, &[&one, &two]), &Expect::new("node", NOW)).expect("both");
}

#[test]
fn the_list_of_keys_reads_back() {
    let trusted = keys(1, &[&key(), &key()]);
    assert_eq!(Keys::from_json(&trusted.to_json().expect("JSON")).expect("keys"), trusted);
    assert!(Keys { threshold: 3, ..trusted }.to_json().is_err());
}

proptest! {
    #[test]
    fn no_beginning_makes_it_panic(at in 0usize..30_000, byte: u8, cut in 0usize..30_000) {
        let mut file = made().file(&[]);
        file[at] = byte;
        let _ = Set::open(&file[..]);
        let _ = Set::open(&file[..cut]);
    }
}
