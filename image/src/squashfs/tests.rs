//! The squashfs writer against two independent readers: the `backhand` library, and `unsquashfs` where installed.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::Path;
use std::process::Command;

use super::{Attrs, Kept, Options, Special, SquashfsError, Writer, index, write_tree, write_tree_after};
use crate::{Entry, Kind, Tree};
use backhand::{FilesystemReader, InnerNode};
use proptest::prelude::*;

const SMALL: Options = Options { block_size: 4096, level: 3, threads: 2, mtime: 1_700_000_000, pack_tails: false };

fn packed(tree: &Tree, options: Options) -> Vec<u8> {
    write_tree(Cursor::new(Vec::new()), tree, options).unwrap().0.into_inner()
}

/// Bytes that do not compress, the same in every run.
fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        })
        .collect()
}

/// All that a reader sees of an image: path to kind, mode, owner, time and contents.
type Seen = BTreeMap<String, (String, u16, u32, u32, u32, Vec<u8>)>;

fn read_back(bytes: Vec<u8>) -> Seen {
    let reader = FilesystemReader::from_reader(Cursor::new(bytes)).unwrap();
    let mut seen = Seen::new();
    for node in reader.files() {
        let (kind, data) = match &node.inner {
            InnerNode::Dir(_) => ("dir".to_owned(), Vec::new()),
            InnerNode::File(file) => {
                let mut data = Vec::new();
                reader.file(file).reader().read_to_end(&mut data).unwrap();
                ("file".to_owned(), data)
            }
            InnerNode::Symlink(link) => ("link".to_owned(), link.link.to_str().unwrap().as_bytes().to_vec()),
            InnerNode::CharacterDevice(dev) => (format!("char {}", dev.device_number), Vec::new()),
            InnerNode::BlockDevice(dev) => (format!("block {}", dev.device_number), Vec::new()),
            InnerNode::NamedPipe => ("fifo".to_owned(), Vec::new()),
            InnerNode::Socket => ("socket".to_owned(), Vec::new()),
        };
        let head = node.header;
        let path = node.fullpath.to_str().unwrap().trim_start_matches('/').to_owned();
        seen.insert(path, (kind, head.permissions, head.uid, head.gid, head.mtime, data));
    }
    seen
}

fn expected(tree: &Tree) -> Seen {
    tree.walk()
        .map(|(path, entry)| {
            let (kind, data) = match &entry.kind {
                Kind::Dir => ("dir".to_owned(), Vec::new()),
                Kind::File(content) => ("file".to_owned(), content.read().unwrap().to_vec()),
                Kind::Symlink(target) => ("link".to_owned(), target.clone().into_bytes()),
                Kind::CharDev { major, minor } => (format!("char {}", major << 8 | minor), Vec::new()),
                Kind::BlockDev { major, minor } => (format!("block {}", major << 8 | minor), Vec::new()),
                Kind::Fifo => ("fifo".to_owned(), Vec::new()),
                Kind::Socket => ("socket".to_owned(), Vec::new()),
            };
            (path.to_owned(), (kind, entry.mode, entry.uid, entry.gid, entry.mtime as u32, data))
        })
        .collect()
}

#[track_caller]
fn check(tree: &Tree, options: Options) {
    assert_eq!(read_back(packed(tree, options)), expected(tree));
}

/// One of everything, with each shape of contents: empty, tail, whole blocks, zeros, noise, equal ones.
fn everything() -> Tree {
    let mut tree = Tree::new();
    tree.mkdir_p("usr/bin").unwrap();
    let mut add = |path: &str, entry: Entry| tree.insert(path, entry.modified(1_600_000_000)).unwrap();
    add("empty", Entry::file(0o644, ""));
    add("small", Entry::file(0o600, "hello").owned_by(1000, 1001));
    add("usr/bin/su", Entry::file(0o4755, noise(10_000, 7)));
    add("usr/bin/exact", Entry::file(0o755, noise(8192, 9)));
    add("zeros", Entry::file(0o644, vec![0; 20_000]));
    add("holes", Entry::file(0o644, [vec![0; 8192], noise(5000, 3), vec![0; 4096]].concat()));
    add("same-as-su", Entry::file(0o644, noise(10_000, 7)));
    add("text", Entry::file(0o644, "all work and no play ".repeat(2000)));
    add("lib", Entry::symlink("usr/lib"));
    add("tmp", Entry::dir(0o1777));
    add("null", Entry::char_dev(0o666, 1, 3));
    add("disk", Entry { kind: Kind::BlockDev { major: 8, minor: 17 }, ..Entry::dir(0o660).owned_by(0, 6) });
    add("pipe", Entry { kind: Kind::Fifo, ..Entry::dir(0o600) });
    add("sock", Entry { kind: Kind::Socket, ..Entry::dir(0o600) });
    tree
}

#[test]
fn every_kind_of_entry_reads_back() {
    check(&everything(), SMALL);
    check(&everything(), Options { pack_tails: true, ..SMALL });
    check(&everything(), Options { block_size: 1 << 20, ..SMALL });
    check(&Tree::new(), SMALL);
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let mut tree = everything();
    for n in 0..300 {
        tree.insert(&format!("f{n}"), Entry::file(0o644, noise(n * 97, n as u32))).unwrap();
    }
    let one = packed(&tree, Options { threads: 1, ..SMALL });
    assert!(one.len().is_multiple_of(4096));
    let info = super::info(&one).unwrap();
    assert_eq!((info.used.next_multiple_of(4096), info.block_size, info.mtime), (one.len() as u64, 4096, SMALL.mtime));
    assert_eq!(info.inodes as usize, tree.len());
    for threads in [2, 3, 16] {
        assert!(packed(&tree, Options { threads, ..SMALL }) == one, "{threads} threads");
    }
}

#[test]
fn a_directory_of_many_names_reads_back() {
    let mut tree = Tree::new();
    for n in 0..20_000 {
        tree.insert(&format!("a-name-of-some-length-{n:08}"), Entry::file(0o644, format!("{}", n % 7))).unwrap();
    }
    let mut deep = String::new();
    for _ in 0..300 {
        deep.push_str("d/");
    }
    tree.mkdir_p(&deep).unwrap();
    check(&tree, SMALL);
}

#[test]
fn equal_files_are_stored_once() {
    let mut tree = Tree::new();
    for n in 0..50 {
        tree.insert(&format!("{n}"), Entry::file(0o644, noise(100_000, 1))).unwrap();
    }
    assert!(packed(&tree, SMALL).len() < 120_000);
}

#[test]
fn a_stream_in_any_order_may_replace_and_link() {
    let attrs = Attrs { mode: 0o644, ..Attrs::default() };
    let mut writer = Writer::new(Cursor::new(Vec::new()), SMALL).unwrap();
    writer.file("a/b/late", &attrs, &b"one"[..]).unwrap();
    writer.file("a/b/late", &attrs, &b"two"[..]).unwrap();
    writer.hard_link("other/name", "a/b/late").unwrap();
    writer.dir("./a/", &Attrs { mode: 0o711, uid: 5, ..Attrs::default() }).unwrap();
    writer.special("a/dev", &attrs, Special::CharDev(1, 5)).unwrap();
    let (out, summary) = writer.finish().unwrap();
    assert_eq!(summary.inodes, 6);
    let seen = read_back(out.into_inner());
    assert_eq!(seen["a/b/late"].5, b"two");
    assert_eq!(seen["other/name"].5, b"two");
    assert_eq!((seen["a"].1, seen["a"].2), (0o711, 5));
}

#[test]
fn what_cannot_be_stored_is_refused_by_name() {
    let attrs = Attrs::default();
    let mut writer = Writer::new(Cursor::new(Vec::new()), SMALL).unwrap();
    assert!(matches!(writer.dir("a/../b", &attrs), Err(SquashfsError::BadPath { .. })));
    writer.symlink("link", &attrs, "x").unwrap();
    assert!(matches!(writer.dir("link/x", &attrs), Err(SquashfsError::NotADirectory { .. })));
    writer.dir("full/x", &attrs).unwrap();
    assert!(matches!(writer.symlink("full", &attrs, "x"), Err(SquashfsError::BadPath { .. })));
    assert!(matches!(writer.hard_link("x", "absent"), Err(SquashfsError::BadLink { .. })));
    let acl = BTreeMap::from([("system.posix_acl_access".to_owned(), vec![2])]);
    let error = writer.dir("acl", &Attrs { xattrs: acl, ..attrs }).unwrap_err();
    assert!(error.to_string().contains("system.posix_acl_access of acl"), "{error}");
    let options = Options { block_size: 5000, ..SMALL };
    assert!(matches!(Writer::new(Cursor::new(Vec::new()), options), Err(SquashfsError::Option { .. })));
}

#[test]
fn unsquashfs_reads_contents_and_attributes() {
    if Command::new("unsquashfs").arg("-v").output().is_err() {
        return;
    }
    let mut tree = everything();
    for device in ["null", "disk"] {
        tree.remove(device).unwrap();
    }
    for n in 0..5000 {
        let entry = Entry::file(0o644, "x").with_xattr("user.number", n.to_string()).with_xattr("user.same", "s");
        tree.insert(&format!("usr/x{n}"), entry).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let (file, root) = (dir.path().join("i.squashfs"), dir.path().join("root"));
    std::fs::write(&file, packed(&tree, SMALL)).unwrap();
    let output = Command::new("unsquashfs").arg("-no-progress").arg("-d").args([&root, &file]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains("rror"), "{text}");
    for (path, entry) in tree.walk() {
        let found = root.join(path);
        if let Some(content) = entry.content() {
            assert_eq!(std::fs::read(&found).unwrap(), *content.read().unwrap(), "{path}");
        }
    }
    assert_eq!(xattr(&root.join("usr/x4321"), "user.number"), xattr_expected("4321"));
}

/// By `getfattr`, where it is installed and the file system has attributes.
fn xattr(path: &Path, name: &str) -> Option<String> {
    let output = Command::new("getfattr").args(["--only-values", "-n", name]).arg(path).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

fn xattr_expected(value: &str) -> Option<String> {
    let probe = tempfile::NamedTempFile::new().unwrap();
    let set = Command::new("setfattr").args(["-n", "user.number", "-v", value]).arg(probe.path()).status();
    set.ok()?.success().then(|| value.to_owned())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_tree_reads_back(files in prop::collection::vec(("[a-c]{1,2}(/[a-c]{1,2}){0,3}", 0usize..30_000, 0u32..4, any::<u16>()), 0..30), tails: bool) {
        let mut tree = Tree::new();
        for (path, len, seed, mode) in files {
            let bytes = if seed == 0 { vec![0; len] } else { noise(len, seed) };
            // A name that is a file already, or a directory, is refused by the tree; the rest goes on.
            let _refused = tree.insert_with_parents(&path, Entry::file(mode & 0o7777, bytes).owned_by(u32::from(mode), seed));
        }
        check(&tree, Options { pack_tails: tails, ..SMALL });
    }
}

#[test]
fn an_image_is_the_same_with_what_an_earlier_one_has_compressed_and_with_any_damage_to_it() {
    let text = |n: u32| format!("{n} is a line that compresses well. ").repeat(600);
    let mut tree = Tree::new();
    for n in 0..20 {
        tree.insert(&format!("f{n}"), Entry::file(0o644, text(n))).unwrap();
    }
    tree.insert("noise", Entry::file(0o644, noise(50_000, 7))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (image, blocks) = (folder.path().join("image"), folder.path().join("blocks"));
    let (bytes, summary) = write_tree_after(Cursor::new(Vec::new()), &tree, SMALL, Some(Kept::default())).unwrap();
    assert!(bytes.get_ref() == &packed(&tree, SMALL));
    assert!(summary.blocks.len() > 50, "{}", summary.blocks.len());
    std::fs::write(&image, bytes.get_ref()).unwrap();
    std::fs::write(&blocks, index(&summary.blocks)).unwrap();

    tree.insert("changed", Entry::file(0o644, text(99))).unwrap();
    let afresh = packed(&tree, SMALL);
    let after = |image: &Path, blocks: &Path| {
        let kept = Kept::open(image, blocks).unwrap();
        write_tree_after(Cursor::new(Vec::new()), &tree, SMALL, Some(kept)).unwrap().0.into_inner()
    };
    assert!(after(&image, &blocks) == afresh);

    // Blocks that lie elsewhere, are cut off, or hold anything.
    let whole = std::fs::read(&blocks).unwrap();
    std::fs::write(&blocks, whole[4..].repeat(2)).unwrap();
    assert!(after(&image, &blocks) == afresh);
    std::fs::write(&blocks, whole).unwrap();
    let mut damaged = std::fs::read(&image).unwrap();
    damaged.iter_mut().skip(100).step_by(50).for_each(|byte| *byte ^= 1);
    damaged.truncate(damaged.len() / 2);
    std::fs::write(&image, damaged).unwrap();
    assert!(after(&image, &blocks) == afresh);
}
