use std::io::Cursor;

use image::{Entry, Tree};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::lock::{Archive, Package};
use crate::report::Style;

/// A node of a few files, with a stub made of the test's own: enough for every step but booting.
pub(crate) fn node() -> Node {
    let mut root = Tree::new();
    root.insert_with_parents("etc/os-release", Entry::file(0o644, "IMAGE_ID=tiny\nVERSION_ID=1\n")).unwrap();
    root.insert_with_parents("usr/bin/tool", Entry::file(0o755, noise(300_000)).from_origin("tool")).unwrap();
    root.insert_with_parents("usr/lib/made", Entry::file(0o644, "made").from_origin("(recipe)")).unwrap();
    let mut initrd = Tree::new();
    initrd.insert("init", Entry::file(0o755, vec![2; 50_000])).unwrap();
    initrd.insert("driver.ko", Entry::file(0o644, "driver").from_origin("linux")).unwrap();
    let mut kernel = vec![0; 1 << 16];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    let mut boot = Tree::new();
    boot.insert("loader.efi", Entry::file(0o644, "MZ loader").from_origin("loader")).unwrap();
    Node {
        boot,
        root,
        initrd,
        kernel: kernel.into(),
        kernel_version: "6.12-test".into(),
        stub: stub().into(),
        loader: Content::from("MZ loader"),
        cmdline: "quiet panic=10".into(),
    }
}

/// Bytes that do not compress, the same in every run.
fn noise(len: u32) -> Vec<u8> {
    (0..len / 32).flat_map(|n| Sha256::digest(n.to_le_bytes())).collect()
}

/// The smallest PE file that the stub's parser takes: one section, room for more.
pub(crate) fn stub() -> Vec<u8> {
    let mut pe = vec![0; 0x800];
    pe[..2].copy_from_slice(b"MZ");
    pe[0x3c] = 0x80;
    pe[0x80..0x84].copy_from_slice(b"PE\0\0");
    let mut put = |at: usize, bytes: &[u8]| pe[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x84, &0x8664u16.to_le_bytes());
    put(0x86, &1u16.to_le_bytes());
    put(0x94, &0xf0u16.to_le_bytes());
    put(0x98, &0x20bu16.to_le_bytes());
    put(0x98 + 32, &0x1000u32.to_le_bytes());
    put(0x98 + 36, &0x200u32.to_le_bytes());
    put(0x98 + 56, &0x2000u32.to_le_bytes());
    put(0x98 + 60, &0x600u32.to_le_bytes());
    put(0x98 + 108, &16u32.to_le_bytes());
    put(0x188, b".text");
    put(0x188 + 8, &[0x100u32, 0x1000, 0x200, 0x600].map(u32::to_le_bytes).concat());
    pe
}

pub(crate) struct Bench {
    folder: tempfile::TempDir,
    sizes: Sizes,
    lock: Lock,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let sizes = Sizes { esp_mib: 8, seed_mib: 4, slot_mib: 4, ..Sizes::default() };
        let package = |name: &str, digit| Package {
            name: name.into(),
            version: "1.0-1".into(),
            arch: "amd64".into(),
            archive: Archive::Debian,
            path: format!("pool/{name}.deb"),
            size: 1,
            sha256: model::Digest([digit; 32]),
        };
        let packages = vec![package("linux", 3), package("loader", 2), package("tool", 1)];
        Self { folder: tempfile::tempdir().unwrap(), sizes, lock: Lock::new(1_700_000_000, &[], packages) }
    }

    pub(crate) fn assemble(&self, node: &Node, out: &str) -> Result<Assembled> {
        self.assemble_version(node, out, "1.2")
    }

    pub(crate) fn assemble_version(&self, node: &Node, out: &str, version: &str) -> Result<Assembled> {
        self.assemble_for(node, out, version, None, &[])
    }

    pub(crate) fn assemble_for(
        &self,
        node: &Node,
        out: &str,
        version: &str,
        cluster: Option<Digest>,
        bases: &[Base],
    ) -> Result<Assembled> {
        let parts = Parts {
            name: "tiny",
            version,
            level: Level::Dev,
            node,
            sizes: &self.sizes,
            lock: &self.lock,
            keys: None,
            expires: None,
            cluster,
            bases,
        };
        let cache = Cache::at(&self.folder.path().join(format!("cache-{out}")));
        assemble(&parts, &cache, &self.folder.path().join(out), &Report::new(Style::Silent))
    }
}

#[test]
fn two_builds_give_the_same_bytes_and_the_disk_holds_what_the_manifest_says() {
    let bench = Bench::new();
    let first = bench.assemble(&node(), "a").unwrap();
    let second = bench.assemble(&node(), "b").unwrap();
    assert_eq!(first.manifest, second.manifest);
    assert_eq!(std::fs::read(&first.raw).unwrap(), std::fs::read(&second.raw).unwrap());
    let again = bench.assemble(&node(), "a").unwrap();
    assert_eq!(first.manifest, again.manifest, "with a warm cache");

    let mut disk = Cursor::new(std::fs::read(&first.raw).unwrap());
    let table = image::gpt::Table::read(&mut disk).unwrap();
    let root = table.find(image::gpt::ROOT_A).unwrap();
    let boot = first.manifest.boot.unwrap();
    assert_eq!(root.guid.to_string(), boot.root_partuuid);
    let verity: Verity = boot.verity.parse().unwrap();
    disk.set_position(root.start);
    image::verity::verify(&mut disk, &verity).unwrap();
    disk.set_position(table.find(image::gpt::ESP).unwrap().start);
    let mut esp = image::fat::FatReader::new(disk).unwrap();
    let efi = esp.read_path("EFI/Linux/tiny_1.2.efi").unwrap();
    assert_eq!(efi, std::fs::read(first.raw.with_extension("efi")).unwrap());
    assert_eq!(uki::section(&efi, ".cmdline").unwrap(), boot.cmdline.as_bytes());
}

#[test]
fn an_image_for_one_cluster_differs_in_its_command_line_alone() {
    let bench = Bench::new();
    let any = bench.assemble(&node(), "any").unwrap();
    let cluster = model::Digest([0xc1; 32]);
    let one = bench.assemble_for(&node(), "one", "1.2", Some(cluster), &[]).unwrap();
    let again = bench.assemble_for(&node(), "again", "1.2", Some(cluster), &[]).unwrap();
    assert_eq!(std::fs::read(&one.raw).unwrap(), std::fs::read(&again.raw).unwrap());
    let differ: Vec<_> = any.manifest.artifacts.iter().filter(|(n, a)| one.manifest.artifacts[*n] != **a).collect();
    let names: Vec<_> = differ.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["tiny.cmdline", "tiny.efi", "tiny.raw", "tiny.set"]);

    let boot = one.manifest.boot.unwrap();
    assert_eq!(boot.cmdline, format!("quiet panic=10 roost.cluster={cluster} roost.verity={}", boot.verity));
    let efi = std::fs::read(one.raw.with_extension("efi")).unwrap();
    assert_eq!(uki::section(&efi, ".cmdline").unwrap(), boot.cmdline.as_bytes());
    let set = std::fs::read(one.raw.with_extension("set")).unwrap();
    let set = set::Set::open(&set[..]).unwrap();
    assert_eq!(set.manifest.cluster, Some(cluster.to_string()));
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Bench, &mut Node), expect: &str) {
    let (mut bench, mut node) = (Bench::new(), node());
    change(&mut bench, &mut node);
    let error = bench.assemble(&node, "out").unwrap_err();
    assert!(error.to_string().contains(expect), "{error}");
    assert_eq!(std::fs::read_dir(bench.folder.path().join("out")).into_iter().flatten().count(), 0);
}

#[test]
fn what_is_too_large_or_wrong_is_refused_with_numbers_and_nothing_is_written() {
    refused(|_, node| drop(node.root.insert("large", Entry::file(0o644, noise(9 << 20)))), "and a slot has 4194304");
    refused(
        |bench, node| {
            bench.sizes.root_budget_dev_mb = Some(1);
            drop(node.root.insert("big", Entry::file(0o644, noise(3 << 20)).from_origin("big")));
        },
        "more than sizes.root-budget-dev-mb allows (1000000). Largest: big 3.1 MB",
    );
    refused(|bench, _| bench.sizes.uki_budget_mb = Some(0), "more than sizes.uki-budget-mb allows (0)");
    refused(|_, node| node.cmdline = "roost.verity=x".into(), "which only the builder may");
    refused(|_, node| node.cmdline = "roost.cluster=x".into(), "roost.cluster= itself, which only the builder may");
    refused(|_, node| node.cmdline = "x\ny".into(), "line break");
    refused(|_, node| drop(node.initrd.remove("init")), "no file 'init'");
    refused(|_, node| node.kernel = "x".into(), "no x86 kernel image");
    refused(|_, node| node.stub = "x".into(), "no EFI program");
    refused(|_, node| drop(node.root.remove("etc/os-release")), "etc/os-release");
}
