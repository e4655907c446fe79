//! Secure Boot with our own keys: what they signed boots to Ready, what was touched afterwards is not started.
//!
//! That a byte of the root is never taken for what was built is `flipped_bytes.rs`: the root hash is on the command
//! line, which is refused here.

use anyhow::{Context, Result, ensure};
use builder::lab::{Boot, Disk, Lab, Machine, Store};
use builder::programs;
use builder::sign::{Keyring, SignWith, keys};
use qemu_tests::artifact;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// From power-on to Ready, or to a refusal.
const LIMIT: Duration = Duration::from_secs(180);
const READY: &str = "Ready after";
/// What the firmware and the boot loader say of what they do not start.
const REFUSED: [&str; 3] = ["Access Denied", "Access denied", "Security Violation"];
const LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
const UKI: &str = "EFI/Linux/node_0.1.0.efi";

#[test]
fn a_signed_node_boots_and_neither_a_touched_command_line_nor_a_touched_loader_does() -> Result<()> {
    let bench = Bench::new("secure-boot")?;
    let mut node = bench.boot("signed", |_| Ok(()))?;
    let line = node.console().wait_for_any(&[&REFUSED[..], &[READY, "CANNOT START"]].concat(), LIMIT)?;
    ensure!(line.contains(READY), "what we signed was not started: {line}");
    drop(node);
    bench.refused("cmdline", |disk| Ok(disk.flip(disk.esp_file(UKI)?.section(".cmdline")?)?))?;
    bench.refused("loader", |disk| {
        let loader = disk.esp_file(LOADER)?;
        Ok(disk.flip(loader.at + loader.bytes.len() as u64 / 2)?)
    })
}

#[test]
#[ignore = "four more boots: runs in the full suite"]
fn no_other_touched_or_foreign_program_is_started() -> Result<()> {
    let bench = Bench::new("secure-boot-full")?;
    for (name, section) in [("kernel", ".linux"), ("initrd", ".initrd")] {
        bench.refused(name, |disk| Ok(disk.flip(disk.esp_file(UKI)?.section(section)?)?))?;
    }
    let other = keyring(&bench.lab, "others")?;
    bench.refused("foreign", |disk| {
        let uki = disk.esp_file(UKI)?;
        let signed = other.sign_again("the UKI", &uki.bytes)?;
        ensure!(signed.len() == uki.bytes.len(), "another signature has another length");
        Ok(disk.write(uki.at, &signed)?)
    })?;
    bench.refused("unsigned", |disk| {
        let uki = disk.esp_file(UKI)?;
        let plain = image::authenticode::strip(&uki.bytes)?;
        Ok(disk.write(uki.at, &plain[..4096])?)
    })
}

/// A store, and an image that keys of its own signed.
struct Bench {
    lab: Lab,
    store: Store,
    keys: PathBuf,
    image: PathBuf,
}

impl Bench {
    fn new(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let store = lab.store()?;
        let keys = lab.path("keys");
        keys::make(&keys, [2026, 1, 1, 0, 0, 0])?;
        let image = build(&lab, &keys)?;
        Ok(Self { lab, store, keys, image })
    }

    /// Boots a machine of this name after something was done to its disk.
    fn boot(&self, name: &str, tamper: impl FnOnce(&Disk) -> Result<()>) -> Result<Machine> {
        tamper(&self.lab.disk(name, &self.image)?).with_context(|| format!("cannot tamper with {name}"))?;
        let boot = Boot::new(&self.image).name(name).secure_boot(&self.keys).seed(self.store.seed(name)?);
        Ok(self.lab.boot(boot)?)
    }

    fn refused(&self, name: &str, tamper: impl FnOnce(&Disk) -> Result<()>) -> Result<()> {
        let mut node = self.boot(name, tamper)?;
        let line = node.console().wait_for_any(&[&REFUSED[..], &[READY, "CANNOT START"]].concat(), LIMIT)?;
        ensure!(REFUSED.iter().any(|words| line.contains(words)), "{name} was started: {line}");
        println!("{name}: {}", line.trim());
        Ok(())
    }
}

fn keyring(lab: &Lab, name: &str) -> Result<Keyring> {
    let folder = lab.path(name);
    keys::make(&folder, [2026, 1, 1, 0, 0, 0])?;
    Ok(Keyring::open(&SignWith { keys: folder, signer: None, threshold: 1, public: false })?)
}

/// The node's image, signed, and with a serial console: with Secure Boot on, nobody can add one from outside.
fn build(lab: &Lab, keys: &Path) -> Result<PathBuf> {
    let recipes = programs::source_tree().join("image/recipes");
    let text = std::fs::read_to_string(recipes.join("node.toml")).context("Cannot read the recipe")?;
    let with_console = text.replace("cmdline = \"quiet", "cmdline = \"console=ttyS0 quiet");
    ensure!(with_console != text, "the recipe's command line does not begin with 'quiet'");
    let recipe = lab.path("node.toml");
    std::fs::write(&recipe, with_console).context("Cannot write the recipe")?;
    std::fs::copy(recipes.join("node.lock"), lab.path("node.lock")).context("Cannot copy the lock")?;
    let more = ["--version", "0.1.0", "--keys", &keys.to_string_lossy()];
    Ok(artifact(&qemu_tests::build(lab, &recipe.to_string_lossy(), &more)?, "raw"))
}
