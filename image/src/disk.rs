//! The raw disk image: a sparse file with the partitions of `gpt` and their contents.
//!
//! ```text
//! 1 MiB | ESP | seed | root A (squashfs, verity tree) | root B, empty | 1 MiB with the backup table
//! ```

use std::io::{self, Read, Seek, SeekFrom, Write};

use thiserror::Error;

use crate::fat::{FatError, FatVolume};
use crate::gpt::{self, GptError, Partition, Wanted, derived_guid};
use crate::slot::EntryName;
use crate::tree::Content;
use crate::verity::Verity;

/// Label of the seed partition's file system.
pub const SEED_LABEL: &str = "ROOST-SEED";
/// Label of the ESP's file system.
pub const ESP_LABEL: &str = "ROOST-ESP";

const LOADER_CONF: &str = "timeout 0\neditor no\nauto-entries no\nauto-firmware no\n";

/// Why a disk image could not be written.
#[derive(Debug, Error)]
pub enum DiskError {
    /// The root does not fit its slot.
    #[error(
        "The root with its verity tree has {found} bytes, and a slot has {slot}: take less into the image, or set sizes.slot-mib higher"
    )]
    SlotOverflow {
        /// Bytes of the root.
        found: u64,
        /// Bytes of a slot.
        slot: u64,
    },
    /// Name and version cannot be a boot entry's.
    #[error(
        "Name {name:?} and version {version:?} cannot be a boot entry's: expected letters, digits and . _ - in the name, . ~ ^ - in the version, 200 together"
    )]
    Entry {
        /// The image's name.
        name: String,
        /// The version.
        version: String,
    },
    /// A FAT volume could not be made.
    #[error("Cannot make the {volume} partition")]
    Fat {
        /// Which.
        volume: &'static str,
        /// Why not.
        source: FatError,
    },
    /// The partition table could not be made.
    #[error(transparent)]
    Gpt(#[from] GptError),
    /// The root could not be copied.
    #[error("Cannot copy the root into the disk image")]
    Root(#[source] io::Error),
}

/// What goes on the disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Name of the image.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The UKI.
    pub uki: Content,
    /// systemd-boot's EFI program.
    pub loader: Content,
    /// Keys of Secure Boot that the boot loader offers to enrol while firmware is in setup mode, by file name.
    pub enrolment: Vec<(String, Content)>,
    /// `seed.toml`, when it is known while building the disk (a lab, `flash`).
    pub seed: Option<String>,
    /// The root's identity.
    pub verity: Verity,
    /// Bytes of the ESP.
    pub esp_bytes: u64,
    /// Bytes of the seed partition.
    pub seed_bytes: u64,
    /// Bytes of each of the two root slots.
    pub slot_bytes: u64,
}

impl Disk {
    /// Path of the UKI on the ESP: systemd-boot sorts entries of one name by version.
    ///
    /// # Errors
    /// When the two would be read as something else.
    pub fn uki_path(&self) -> Result<String, DiskError> {
        let entry = EntryName::new(&self.name, &self.version);
        // Not counted: there is nothing to fall back on yet.
        entry
            .map(|entry| entry.path())
            .ok_or_else(|| DiskError::Entry { name: self.name.clone(), version: self.version.clone() })
    }

    /// The partitions, as [`gpt::write_new`] takes them.
    #[must_use]
    pub fn partitions(&self) -> Vec<Wanted> {
        let part = |name, kind, len, guid| Wanted { name, kind, len, guid };
        vec![
            part(gpt::ESP, gpt::TYPE_ESP, self.esp_bytes, None),
            part(gpt::SEED, gpt::TYPE_BASIC_DATA, self.seed_bytes, None),
            part(gpt::ROOT_A, gpt::TYPE_ROOT_X86_64, self.slot_bytes, Some(self.verity.partition_uuid())),
            part(gpt::ROOT_B, gpt::TYPE_ROOT_X86_64, self.slot_bytes, None),
        ]
    }

    /// Bytes of the whole disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        gpt::disk_bytes(&self.partitions())
    }

    /// Writes the disk over zeros: a new file of exactly [`Disk::bytes`]. `root` is squashfs and tree.
    ///
    /// # Errors
    /// When the root or the UKI is too large for its place, or the output cannot be written.
    pub fn write(
        &self,
        out: &mut (impl Read + Write + Seek),
        root: &mut impl Read,
    ) -> Result<Vec<Partition>, DiskError> {
        let found = self.verity.total_bytes();
        if found > self.slot_bytes {
            return Err(DiskError::SlotOverflow { found, slot: self.slot_bytes });
        }
        let parts = gpt::write_new(out, &self.identity(), &self.partitions())?;
        let [esp, seed, root_a, ..] = parts.as_slice() else { return Ok(parts) };
        let uki_path = self.uki_path()?;
        self.esp(esp, &uki_path).and_then(|volume| put(out, esp, &volume)).map_err(in_volume("ESP"))?;
        self.seed(seed).and_then(|volume| put(out, seed, &volume)).map_err(in_volume("seed"))?;
        out.seek(SeekFrom::Start(root_a.start)).map_err(DiskError::Root)?;
        let copied = io::copy(&mut root.take(found), out).map_err(DiskError::Root)?;
        if copied < found {
            let text = format!("it has {copied} bytes, expected {found}");
            return Err(DiskError::Root(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
        }
        out.flush().map_err(DiskError::Root)?;
        Ok(parts)
    }

    /// What every id on the disk is derived from.
    fn identity(&self) -> Vec<u8> {
        [self.verity.root.as_slice(), self.name.as_bytes()].concat()
    }

    fn volume(&self, label: &str, part: &Partition) -> Result<FatVolume, FatError> {
        let id = derived_guid(&self.identity(), label).as_fields().0;
        let sector = u32::try_from(part.start / gpt::SECTOR).unwrap_or(0);
        Ok(FatVolume::new(label, id, part.len)?.at_sector(sector))
    }

    fn esp(&self, part: &Partition, uki_path: &str) -> Result<FatVolume, FatError> {
        let mut esp = self.volume(ESP_LABEL, part)?;
        esp.file("EFI/BOOT/BOOTX64.EFI", self.loader.clone())?;
        esp.file("EFI/systemd/systemd-bootx64.efi", self.loader.clone())?;
        esp.file("loader/loader.conf", LOADER_CONF)?;
        for (name, auth) in &self.enrolment {
            esp.file(&format!("loader/keys/auto/{name}"), auth.clone())?;
        }
        // No default is named: systemd-boot would take it even with no tries left.
        esp.file(uki_path, self.uki.clone())?;
        Ok(esp)
    }

    fn seed(&self, part: &Partition) -> Result<FatVolume, FatError> {
        let mut volume = self.volume(SEED_LABEL, part)?;
        if let Some(seed) = &self.seed {
            volume.file("seed.toml", seed.as_str())?;
        }
        Ok(volume)
    }
}

fn put(out: &mut (impl Write + Seek), part: &Partition, volume: &FatVolume) -> Result<(), FatError> {
    let failed = |source| FatError::Write { what: "the start".into(), source };
    out.seek(SeekFrom::Start(part.start)).map_err(failed)?;
    volume.write(out)
}

fn in_volume(volume: &'static str) -> impl Fn(FatError) -> DiskError {
    move |source| DiskError::Fat { volume, source }
}
