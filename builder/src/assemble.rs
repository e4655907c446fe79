//! From trees to what boots: root image, initrd, UKI, disk image and manifest.
//!
//! ```text
//! root tree -> squashfs + verity --root hash--> command line -> UKI -> disk image
//! initrd tree -> cpio (zstd) ------------------------------------^
//! ```
//! All artifacts lie in one folder, `NAME.root.squashfs`, `NAME.efi`, `NAME.vmlinuz`, `NAME.initrd`,
//! `NAME.cmdline`, `NAME.raw`, `NAME.set`, two SBOMs and `NAME.manifest.json`, and appear whole, by rename. The root, the only
//! slow step, is kept in the cache under the digest of its inputs.

mod artifact;
mod error;
mod root;

use std::fs::File;
use std::path::{Path, PathBuf};

use image::disk::Disk;
use image::manifest::{self, Boot, Manifest};
use image::verity::Verity;
use image::{Content, cpio, pin, set, uki};
use model::Digest;

use crate::cache::Cache;
use crate::lock::Lock;
use crate::patch::{self, Base};
use crate::programs::Level;
use crate::recipe::Sizes;
use crate::report::{Report, megabytes};
use crate::rootfs::Node;
use crate::sbom;
use crate::sign::Keyring;
use artifact::Artifacts;
pub(crate) use artifact::whole;
pub use error::AssembleError;
use root::Root;

type Result<T> = std::result::Result<T, AssembleError>;

/// The kernel's limit, its final zero included.
const CMDLINE_MAX: usize = 2047;
const MIB: u64 = 1 << 20;
const MB: u64 = 1_000_000;

/// Zstd levels of root and initrd.
fn compression(level: Level) -> i32 {
    match level {
        Level::Dev => 6,
        // 19 makes the root 2 % smaller and takes four times as long.
        Level::Release => 15,
    }
}

/// What an image is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Name of the recipe, and of the artifacts.
    pub name: &'a str,
    /// Version of the image: letters, digits and `. ~ ^ -`.
    pub version: &'a str,
    /// How well to compress.
    pub level: Level,
    /// The trees, kernel and boot programs.
    pub node: &'a Node,
    /// Partitions and budgets.
    pub sizes: &'a Sizes,
    /// The packages, and the time that file systems show as their making.
    pub lock: &'a Lock,
    /// Keys that sign it.
    pub keys: Option<&'a Keyring>,
    /// When its update set expires, in seconds since 1970.
    pub expires: Option<u64>,
    /// Fingerprint of the CA of the one cluster that it is for.
    pub cluster: Option<Digest>,
    /// Earlier sets whose nodes are to fetch less of this one.
    pub bases: &'a [Base],
}

/// What was written.
#[derive(Debug)]
pub struct Assembled {
    /// The manifest, as written.
    pub manifest: Manifest,
    /// The disk image.
    pub raw: PathBuf,
    /// Bytes of root and tree.
    pub root_bytes: u64,
    /// Bytes of the UKI.
    pub uki_bytes: u64,
    /// Bytes of the disk image, holes included.
    pub disk_bytes: u64,
}

/// Makes all artifacts of a node image in `out`.
///
/// # Errors
/// When something is over its budget or its slot (with numbers), an input is not what it should be, or a
/// file cannot be written. Artifacts of an earlier build then stay as they were.
pub fn assemble(parts: &Parts<'_>, cache: &Cache, out: &Path, report: &Report) -> Result<Assembled> {
    parts.check()?;
    let artifacts = Artifacts::new(out, parts.name)?;
    let mut manifest =
        Manifest::of_root(parts.name, parts.version, parts.level.name(), &parts.node.root, &parts.lock.versions())?;
    manifest.initrd = manifest::files(&parts.node.initrd)?;

    let root = Root::make(parts, &manifest, cache, report)?;
    parts.check_root(&root, &manifest)?;
    let cmdline = parts.cmdline_with(&root.verity)?;
    manifest.boot = Some(Boot::new(&parts.node.kernel_version, &cmdline, &root.verity));

    let step = report.step("uki", None);
    let kernel = parts.node.kernel.read()?;
    let initrd = initrd(parts)?;
    let uki = parts.signed("the UKI", parts.uki(&kernel, &initrd, &cmdline)?)?;
    parts.check_uki(&uki, initrd.len(), kernel.len())?;
    step.end(&format!("{}, initrd {}", megabytes(uki.len() as u64), megabytes(initrd.len() as u64)));

    let patches = parts.patches(&root, report)?;

    let step = report.step("disk", None);
    let uki_bytes = uki.len() as u64;
    let disk = parts.disk(uki.clone(), root.verity.clone())?;
    // The disk image takes as long as all the others together.
    std::thread::scope(|scope| {
        let raw = scope.spawn(|| artifacts.disk("raw", &disk, &root.file));
        artifacts.bytes("vmlinuz", &kernel)?;
        artifacts.bytes("initrd", &initrd)?;
        artifacts.bytes("cmdline", format!("{cmdline}\n").as_bytes())?;
        artifacts.bytes("efi", &uki)?;
        let sboms = sbom::both(parts.lock, parts.node, &manifest)?;
        artifacts.bytes("spdx.json", &sboms.spdx)?;
        artifacts.bytes("cdx.json", &sboms.cyclonedx)?;
        artifacts.copy("root.squashfs", &root.file)?;
        artifacts.set(&parts.set(&root.verity), (&uki, &root.file), patches, parts.keys)?;
        raw.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    manifest.artifacts = artifacts.listed();
    let text = manifest.to_json().map_err(AssembleError::Manifest)?;
    artifacts.bytes("manifest.json", &text)?;
    artifacts.publish()?;
    step.end(&megabytes(disk.bytes()));
    Ok(Assembled {
        manifest,
        raw: out.join(format!("{}.raw", parts.name)),
        root_bytes: root.verity.total_bytes(),
        uki_bytes,
        disk_bytes: disk.bytes(),
    })
}

impl Parts<'_> {
    fn check(&self) -> Result<()> {
        let bad = |what, problem: String| Err(AssembleError::Input { what, problem });
        if self.node.initrd.get("init").and_then(image::Entry::content).is_none() {
            return bad("initrd", "it has no file 'init'".into());
        }
        let magic = |content: &Content, at: usize, magic: &[u8]| -> Result<bool> {
            Ok(content.read()?.get(at..at + magic.len()) == Some(magic))
        };
        if !magic(&self.node.kernel, 0x202, b"HdrS")? {
            return bad("kernel", "it is no x86 kernel image: 'HdrS' is not at 0x202".into());
        }
        for (what, content) in [("stub", &self.node.stub), ("boot loader", &self.node.loader)] {
            if !magic(content, 0, b"MZ")? {
                return bad(what, "it is no EFI program: it does not begin with 'MZ'".into());
            }
        }
        Ok(())
    }

    /// The command line that ends in the cluster, if there is one, and the root's identity.
    fn cmdline_with(&self, verity: &Verity) -> Result<String> {
        let bad = |problem| Err(AssembleError::Input { what: "command line", problem });
        if let Some(word) = ["roost.verity=", pin::WORD].iter().find(|word| self.node.cmdline.contains(**word)) {
            return bad(format!("it names {word} itself, which only the builder may"));
        }
        if self.node.cmdline.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
            return bad("it has a line break or a character that is not ASCII".into());
        }
        let cluster = self.cluster.map_or_else(String::new, |cluster| format!(" {}{cluster}", pin::WORD));
        let whole = format!("{}{cluster} roost.verity={verity}", self.node.cmdline.trim());
        if whole.len() > CMDLINE_MAX {
            return bad(format!("it is {} bytes long, and the kernel takes {CMDLINE_MAX}", whole.len()));
        }
        Ok(whole.trim_start().to_owned())
    }

    fn uki(&self, kernel: &[u8], initrd: &[u8], cmdline: &str) -> Result<Vec<u8>> {
        let stub = self.node.stub.read()?;
        let os_release = self.os_release()?;
        let parts =
            uki::Parts { os_release: &os_release, cmdline, initrd, uname: &self.node.kernel_version, linux: kernel };
        Ok(uki::build(&stub, &parts)?)
    }

    /// systemd-boot shows the entry under the name and version in it.
    fn os_release(&self) -> Result<String> {
        let bad = |problem: String| AssembleError::Input { what: "root", problem };
        let (_, entry) = self.node.root.lookup("etc/os-release").map_err(|error| bad(error.to_string()))?;
        let content = entry.content().ok_or_else(|| bad("etc/os-release is no file".into()))?.read()?;
        String::from_utf8(content.to_vec()).map_err(|_| bad("etc/os-release is not UTF-8".into()))
    }

    /// What the set's manifest says, but for what is measured.
    fn set(&self, verity: &Verity) -> set::About {
        set::About {
            name: self.name.to_owned(),
            version: self.version.to_owned(),
            level: self.level.name().to_owned(),
            epoch: self.lock.epoch,
            expires: self.expires,
            verity: verity.to_string(),
            kernel: self.node.kernel_version.clone(),
            keys: self.keys.map(|keys| keys.trusted().clone()),
            cluster: self.cluster.map(|cluster| cluster.to_string()),
        }
    }

    /// What nodes of earlier sets make this root of, by their roots' hashes.
    fn patches(&self, root: &Root, report: &Report) -> Result<Vec<([u8; 32], Vec<u8>)>> {
        let new = patch::Root::new(&root.file, &root.verity, &self.node.kernel_version);
        let make = |base: &Base| {
            let step = report.step("patch", None);
            let patch = patch::make(base, &new, compression(self.level))?;
            step.end(&megabytes(patch.len() as u64));
            Ok((base.hash, patch))
        };
        self.bases.iter().map(make).collect()
    }

    /// With a signature when there are keys.
    fn signed(&self, what: &'static str, program: Vec<u8>) -> Result<Vec<u8>> {
        match self.keys {
            Some(keys) => Ok(keys.sign_program(what, &program)?),
            None => Ok(program),
        }
    }

    fn disk(&self, uki: Vec<u8>, verity: Verity) -> Result<Disk> {
        let enrolment = self.keys.iter().flat_map(|keys| keys.enrolment());
        Ok(Disk {
            name: self.name.to_owned(),
            version: self.version.to_owned(),
            uki: uki.into(),
            loader: self.signed("the boot loader", self.node.loader.read()?.to_vec())?.into(),
            enrolment: enrolment.map(|(name, auth)| (name.clone(), auth.clone().into())).collect(),
            seed: None,
            verity,
            esp_bytes: u64::from(self.sizes.esp_mib) * MIB,
            seed_bytes: u64::from(self.sizes.seed_mib) * MIB,
            slot_bytes: u64::from(self.sizes.slot_mib) * MIB,
        })
    }

    fn check_root(&self, root: &Root, manifest: &Manifest) -> Result<()> {
        let (found, slot) = (root.verity.total_bytes(), u64::from(self.sizes.slot_mib) * MIB);
        if found > slot {
            return Err(image::disk::DiskError::SlotOverflow { found, slot }.into());
        }
        let (key, budget) = match self.level {
            Level::Dev => ("sizes.root-budget-dev-mb", self.sizes.root_budget_dev_mb),
            Level::Release => ("sizes.root-budget-mb", self.sizes.root_budget_mb),
        };
        over_budget("root", found, key, budget, || largest(manifest))
    }

    fn check_uki(&self, uki: &[u8], initrd: usize, kernel: usize) -> Result<()> {
        let parts = || format!("kernel {}, initrd {}", megabytes(kernel as u64), megabytes(initrd as u64));
        over_budget("UKI", uki.len() as u64, "sizes.uki-budget-mb", self.sizes.uki_budget_mb, parts)
    }
}

fn over_budget(
    what: &'static str,
    found: u64,
    key: &'static str,
    budget: Option<u32>,
    largest: impl Fn() -> String,
) -> Result<()> {
    match budget.map(|budget| u64::from(budget) * MB) {
        Some(budget) if found > budget => Err(AssembleError::Budget { what, found, key, budget, largest: largest() }),
        _ => Ok(()),
    }
}

/// The packages that weigh most, unpacked.
fn largest(manifest: &Manifest) -> String {
    let mut packages: Vec<_> = manifest.packages.iter().map(|(name, package)| (package.bytes, name)).collect();
    packages.sort_unstable_by(|a, b| b.cmp(a));
    let lines = packages.iter().take(8).map(|(bytes, name)| format!("{name} {}", megabytes(*bytes)));
    lines.collect::<Vec<_>>().join(", ")
}

/// The initrd, compressed: modules in it may be so already, but the program is not.
fn initrd(parts: &Parts<'_>) -> Result<Vec<u8>> {
    let archive = cpio::write_tree(Vec::new(), &parts.node.initrd)?;
    zstd::bulk::compress(&archive, compression(parts.level)).map_err(AssembleError::Compress)
}

/// Opens a file for reading, naming it in the error.
fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(error::at("read", path))
}

#[cfg(test)]
pub(crate) mod tests;
