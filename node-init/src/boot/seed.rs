//! The seed: found in one of three places, passed on as it is. `noded` reads it.

use super::disk::{Partition, partitions};
use super::mounts::Mounted;
use super::phases::BootError;
use super::smbios;
use crate::fail::chain;
use image::fat::{FatError, FatReader};
use model::{paths, seed};
use node_init::seed_text;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;
use sys::mount::{MountGuard, MsFlags, mount};
use sys::spawn::{Command, Output, run};

/// A seed is a few lines; beyond this it is something else.
const MAX_BYTES: u64 = 64 * 1024;
const LABEL: &[u8; 11] = b"ROOST-SEED ";
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name";
/// Its device, by which the firmware says that it is there.
const FW_CFG_DEVICE: &str = "/sys/bus/acpi/devices/QEMU0002:00";
const SMBIOS_TABLE: &str = "/sys/firmware/dmi/tables/DMI";

/// Where a seed was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A partition labelled `ROOST-SEED`.
    Partition,
    /// QEMU's configuration device.
    FwCfg,
    /// A string of the machine's firmware.
    Smbios,
}

/// Looks in all places, in order, and writes down the first seed found. None is no failure: the node may have joined
/// before, or wait for somebody to plug a seed in.
pub fn find(_: &Mounted) -> Result<Option<Source>, BootError> {
    type Look = fn() -> Option<String>;
    let places: [(Source, Look); 3] =
        [(Source::Partition, from_partition), (Source::FwCfg, from_fw_cfg), (Source::Smbios, from_smbios)];
    for (source, look) in places {
        if let Some(text) = look() {
            write(Path::new(paths::SEED), &text)?;
            tracing::info!(?source, "Seed found");
            return Ok(Some(source));
        }
    }
    tracing::warn!("No seed found");
    Ok(None)
}

/// Finds the seed and reads it, for what must be known before STATE is there: none when there is none yet.
pub fn read(mounted: &Mounted) -> Result<Option<seed::Seed>, BootError> {
    find(mounted)?.map(|_| parsed()).transpose()
}

/// Reads the seed that was written down.
pub fn parsed() -> Result<seed::Seed, BootError> {
    let text = std::fs::read_to_string(paths::SEED).map_err(sys::Error::of("read", paths::SEED))?;
    Ok(seed_text::parse(&text)?)
}

/// It holds a token: for root alone.
fn write(path: &Path, text: &str) -> Result<(), sys::Error> {
    use std::io::Write;
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut f| f.write_all(text.as_bytes())).map_err(sys::Error::of("write", path.display()))
}

fn from_partition() -> Option<String> {
    partitions().iter().filter(|p| is_seed(&p.node)).find_map(|p| match read_partition(p) {
        Ok(text) => text,
        Err(e) => {
            tracing::warn!(device = %p.node.display(), error = %chain(&e), "Seed partition cannot be read");
            None
        }
    })
}

/// By the label in the FAT boot sector.
fn is_seed(node: &Path) -> bool {
    let mut sector = [0; 512];
    let read = File::open(node).and_then(|mut f| f.read_exact(&mut sector));
    read.is_ok() && has_label(&sector)
}

/// The label lies at 43 in FAT12 and FAT16, at 71 in FAT32.
fn has_label(sector: &[u8; 512]) -> bool {
    sector[510..] == [0x55, 0xaa] && [43, 71].iter().any(|&at| sector[at..at + 11] == *LABEL)
}

/// By our own reader: the kernel's takes four modules, and longer than all the rest of this. What ours does not know
/// (a stick so small that it has FAT12, another size of sectors) the kernel mounts.
fn read_partition(partition: &Partition) -> Result<Option<String>, sys::Error> {
    match read_fat(&partition.node) {
        Ok(text) => Ok(text),
        Err(e) => {
            tracing::info!(device = %partition.node.display(), error = %chain(&e), "Seed partition is left to the kernel");
            read_mounted(partition)
        }
    }
}

fn read_fat(node: &Path) -> Result<Option<String>, FatError> {
    let device = File::open(node).map_err(|source| FatError::Read { what: node.display().to_string(), source })?;
    match FatReader::new(device)?.read_path(seed::FILE) {
        Ok(bytes) => Ok(text_of(&bytes, node)),
        Err(FatError::Missing { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

fn read_mounted(partition: &Partition) -> Result<Option<String>, sys::Error> {
    let target = Path::new(paths::RUN).join("seed-partition");
    std::fs::create_dir_all(&target).map_err(sys::Error::of("create", target.display()))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(&partition.node, &target, "vfat", flags, "")?;
    let guard = MountGuard::of(&target);
    Ok(read_text(&guard.path().join(seed::FILE)))
}

/// Its driver may not be there yet: drivers are loaded beside us.
fn from_fw_cfg() -> Option<String> {
    if Path::new(FW_CFG_DEVICE).exists() && !Path::new(FW_CFG).exists() {
        let mut load = Command::new(crate::SELF);
        load.args(["-q", "--", "qemu_fw_cfg"]);
        if let Err(e) = run(&mut load, b"", Duration::from_secs(10)).and_then(Output::ok) {
            tracing::warn!(error = %chain(&e), "No driver for QEMU's configuration device");
        }
    }
    read_text(&Path::new(FW_CFG).join(seed::FW_CFG).join("raw"))
}

fn from_smbios() -> Option<String> {
    let mut table = Vec::new();
    File::open(SMBIOS_TABLE).and_then(|f| f.take(1 << 20).read_to_end(&mut table)).ok()?;
    let strings = smbios::oem_strings(&table);
    let coded = strings.iter().find_map(|s| s.strip_prefix(seed::SMBIOS_PREFIX))?;
    use base64::{Engine, prelude::BASE64_STANDARD};
    match BASE64_STANDARD.decode(coded.trim()).ok().and_then(|b| String::from_utf8(b).ok()) {
        Some(text) => Some(text),
        None => {
            tracing::warn!("The SMBIOS string roost-seed= is not base64 of text");
            None
        }
    }
}

/// The text of a file that is there, not empty and not huge.
fn read_text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|f| f.take(MAX_BYTES + 1).read_to_end(&mut bytes)).ok()?;
    text_of(&bytes, path)
}

fn text_of(bytes: &[u8], path: &Path) -> Option<String> {
    if bytes.len() as u64 > MAX_BYTES {
        tracing::warn!(path = %path.display(), "Seed is longer than 64 KiB and is passed over");
        return None;
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        tracing::warn!(path = %path.display(), "Seed is no UTF-8 text and is passed over");
        return None;
    };
    // A partition that was never written holds zeros or nothing.
    let blank = text.trim_matches(|c: char| c.is_whitespace() || c == '\0').is_empty();
    (!blank).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_is_seen_in_every_kind_of_fat() {
        let mut sector = [0; 512];
        assert!(!has_label(&sector));
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        for at in [43, 71] {
            let mut fat = sector;
            fat[at..at + 11].copy_from_slice(LABEL);
            assert!(has_label(&fat));
        }
        assert!(!has_label(&sector));
    }

    #[test]
    fn an_empty_missing_or_huge_file_is_no_seed() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("seed.toml");
        assert_eq!(read_text(&path), None);
        for (text, expect) in [("", None), ("\0\0 \n", None), ("[store]\n", Some("[store]\n".to_owned()))] {
            std::fs::write(&path, text).expect("written");
            assert_eq!(read_text(&path), expect);
        }
        std::fs::write(&path, "x".repeat(65537)).expect("written");
        assert_eq!(read_text(&path), None);
    }

    #[test]
    fn the_seed_is_read_from_a_volume_that_the_builder_made() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("volume");
        for (text, expect) in [(None, None), (Some(""), None), (Some("[store]\n"), Some("[store]\n".to_owned()))] {
            let mut volume = image::fat::FatVolume::new("ROOST-SEED", 7, 16 << 20).expect("volume");
            if let Some(text) = text {
                volume.file("SEED.TOML", text).expect("added");
            }
            // What it does not write is to be zero already.
            let mut device = File::create(&path).expect("file");
            device.set_len(16 << 20).expect("sized");
            volume.write(&mut device).expect("written");
            assert!(is_seed(&path));
            assert_eq!(read_fat(&path).expect("reads"), expect);
        }
        std::fs::write(&path, [0; 4096]).expect("written");
        read_fat(&path).expect_err("no volume");
    }

    #[test]
    fn a_seed_is_readable_by_root_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("seed.toml");
        write(&path, "x").expect("written");
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o600);
    }
}
