use std::path::PathBuf;

use image::slot::{self, Identity, New};

use super::*;
use crate::assemble::tests::{Bench, node};

struct Built {
    bench: Bench,
    raw: PathBuf,
}

fn built() -> Built {
    let bench = Bench::new();
    let raw = bench.assemble(&node(), "out").unwrap().raw;
    Built { bench, raw }
}

impl Built {
    fn file(&self, suffix: &str) -> PathBuf {
        self.raw.with_file_name(format!("tiny.{suffix}"))
    }

    /// Changes an artifact, inspects it, and gives the whole chain of the error.
    fn changed(&self, suffix: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
        let file = self.file(suffix);
        let mut bytes = std::fs::read(&file).unwrap();
        change(&mut bytes);
        std::fs::write(&file, bytes).unwrap();
        format!("{:#}", anyhow::Error::from(inspect(&file).unwrap_err()))
    }
}

#[track_caller]
fn check(suffix: &str, change: impl FnOnce(&mut Vec<u8>), expect: &str) {
    let error = built().changed(suffix, change);
    assert!(error.contains(expect), "{error}");
}

const ROOT_AT: usize = 13 << 20;

#[test]
fn a_fresh_build_passes_every_check() {
    let built = built();
    for (suffix, kind, checks) in [("raw", "disk image", 8), ("root.squashfs", "root image", 3), ("efi", "UKI", 4)] {
        let found = inspect(&built.file(suffix)).unwrap();
        assert_eq!((found.kind, found.checked.len(), found.unchecked.len()), (kind, checks, 0), "{found}");
        assert_eq!(found.packages[0].0, "tool");
    }
    let text = inspect(&built.raw).unwrap().to_string();
    assert!(text.contains("roost-root-a") && text.contains("EFI/Linux/tiny_1.2.efi"), "{text}");
    assert!(text.contains("tool 1.0-1") && text.contains("command line: quiet"), "{text}");
    assert!(text.contains("cluster: any\n"), "{text}");
    assert!(text.contains("executables: 1, no shell or interpreter among them\n  /usr/bin/tool\n"), "{text}");
}

#[test]
fn a_shell_is_told_of_loudly() {
    let (bench, mut node) = (Bench::new(), node());
    node.root.insert_with_parents("usr/bin/dash", image::Entry::file(0o755, "ELF")).unwrap();
    let raw = bench.assemble(&node, "out").unwrap().raw;
    let text = inspect(&raw).unwrap().to_string();
    assert!(text.contains("executables: 2, SHELLS OR INTERPRETERS AMONG THEM: /usr/bin/dash\n"), "{text}");
}

#[test]
fn the_one_cluster_of_an_image_is_shown() {
    let bench = Bench::new();
    let raw = bench.assemble_for(&node(), "out", "1.2", Some(model::Digest([0xc1; 32])), &[]).unwrap().raw;
    for suffix in ["raw", "efi"] {
        let text = inspect(&raw.with_extension(suffix)).unwrap().to_string();
        assert!(text.contains(&format!("cluster: {} alone\n", "c1".repeat(32))), "{text}");
    }
}

#[test]
fn a_disk_that_was_updated_shows_both_slots_and_checks_both_roots() {
    let built = built();
    let disk = || File::options().read(true).write(true).open(&built.raw).unwrap();
    let running = disk_identity(&mut disk());
    let mut later = node();
    let os_release = later.root.get_mut("etc/os-release").unwrap();
    os_release.kind = image::Entry::file(0o644, "IMAGE_ID=tiny\nVERSION_ID=1.3\n").kind;
    let newer = built.bench.assemble_version(&later, "newer", "1.3").unwrap();
    let (root, uki) = (newer.raw.with_extension("root.squashfs"), newer.raw.with_extension("efi"));
    let identity = Identity::read(File::open(&uki).unwrap()).unwrap();
    let new = New {
        name: "tiny".into(),
        version: "1.3".into(),
        architecture: identity.architecture,
        cluster: identity.cluster,
        root_bytes: identity.verity.total_bytes(),
        verity: identity.verity,
        uki_bytes: std::fs::metadata(&uki).unwrap().len(),
        uki_sha256: Sha256::digest(std::fs::read(&uki).unwrap()).into(),
    };
    let slots = Slots::read(&mut disk(), Some(&running.root)).unwrap();
    let plan = slot::install(&new, &slots, None).unwrap();
    let sources = slot::Sources { root: &mut File::open(root).unwrap(), uki: &mut File::open(uki).unwrap() };
    slot::apply(&plan, &mut disk(), sources, &mut |_| {}).unwrap();
    std::fs::remove_file(built.file("manifest.json")).unwrap();
    let found = inspect(&built.raw).unwrap();
    assert_eq!(found.slots, ["A: 1.2, good", "B: 1.3, on trial, 3 boots left"]);
    assert!(found.checked.iter().any(|what| what.contains("roost-root-b")), "{found}");
    let at = found.partitions[3].start + 4096;
    let error = built.changed("raw", |raw| raw[at as usize] ^= 1);
    assert!(error.contains("Partition roost-root-b") && error.contains("Data block 1 is altered"), "{error}");
}

/// Identity of the root in slot A.
fn disk_identity(disk: &mut File) -> Verity {
    Slots::read(disk, None).unwrap().a.held().unwrap().identity.verity.clone()
}

#[test]
fn without_a_manifest_the_root_hash_still_vouches_for_the_root() {
    let built = built();
    std::fs::remove_file(built.file("manifest.json")).unwrap();
    let found = inspect(&built.raw).unwrap();
    assert!(found.checked.iter().any(|what| what.contains("against the root hash")), "{found}");
    assert_eq!(found.unchecked.len(), 2, "{found}");
    let error = built.changed("raw", |raw| raw[ROOT_AT + 100] ^= 1);
    assert!(error.contains("Partition roost-root-a") && error.contains("Data block 0 is altered"), "{error}");
    drop(built.bench);
}

#[test]
fn an_altered_disk_image_names_the_part() {
    check("raw", |raw| raw[512 + 60] ^= 1, "The first partition table is damaged");
    check("raw", |raw| raw[1024 + 20] ^= 1, "The first partition table is damaged");
    check(
        "raw",
        |raw| raw[ROOT_AT + 4096] ^= 1,
        "Partition roost-root-a is damaged or cut off: Data block 1 is altered",
    );
    check("raw", |raw| raw[(1 << 20) + 11] ^= 1, "Partition roost-esp is damaged");
    check("raw", |raw| raw[(9 << 20) + 510] ^= 1, "Partition roost-seed is damaged");
    check("raw", |raw| raw[(9 << 20) - 10] = 1, "The file, outside of all that was checked above");
}

#[test]
fn a_cut_image_says_how_much_is_missing() {
    check("raw", |raw| raw.truncate(20 << 20), "it is cut off");
    check(
        "root.squashfs",
        |root| root.truncate(root.len() - 4096),
        "The root image is not what it was built as: its length is",
    );
    check("efi", |efi| efi.truncate(efi.len() - 1000), "Section .linux of the UKI is cut off");
}

#[test]
fn an_altered_section_of_the_uki_is_named() {
    let built = built();
    let efi = std::fs::read(built.file("efi")).unwrap();
    let at = |needle: &[u8]| efi.windows(needle.len()).position(|window| window == needle).unwrap();
    let (kernel, cmdline) = (at(b"HdrS"), at(b"quiet"));
    let error = built.changed("efi", |efi| efi[kernel] ^= 1);
    assert!(error.starts_with("Section .linux of the UKI is not what it was built as"), "{error}");
    let error = built.changed("efi", |efi| efi[cmdline] = b'Q');
    assert!(error.starts_with("The UKI's command line is not what it was built as"), "{error}");
}

#[test]
fn something_else_is_refused() {
    check(
        "efi",
        |efi| *efi = b"hello, world".to_vec(),
        "is no disk image, root image or UKI: it begins with 68656c6c6f2c2077",
    );
    check("raw", Vec::clear, "it begins with");
    let error = inspect(Path::new("/nonexistent/x.raw")).unwrap_err();
    assert_eq!(error.to_string(), "Cannot open /nonexistent/x.raw");
}
