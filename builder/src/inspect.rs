//! What is in an image, and whether every byte of it is what it was built as.
//!
//! Takes a disk image, a root image or a UKI, told apart by their first bytes. Each part is checked against
//! whatever vouches for it: the partition tables against one another, the root against its verity
//! tree, the tree against the root hash in the UKI's command line, the PARTUUID against that hash, and
//! everything against the manifest where one lies beside the image. The first part that does not hold is
//! the error, and names itself.

mod error;
mod root;
mod show;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use image::fat::FatReader;
use image::gpt::{self, Partition, Table};
use image::manifest::Manifest;
use image::pin;
use image::slot::{EntryName, Slot, Slots};
use image::uki;
use image::verity::{Verity, hex};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::assemble::whole;
use crate::executables::{self, is_interpreter};
pub use error::InspectError;
use error::{differs, in_part};

type Result<T> = std::result::Result<T, InspectError>;

/// What was found in an image. Every check in it passed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Inspection {
    /// `disk image`, `root image` or `UKI`.
    pub kind: &'static str,
    /// Length in bytes.
    pub bytes: u64,
    /// Partitions of a disk image.
    pub partitions: Vec<PartitionInfo>,
    /// Files on the ESP with their lengths.
    pub esp: Vec<(String, u64)>,
    /// Files on the seed partition with their lengths.
    pub seed: Vec<(String, u64)>,
    /// What each root slot holds.
    pub slots: Vec<String>,
    /// Sections of the UKI that boots first, with their lengths.
    pub sections: Vec<(String, u64)>,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// The command line in the UKI.
    pub cmdline: Option<String>,
    /// The one cluster that it is for, by its CA's fingerprint; none: for any.
    pub cluster: Option<String>,
    /// `ROOT:SALT:BLOCKS`.
    pub verity: Option<String>,
    /// Packages of the root with version and bytes, the largest first.
    pub packages: Vec<(String, String, u64)>,
    /// Programs in the root, by path.
    pub executables: Vec<String>,
    /// Those of them that are a shell or another interpreter.
    pub interpreters: Vec<String>,
    /// What was checked and held.
    pub checked: Vec<String>,
    /// What could not be checked, and why.
    pub unchecked: Vec<String>,
}

/// A partition of a disk image.
#[derive(Clone, Debug, Serialize)]
pub struct PartitionInfo {
    /// Number, as the kernel counts.
    pub number: u32,
    /// Name in the table.
    pub name: String,
    /// PARTUUID.
    pub guid: String,
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// Reads and checks an image.
///
/// # Errors
/// When it is no image, cannot be read, or a part of it is not what vouches for it says.
pub fn inspect(path: &Path) -> Result<Inspection> {
    let mut file = File::open(path).map_err(|source| InspectError::Open { path: path.to_owned(), source })?;
    let mut start = Vec::new();
    file.by_ref().take(1024).read_to_end(&mut start).map_err(in_part("the start of the file"))?;
    let manifest = manifest_beside(path)?;
    let mut found = Inspection { bytes: file.metadata().map_err(in_part("the file"))?.len(), ..Inspection::default() };
    if image::squashfs::info(&start).is_some() {
        found.root_image(&mut file, manifest.as_ref())?;
    } else if start.get(512..520) == Some(b"EFI PART")
        || start.get(510..512) == Some(&[0x55, 0xaa]) && start.get(450) == Some(&0xee)
    {
        found.disk_image(&mut file, manifest.as_ref())?;
    } else if start.starts_with(b"MZ") {
        found.kind = "UKI";
        let bytes = read_all(&mut file)?;
        found.uki(&bytes, manifest.as_ref())?;
    } else {
        return Err(InspectError::Unknown { path: path.to_owned(), start: hex(&start[..start.len().min(8)]) });
    }
    found.artifact(path, &mut file, manifest.as_ref())?;
    found.list_contents(manifest.as_ref());
    Ok(found)
}

impl Inspection {
    fn disk_image(&mut self, file: &mut File, manifest: Option<&Manifest>) -> Result<()> {
        self.kind = "disk image";
        let table = Table::read(file).map_err(in_part("the partition table"))?;
        table.check_copies(file).map_err(in_part("the partition table"))?;
        self.checked.push("both copies of the partition table".into());
        let partitions = table.partitions();
        self.partitions = partitions.iter().map(PartitionInfo::from).collect();
        let ukis = self.esp(file, &table)?;
        self.seed(file, &table)?;
        self.slots = slots(file)?;
        for (index, (entry, uki)) in ukis.iter().enumerate() {
            // What is beside the image vouches for the version that was built; another one came later.
            let manifest =
                manifest.filter(|manifest| entry.name() == manifest.name && entry.version() == manifest.version);
            let mut other = Self::default();
            let verity = if index == 0 { self.uki(uki, manifest)? } else { other.uki(uki, manifest)? };
            self.checked.append(&mut other.checked);
            self.slot_of(file, &partitions, &verity, manifest)?;
        }
        Ok(())
    }

    /// Checks the root that a UKI names.
    fn slot_of(
        &mut self,
        file: &mut File,
        partitions: &[Partition],
        verity: &Verity,
        manifest: Option<&Manifest>,
    ) -> Result<()> {
        let wanted = verity.partition_uuid();
        let root = partitions.iter().find(|part| part.guid == wanted);
        let root = root.ok_or_else(|| InspectError::NoRoot { partuuid: wanted.to_string() })?;
        self.checked.push(format!("the PARTUUID of {} is the root hash's start", root.name));
        let part = format!("partition {}", root.name);
        if verity.total_bytes() > root.len {
            return Err(differs(&part, "length", verity.total_bytes(), root.len));
        }
        self.root(file, root.start, &part, verity, manifest)
    }

    fn root_image(&mut self, file: &mut File, manifest: Option<&Manifest>) -> Result<()> {
        self.kind = "root image";
        let Some(boot) = manifest.and_then(|manifest| manifest.boot.as_ref()) else {
            self.unchecked.push("the root: its hash is in the manifest, and none lies beside it".into());
            return Ok(());
        };
        let verity: Verity = boot.verity.parse().map_err(in_part("the manifest"))?;
        if self.bytes != verity.total_bytes() {
            return Err(differs("the root image", "length", verity.total_bytes(), self.bytes));
        }
        self.root(file, 0, "the root image", &verity, manifest)
    }

    /// Lists the ESP, and gives the UKIs on it, the one that boots first in front.
    fn esp(&mut self, file: &mut File, table: &Table) -> Result<Vec<(EntryName, Vec<u8>)>> {
        let part = "partition roost-esp";
        let esp = table.find(gpt::ESP).map_err(in_part(part))?;
        let mut reader = volume(file, &esp, part)?;
        let files = reader.files().map_err(in_part(part))?;
        self.esp = files.iter().map(|file| (file.path.clone(), u64::from(file.len))).collect();
        let mut ukis = Vec::new();
        for program in files.iter().filter(|file| file.path.to_ascii_lowercase().ends_with(".efi")) {
            let bytes = reader.read(program).map_err(in_part(part))?;
            if !bytes.starts_with(b"MZ") {
                return Err(differs(&format!("{part}, {}", program.path), "start", "MZ", "something else"));
            }
            let Some(name) = program.path.strip_prefix("EFI/Linux/") else { continue };
            let entry = EntryName::parse(name);
            ukis.push((entry.ok_or_else(|| differs(part, "name of a boot entry", "NAME_VERSION.efi", name))?, bytes));
        }
        ukis.sort_by(|a, b| a.0.boots_before(&b.0));
        if ukis.is_empty() {
            return Err(differs(part, "number of EFI/Linux/*.efi", "1 or more", 0));
        }
        Ok(ukis)
    }

    fn seed(&mut self, file: &mut File, table: &Table) -> Result<()> {
        let part = "partition roost-seed";
        let seed = table.find(gpt::SEED).map_err(in_part(part))?;
        let files = volume(file, &seed, part)?.files().map_err(in_part(part))?;
        self.seed = files.into_iter().map(|file| (file.path, u64::from(file.len))).collect();
        Ok(())
    }

    /// Lists a UKI, checks it against the manifest, and gives the root's identity on its command line.
    fn uki(&mut self, bytes: &[u8], manifest: Option<&Manifest>) -> Result<Verity> {
        let part = "the UKI";
        let sections = uki::sections(bytes).map_err(in_part(part))?;
        self.sections = sections.iter().map(|section| (section.name.clone(), section.data.len() as u64)).collect();
        let text = |name| -> Result<String> {
            let data = uki::section(bytes, name).map_err(in_part(part))?;
            Ok(String::from_utf8_lossy(data).trim_end_matches(['\0', '\n']).to_owned())
        };
        self.kernel = Some(text(".uname")?);
        let cmdline = text(".cmdline")?;
        let verity = cmdline.split_ascii_whitespace().find_map(|word| word.strip_prefix("roost.verity="));
        let verity: Verity = verity.unwrap_or_default().parse().map_err(in_part("the UKI's command line"))?;
        self.cluster = pin::on_cmdline(&cmdline).map(str::to_owned);
        self.cmdline = Some(cmdline.clone());
        self.verity = Some(verity.to_string());
        let Some(manifest) = manifest else { return Ok(verity) };
        if let Some(boot) = manifest.boot.as_ref().filter(|boot| boot.cmdline != cmdline) {
            return Err(differs("the UKI's command line", "text", &boot.cmdline, &cmdline));
        }
        for (section, suffix) in [(".linux", "vmlinuz"), (".initrd", "initrd")] {
            let data = uki::section(bytes, section).map_err(in_part(part))?;
            let name = format!("{}.{suffix}", manifest.name);
            self.digest(&format!("section {section} of the UKI"), data, &name, manifest)?;
        }
        self.digest(part, bytes, &format!("{}.efi", manifest.name), manifest)?;
        Ok(verity)
    }

    /// Checks the SHA-256 of one part against an artifact of the manifest.
    fn digest(&mut self, part: &str, data: &[u8], artifact: &str, manifest: &Manifest) -> Result<()> {
        let Some(expected) = manifest.artifacts.get(artifact) else { return Ok(()) };
        let found = hex(&Sha256::digest(data));
        if found != expected.sha256 {
            return Err(differs(part, "SHA-256", &expected.sha256, &found));
        }
        self.checked.push(format!("{part} against the manifest"));
        Ok(())
    }

    /// Checks the whole file, padding and all, against the manifest: last, for it cannot say where.
    fn artifact(&mut self, path: &Path, file: &mut File, manifest: Option<&Manifest>) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(expected) = manifest.and_then(|manifest| manifest.artifacts.get(&*name)) else {
            self.unchecked.push("the file as a whole: no manifest beside it names it".into());
            return Ok(());
        };
        let found = whole(file).map_err(in_part("the file"))?;
        if found != *expected {
            let part = "the file, outside of all that was checked above";
            return Err(differs(part, "SHA-256", &expected.sha256, &found.sha256));
        }
        self.checked.push("the whole file against the manifest".into());
        Ok(())
    }

    fn list_contents(&mut self, manifest: Option<&Manifest>) {
        let packages = manifest.iter().flat_map(|manifest| &manifest.packages);
        self.packages = packages.map(|(name, info)| (name.clone(), info.version.clone(), info.bytes)).collect();
        self.executables = manifest.map(executables::of).unwrap_or_default();
        self.interpreters = self.executables.iter().filter(|path| is_interpreter(path)).cloned().collect();
        self.packages.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.0.cmp(&b.0)));
    }
}

impl From<&Partition> for PartitionInfo {
    fn from(part: &Partition) -> Self {
        let guid = part.guid.to_string();
        Self { number: part.number, name: part.name.clone(), guid, start: part.start, bytes: part.len }
    }
}

fn slots(file: &mut File) -> Result<Vec<String>> {
    let slots = Slots::read(file, None).map_err(in_part("the root slots"))?;
    let line = |slot: &Slot| match slot.version() {
        Some(version) => format!("{}: {version}, {}", slot.side, slot.state()),
        None => format!("{}: {}", slot.side, slot.state()),
    };
    Ok(vec![line(&slots.a), line(&slots.b)])
}

fn volume<'a>(file: &'a mut File, part: &Partition, name: &str) -> Result<FatReader<&'a mut File>> {
    file.seek(SeekFrom::Start(part.start)).map_err(in_part(name))?;
    FatReader::new(file).map_err(in_part(name))
}

fn read_all(file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).map_err(in_part("the file"))?;
    Ok(bytes)
}

/// `NAME.manifest.json` beside `NAME.raw`, `NAME.efi` or `NAME.root.squashfs`.
fn manifest_beside(path: &Path) -> Result<Option<Manifest>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = [".root.squashfs", ".raw", ".efi"].iter().find_map(|suffix| name.strip_suffix(suffix));
    let Some(name) = name else { return Ok(None) };
    match std::fs::read(path.with_file_name(format!("{name}.manifest.json"))) {
        Ok(text) => Manifest::from_json(&text).map(Some).map_err(in_part("the manifest beside the image")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(in_part("the manifest beside the image")(error)),
    }
}

#[cfg(test)]
mod tests;
