//! Uploads and imports through the admin API, hostile ones among them.

use super::{World, http::Admin};
use crate::import::{Converted, ImportError, Progress, convert};
use http::{Method, StatusCode};
use model::api::{Added, DiRow, Done, Import, ImportState, Upload};
use proptest::prelude::*;
use serde_json::json;
use std::{io::Write, path::Path, process::Command, sync::Arc};
use tar::{Builder, EntryType, Header};

fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header
}

/// A name that `tar` itself would refuse to write.
fn raw_name(header: &mut Header, name: &[u8]) {
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_cksum();
}

fn file(builder: &mut Builder<Vec<u8>>, name: &str, contents: &[u8]) {
    let mut header = header(EntryType::Regular, contents.len() as u64, 0o755);
    builder.append_data(&mut header, name, contents).expect("appended");
}

fn link(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, target: &str) {
    let mut header = header(kind, 0, 0o777);
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    raw_name(&mut header, name.as_bytes());
    builder.append(&header, &[][..]).expect("appended");
}

fn root() -> Builder<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    builder.append_data(&mut header(EntryType::Directory, 0, 0o755), "./", &[][..]).expect("appended");
    file(&mut builder, "sbin/init", b"#!");
    builder
}

fn desktop() -> Vec<u8> {
    desktop_with(&[
        ("SCHILY.xattr.security.capability", b"\x01\0\0\x02cap"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
    ])
}

fn desktop_with(attributes: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = root();
    link(&mut builder, EntryType::Symlink, "bin", "usr/bin");
    link(&mut builder, EntryType::Link, "sbin/again", "./sbin/init");
    builder.append_pax_extensions(attributes.iter().copied()).expect("appended");
    file(&mut builder, "usr/bin/ping", &vec![7; 300_000]);
    let mut device = header(EntryType::Char, 0, 0o666);
    device.set_device_major(1).expect("set");
    device.set_device_minor(3).expect("set");
    raw_name(&mut device, b"dev/null");
    builder.append(&device, &[][..]).expect("appended");
    builder.into_inner().expect("a tar")
}

#[test]
fn attributes_are_kept_but_for_those_that_overlayfs_believes() {
    let digest = |attributes: &[(&str, &[u8])]| import(&desktop_with(attributes)).1.expect("converted").digest;
    let capability = ("SCHILY.xattr.security.capability", &b"\x01\0\0\x02cap"[..]);
    let kept = digest(&[capability]);
    assert_ne!(kept, digest(&[]));
    for dropped in ["trusted.overlay.opaque", "user.overlay.redirect", "system.posix_acl_access"] {
        assert_eq!(digest(&[capability, (&format!("SCHILY.xattr.{dropped}"), b"y")]), kept, "{dropped}");
    }
}

fn import(bytes: &[u8]) -> (tempfile::TempDir, Result<Converted, ImportError>) {
    let dir = tempfile::tempdir().expect("a folder");
    let (upload, image) = (dir.path().join("upload"), dir.path().join("image"));
    std::fs::write(&upload, bytes).expect("written");
    let converted = convert(&upload, &image, None, &Arc::new(Progress::default()));
    (dir, converted)
}

fn listing(image: &Path) -> String {
    let out = Command::new("unsquashfs").args(["-lls", "-n"]).arg(image).output().expect("unsquashfs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

#[track_caller]
fn mksquashfs(tree: &Path, image: &Path, packing: &str) {
    let options = ["-comp", packing, "-quiet", "-no-progress", "-all-root"];
    let made = Command::new("mksquashfs").arg(tree).arg(image).args(options).output().expect("mksquashfs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[track_caller]
fn refused(builder: Builder<Vec<u8>>, saying: &str) {
    let (_dir, converted) = import(&builder.into_inner().expect("a tar"));
    let error = converted.expect_err("refused").to_string();
    assert!(error.contains(saying), "{error}");
}

#[test]
fn every_packing_of_a_tar_gives_the_same_image() {
    let tar = desktop();
    let gzip = {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(&tar).expect("packed");
        packer.finish().expect("packed")
    };
    let xz = {
        let mut packer =
            lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).expect("a packer");
        packer.write_all(&tar).expect("packed");
        packer.finish().expect("packed")
    };
    let zst = zstd::encode_all(&tar[..], 1).expect("packed");
    let (dir, plain) = import(&tar);
    let plain = plain.expect("converted");
    assert_eq!((plain.dropped_devices, plain.entries), (1, 5));
    for packed in [gzip, xz, zst] {
        assert_eq!(import(&packed).1.expect("converted"), plain);
        let (_dir, cut) = import(&packed[..packed.len() - 9]);
        assert!(matches!(cut, Err(ImportError::Archive { .. } | ImportError::Write(_))), "{cut:?}");
    }
    let (_dir, cut) = import(&tar[..tar.len() / 2]);
    assert!(matches!(cut, Err(ImportError::Archive { .. } | ImportError::Write(_))), "{cut:?}");
    // Its own output is an input as well, attributes included.
    let image = std::fs::read(dir.path().join("image")).expect("there");
    let again = import(&image).1.expect("converted");
    assert_eq!((again.digest, again.bytes), (plain.digest, plain.bytes));
}

#[test]
fn what_unsquashfs_sees_is_what_was_packed() {
    let (dir, converted) = import(&desktop());
    converted.expect("converted");
    let list = listing(&dir.path().join("image"));
    assert!(list.contains("squashfs-root/bin -> usr/bin"), "{list}");
    assert!(
        list.lines()
            .any(|l| l.starts_with("-rwxr-xr-x root/root") && l.contains("300000") && l.ends_with("usr/bin/ping")),
        "{list}"
    );
    assert!(!list.contains("dev/null"), "{list}");
}

#[test]
fn a_squashfs_of_others_is_read_whatever_its_packing() {
    let dir = tempfile::tempdir().expect("a folder");
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("sbin")).expect("made");
    std::fs::write(tree.join("sbin/init"), "#!/bin/true").expect("written");
    std::fs::write(tree.join("big"), (0..700_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>()).expect("written");
    std::fs::File::create(tree.join("sparse")).and_then(|f| f.set_len(5_000_000)).expect("made");
    std::fs::hard_link(tree.join("sbin/init"), tree.join("again")).expect("linked");
    std::os::unix::fs::symlink("/etc/x", tree.join("abs")).expect("linked");
    for n in 0..600 {
        std::fs::write(tree.join(format!("sbin/file-with-a-longer-name-{n}")), format!("{n}")).expect("written");
    }
    let mut digests = Vec::new();
    for packing in ["gzip", "xz", "zstd"] {
        let image = dir.path().join(packing);
        mksquashfs(&tree, &image, packing);
        let (_dir, converted) = import(&std::fs::read(&image).expect("there"));
        digests.push(converted.expect("converted").digest);
        let bytes = std::fs::read(&image).expect("there");
        let (_dir, cut) = import(&bytes[..bytes.len() / 2]);
        cut.expect_err("refused");
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "the same tree");
    let lz4 = dir.path().join("lz4");
    mksquashfs(&tree, &lz4, "lz4");
    let error = import(&std::fs::read(&lz4).expect("there")).1.expect_err("refused").to_string();
    assert!(error.contains("use gzip, xz or zstd"), "{error}");
}

#[test]
fn paths_and_links_that_leave_the_tree_are_refused_by_name() {
    for name in ["../evil", "a/../../evil", "/etc/evil"] {
        let mut builder = root();
        let mut bad = header(EntryType::Regular, 0, 0o644);
        raw_name(&mut bad, name.as_bytes());
        builder.append(&bad, &[][..]).expect("appended");
        refused(builder, &format!("{name:?} leaves the tree"));
    }
    for (kind, target, saying) in [
        (EntryType::Link, "../../etc/shadow", "is a hard link that leaves the tree"),
        (EntryType::Link, "/etc/shadow", "is a hard link that leaves the tree"),
        (EntryType::Link, "etc/none", "cannot be a hard link to etc/none"),
        (EntryType::Symlink, "../../../etc/shadow", "is a symbolic link that leaves the tree"),
    ] {
        let mut builder = root();
        link(&mut builder, kind, "x/evil", target);
        refused(builder, saying);
    }
    let mut through = root();
    link(&mut through, EntryType::Symlink, "out", "/tmp");
    file(&mut through, "out/evil", b"x");
    refused(through, "out/evil");
}

#[test]
fn what_no_guest_can_hold_is_refused() {
    let mut owner = root();
    let mut bad = header(EntryType::Regular, 0, 0o644);
    bad.set_uid(70_000);
    raw_name(&mut bad, b"x");
    owner.append(&bad, &[][..]).expect("appended");
    refused(owner, "belongs to uid 70000: expected at most 65535");
    let mut kind = root();
    let mut bad = header(EntryType::new(b'V'), 0, 0o644);
    raw_name(&mut bad, b"label");
    kind.append(&bad, &[][..]).expect("appended");
    refused(kind, "entry of unknown type 'V'");
    let mut name = root();
    let long = vec![b'a'; 9 << 20];
    let mut bad = header(EntryType::GNULongName, long.len() as u64, 0o644);
    raw_name(&mut bad, b"././@LongLink");
    name.append(&bad, &long[..]).expect("appended");
    file(&mut name, "x", b"");
    refused(name, "headers take more than 8 MiB");
    refused(Builder::new(Vec::new()), "it begins with 00");
    assert!(matches!(import(b"hello, this is no archive").1, Err(ImportError::Unknown(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damage_anywhere_gives_an_image_or_an_error(at in 0usize..4096, byte in any::<u8>(), squash in any::<bool>()) {
        let mut bytes = if squash {
            let (dir, converted) = import(&desktop());
            converted.expect("converted");
            std::fs::read(dir.path().join("image")).expect("there")
        } else {
            desktop()
        };
        let at = at % bytes.len();
        bytes[at] = byte;
        let _: Result<Converted, ImportError> = import(&bytes).1;
    }
}

async fn osf(admin: &Admin) {
    let _: Added = admin.post("/osfs", &json!({ "name": "desk" })).await;
}

async fn upload(admin: &Admin, bytes: &[u8]) -> Upload {
    let digest = crate::pki::sha256(bytes).to_string();
    let upload: Upload =
        admin.post("/uploads", &json!({ "name": "desk.tar", "bytes": bytes.len(), "sha256": digest })).await;
    let (first, rest) = bytes.split_at(bytes.len() / 3);
    let sent = admin.raw(Method::PUT, &format!("/uploads/{}?offset=0", upload.id), first.to_vec()).await;
    assert_eq!(sent.status(), StatusCode::OK);
    let sent = admin.raw(Method::PUT, &format!("/uploads/{}?offset={}", upload.id, first.len()), rest.to_vec()).await;
    assert_eq!(sent.status(), StatusCode::OK);
    admin.get(&format!("/uploads/{}", upload.id)).await
}

async fn wait(admin: &Admin, id: &str) -> Import {
    loop {
        let import: Import = admin.get(&format!("/imports/{id}")).await;
        if import.state != ImportState::Running {
            return import;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_upload_in_pieces_becomes_a_disk_image() {
    let world = World::start().await;
    let admin = Admin::new(world.qa());
    osf(&admin).await;
    let tar = desktop();
    let upload = upload(&admin, &tar).await;
    assert_eq!((upload.received, upload.bytes), (tar.len() as u64, tar.len() as u64));
    let _: Import = admin.post("/dis", &json!({ "upload": upload.id, "osf": "desk", "version": "v1" })).await;
    let import = wait(&admin, &upload.id).await;
    assert_eq!((import.error.as_deref(), import.dropped_devices, import.done_bytes), (None, 1, tar.len() as u64));
    let di = admin.get::<Vec<DiRow>>("/dis").await.remove(0);
    assert_eq!((di.path.as_str(), di.version.as_str()), ("1-desk.tar", "v1"));
    assert_eq!(di.tags, ["default", "head"]);
    let image = world.store().images.image(&di.digest);
    assert_eq!(std::fs::metadata(&image).expect("there").len(), di.bytes);
    assert!(world.store().images.uploads().expect("a folder").is_empty(), "nothing is left of the upload");
    let done: Done = admin.delete("/dis").await;
    assert_eq!(done.done, 1);
    assert!(!image.exists());
}

#[tokio::test]
async fn an_upload_goes_on_where_it_was_cut_off_even_after_a_restart() {
    let mut world = World::start().await;
    let admin = Admin::new(world.qa());
    let upload: Upload = admin.post("/uploads", &json!({ "name": "desk.tar", "bytes": 10 })).await;
    let path = format!("/uploads/{}", upload.id);
    // Announces ten bytes, sends four and is gone.
    let head = format!(
        "PUT /api/v1{path}?offset=0 HTTP/1.1\r\nhost: store\r\nauthorization: Bearer {}\r\ncontent-length: 10\r\n\r\nabcd",
        world.qa().token
    );
    let mut stream = admin.connect().await;
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.expect("sent");
    tokio::io::AsyncWriteExt::shutdown(&mut stream).await.expect("closed");
    drop(stream);
    while admin.get::<Upload>(&path).await.received != 4 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    world.restart().await;
    let admin = Admin::new(world.qa());
    assert_eq!(admin.get::<Upload>(&path).await.received, 4);
    let (status, error) = admin.refused(Method::PUT, &format!("{path}?offset=0"), "efghij").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(error.contains("continues at byte 4, not at 0"), "{error}");
    let (_, error) = admin.refused(Method::PUT, &format!("{path}?offset=4"), "efghijk").await;
    assert!(error.contains("More than the 10 bytes"), "{error}");
    let sent = admin.raw(Method::PUT, &format!("{path}?offset=4"), "efghij").await;
    assert_eq!(sent.status(), StatusCode::OK);
}

#[tokio::test]
async fn what_fails_publishes_nothing_and_says_why() {
    let world = World::start().await;
    let admin = Admin::new(world.qa());
    osf(&admin).await;
    let mut evil = root();
    link(&mut evil, EntryType::Link, "x", "../../etc/shadow");
    let bad = upload(&admin, &evil.into_inner().expect("a tar")).await;
    let _: Import = admin.post("/dis", &json!({ "upload": bad.id, "osf": "desk" })).await;
    let import = wait(&admin, &bad.id).await;
    assert_eq!(import.state, ImportState::Failed);
    let error = import.error.expect("a reason");
    assert!(error.starts_with("Cannot import desk.tar: \"x\" is a hard link that leaves the tree"), "{error}");
    let part: Upload = admin.post("/uploads", &json!({ "name": "a.tar", "bytes": 10 })).await;
    let order = |upload: &str, osf: &str| json!({ "upload": upload, "osf": osf }).to_string();
    let (status, error) = admin.refused(Method::POST, "/dis", &order(&part.id, "desk")).await;
    assert_eq!((status, error.contains("has 0 of 10 bytes")), (StatusCode::CONFLICT, true), "{error}");
    let (status, _) = admin.refused(Method::POST, "/dis", &order(&bad.id, "none")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = admin.refused(Method::POST, "/dis", &order("../store.db", "desk")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(admin.get::<Vec<DiRow>>("/dis").await, []);
    let images = world.dir.path().join("images");
    let published = std::fs::read_dir(images)
        .expect("a folder")
        .filter(|e| e.as_ref().is_ok_and(|e| e.path().extension().is_some_and(|x| x == "squashfs")));
    assert_eq!(published.count(), 0);
}

#[tokio::test]
async fn bytes_other_than_announced_are_noticed() {
    let world = World::start().await;
    let admin = Admin::new(world.qa());
    osf(&admin).await;
    let tar = desktop();
    let other = crate::pki::sha256(b"other").to_string();
    let upload: Upload = admin.post("/uploads", &json!({ "name": "d.tar", "bytes": tar.len(), "sha256": other })).await;
    admin.raw(Method::PUT, &format!("/uploads/{}", upload.id), tar).await;
    let _: Import = admin.post("/dis", &json!({ "upload": upload.id, "osf": "desk" })).await;
    let error = wait(&admin, &upload.id).await.error.expect("a reason");
    assert!(error.contains("was announced: upload it again"), "{error}");
}
