//! FAT volumes against `fsck.fat` and mtools where installed, and against damage.

use std::io::Cursor;
use std::process::Command;

use super::{FatReader, FatVolume};
use proptest::prelude::*;

const ESP: u64 = 300 << 20;
const SEED: u64 = 16 << 20;

fn sample(bytes: u64) -> FatVolume {
    let mut volume = FatVolume::new("ROOST-TEST", 0x1234_abcd, bytes).unwrap();
    volume.file("EFI/BOOT/BOOTX64.EFI", vec![7; 100_001]).unwrap();
    volume.file("EFI/Linux/node_2026.11.21+3-0.efi", vec![9; 4096]).unwrap();
    volume.file("efi/linux/another long name.efi", "x").unwrap();
    volume.file("loader/loader.conf", "timeout 0\n").unwrap();
    volume.file("empty", "").unwrap();
    for n in 0..200 {
        volume.file(&format!("many/a file with number {n}.txt"), format!("{n}")).unwrap();
    }
    volume
}

fn written(volume: &FatVolume, bytes: u64) -> Vec<u8> {
    let mut out = Cursor::new(vec![0; bytes as usize]);
    volume.write(&mut out).unwrap();
    assert_eq!(out.position(), bytes);
    out.into_inner()
}

#[track_caller]
fn check(bytes: u64) {
    let image = written(&sample(bytes), bytes);
    let mut reader = FatReader::new(Cursor::new(&image)).unwrap();
    assert_eq!(reader.label(), "ROOST-TEST");
    assert_eq!(reader.files().unwrap().len(), 205);
    assert_eq!(reader.read_path("EFI/BOOT/BOOTX64.EFI").unwrap(), vec![7; 100_001]);
    assert_eq!(reader.read_path("EFI/Linux/another long name.efi").unwrap(), b"x");
    assert_eq!(reader.read_path("many/a file with number 137.txt").unwrap(), b"137");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("volume");
    std::fs::write(&file, &image).unwrap();
    if let Ok(output) = Command::new("/usr/sbin/fsck.fat").args(["-n", "-v"]).arg(&file).output() {
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(!text.contains("irty") && !text.contains("differ"), "{text}");
    }
    if let Ok(output) = Command::new("mtype").arg("-i").arg(&file).arg("::/loader/loader.conf").output() {
        assert_eq!(output.stdout, b"timeout 0\n", "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn fat32_is_read_by_others_and_fsck_finds_nothing() {
    check(ESP);
}

#[test]
fn fat16_is_read_by_others_and_fsck_finds_nothing() {
    check(SEED);
    check(4 << 20);
    check(255 << 20);
}

#[test]
fn what_does_not_fit_is_refused_with_numbers() {
    let mut volume = FatVolume::new("X", 1, 4 << 20).unwrap();
    volume.file("large", vec![1; 5 << 20]).unwrap();
    let error = volume.write(&mut Cursor::new(Vec::new())).unwrap_err().to_string();
    assert!(error.starts_with("The files need 5242880 bytes and the FAT volume X has room for"), "{error}");
    for bytes in [0, 1 << 20, (16 << 20) + 1, 4 << 40] {
        assert!(FatVolume::new("X", 1, bytes).is_err(), "{bytes}");
    }
    for name in ["a/../b", "", "a:b", "a.", "Large", "large/x"] {
        assert!(volume.file(name, "").is_err(), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_damage_makes_the_reader_fail_badly(at in 0usize..60_000, bytes in prop::collection::vec(any::<u8>(), 1..40), cut in 0usize..400_000) {
        let mut volume = FatVolume::new("X", 1, 4 << 20).unwrap();
        volume.file("a/b/c.long-name", vec![3; 9000]).unwrap();
        let mut image = written(&volume, 4 << 20);
        image[at..at + bytes.len()].copy_from_slice(&bytes);
        for image in [&image[..], &image[..cut]] {
            if let Ok(mut reader) = FatReader::new(Cursor::new(image)) {
                for file in reader.files().unwrap_or_default() {
                    let _may_be_damaged = reader.read(&file);
                }
            }
        }
    }
}
