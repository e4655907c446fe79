//! Secure Boot with our own keys: what they signed boots to Ready, what was touched afterwards is not started.
//!
//! That a byte of the root is never taken for what was built is `flipped_bytes.rs`: the root hash is on the command
//! line, which is refused here.

use anyhow::{Result, ensure};
use builder::lab::{Disk, Lab};
use builder::sign::{Keyring, SignWith, keys};
use qemu_tests::Signed;
use std::time::Duration;

/// From power-on to Ready, or to a refusal.
const LIMIT: Duration = Duration::from_secs(180);
const READY: &str = "Ready after";
/// What the firmware and the boot loader say of what they do not start.
const REFUSED: [&str; 3] = ["Access Denied", "Access denied", "Security Violation"];
const LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
const UKI: &str = "EFI/Linux/node_0.1.0.efi";

#[test]
fn a_signed_node_boots_and_neither_a_touched_command_line_nor_a_touched_loader_does() -> Result<()> {
    let bench = Signed::new("secure-boot")?;
    let mut node = bench.lab.boot(bench.machine("signed", |_| Ok(()))?)?;
    let line = node.console().wait_for_any(&[&REFUSED[..], &[READY, "CANNOT START"]].concat(), LIMIT)?;
    ensure!(line.contains(READY), "what we signed was not started: {line}");
    drop(node);
    refused(&bench, "cmdline", |disk| Ok(disk.flip(disk.esp_file(UKI)?.section(".cmdline")?)?))?;
    refused(&bench, "loader", |disk| {
        let loader = disk.esp_file(LOADER)?;
        Ok(disk.flip(loader.at + loader.bytes.len() as u64 / 2)?)
    })
}

#[test]
#[ignore = "four more boots: runs in the full suite"]
fn no_other_touched_or_foreign_program_is_started() -> Result<()> {
    let bench = Signed::new("secure-boot-full")?;
    for (name, section) in [("kernel", ".linux"), ("initrd", ".initrd")] {
        refused(&bench, name, |disk| Ok(disk.flip(disk.esp_file(UKI)?.section(section)?)?))?;
    }
    let other = keyring(&bench.lab, "others")?;
    refused(&bench, "foreign", |disk| {
        let uki = disk.esp_file(UKI)?;
        let signed = other.sign_again("the UKI", &uki.bytes)?;
        ensure!(signed.len() == uki.bytes.len(), "another signature has another length");
        Ok(disk.write(uki.at, &signed)?)
    })?;
    refused(&bench, "unsigned", |disk| {
        let uki = disk.esp_file(UKI)?;
        let plain = image::authenticode::strip(&uki.bytes)?;
        Ok(disk.write(uki.at, &plain[..4096])?)
    })
}

fn refused(bench: &Signed, name: &str, tamper: impl FnOnce(&Disk) -> Result<()>) -> Result<()> {
    let mut node = bench.lab.boot(bench.machine(name, tamper)?)?;
    let line = node.console().wait_for_any(&[&REFUSED[..], &[READY, "CANNOT START"]].concat(), LIMIT)?;
    ensure!(REFUSED.iter().any(|words| line.contains(words)), "{name} was started: {line}");
    println!("{name}: {}", line.trim());
    Ok(())
}

fn keyring(lab: &Lab, name: &str) -> Result<Keyring> {
    let folder = lab.path(name);
    keys::make(&folder, [2026, 1, 1, 0, 0, 0])?;
    Ok(Keyring::open(&SignWith { keys: folder, signer: None, threshold: 1, public: false })?)
}
