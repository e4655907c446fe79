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

/// Something is where a seed belongs, and is none.
#[derive(Debug, thiserror::Error)]
#[error("What is at {place} is no seed: {what}")]
pub struct Unreadable {
    place: String,
    what: String,
}

fn unreadable(place: impl std::fmt::Display, what: impl std::fmt::Display) -> Unreadable {
    Unreadable { place: place.to_string(), what: what.to_string() }
}

/// What a place has: a text, nothing, or something else.
type Looked = Result<Option<String>, Unreadable>;

/// Looks in all places, in order, and writes down the first seed found. None is no failure: the node may have joined
/// before, or wait for somebody to plug a seed in.
pub fn find(_: &Mounted) -> Result<Option<Source>, BootError> {
    let (found, passed_over) = look()?;
    if let Some(unreadable) = passed_over {
        tracing::warn!(error = %chain(&unreadable), "Passed over");
    }
    match found {
        Some(source) => tracing::info!(?source, "Seed found"),
        None => tracing::warn!("No seed found"),
    }
    Ok(found)
}

/// Finds the seed and reads it, for what must be known before STATE is there: none when there is none yet. What cannot
/// be read is an error here, unless another place has a seed: it might ask for encryption.
pub fn read(_: &Mounted) -> Result<Option<seed::Seed>, BootError> {
    match look()? {
        (Some(_), _) => parsed().map(Some),
        (None, Some(unreadable)) => Err(unreadable.into()),
        (None, None) => Ok(None),
    }
}

/// The place of the first seed, which is written down; and what could not be read before it.
fn look() -> Result<(Option<Source>, Option<Unreadable>), BootError> {
    type Look = fn() -> Looked;
    let places: [(Source, Look); 3] =
        [(Source::Partition, from_partition), (Source::FwCfg, from_fw_cfg), (Source::Smbios, from_smbios)];
    let mut passed_over = None;
    for (source, look) in places {
        match look() {
            Ok(Some(text)) => {
                write(Path::new(paths::SEED), &text)?;
                return Ok((Some(source), passed_over));
            }
            Ok(None) => {}
            Err(unreadable) => passed_over = Some(unreadable),
        }
    }
    Ok((None, passed_over))
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

fn from_partition() -> Looked {
    let mut looked = Ok(None);
    for partition in partitions().iter().filter(|p| is_seed(&p.node)) {
        match read_partition(partition) {
            Ok(None) => {}
            Ok(text) => return Ok(text),
            failed => looked = failed,
        }
    }
    looked
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
fn read_partition(partition: &Partition) -> Looked {
    let bytes = match read_fat(&partition.node) {
        Ok(bytes) => bytes,
        Err(e) => {
            tracing::info!(device = %partition.node.display(), error = %chain(&e), "Seed partition is left to the kernel");
            return read_mounted(partition).unwrap_or_else(|e| Err(unreadable(partition.node.display(), chain(&e))));
        }
    };
    bytes.map_or(Ok(None), |bytes| text_of(&bytes, &partition.node))
}

fn read_fat(node: &Path) -> Result<Option<Vec<u8>>, FatError> {
    let device = File::open(node).map_err(|source| FatError::Read { what: node.display().to_string(), source })?;
    match FatReader::new(device)?.read_path(seed::FILE) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(FatError::Missing { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

fn read_mounted(partition: &Partition) -> Result<Looked, sys::Error> {
    let target = Path::new(paths::RUN).join("seed-partition");
    std::fs::create_dir_all(&target).map_err(sys::Error::of("create", target.display()))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(&partition.node, &target, "vfat", flags, "")?;
    let guard = MountGuard::of(&target);
    Ok(read_text(&guard.path().join(seed::FILE)))
}

/// Its driver may not be there yet: drivers are loaded beside us.
fn from_fw_cfg() -> Looked {
    if Path::new(FW_CFG_DEVICE).exists() && !Path::new(FW_CFG).exists() {
        let mut load = Command::new(crate::SELF);
        load.args(["-q", "--", "qemu_fw_cfg"]);
        if let Err(e) = run(&mut load, b"", Duration::from_secs(10)).and_then(Output::ok) {
            tracing::warn!(error = %chain(&e), "No driver for QEMU's configuration device");
        }
    }
    read_text(&Path::new(FW_CFG).join(seed::FW_CFG).join("raw"))
}

fn from_smbios() -> Looked {
    let mut table = Vec::new();
    // A machine without such a table has no seed there.
    if File::open(SMBIOS_TABLE).and_then(|f| f.take(1 << 20).read_to_end(&mut table)).is_err() {
        return Ok(None);
    }
    let strings = smbios::oem_strings(&table);
    let Some(coded) = strings.iter().find_map(|s| s.strip_prefix(seed::SMBIOS_PREFIX)) else { return Ok(None) };
    use base64::{Engine, prelude::BASE64_STANDARD};
    let text = BASE64_STANDARD.decode(coded.trim()).ok().and_then(|b| String::from_utf8(b).ok());
    text.map(Some).ok_or_else(|| unreadable("the SMBIOS string roost-seed=", "expected base64 of UTF-8 text"))
}

/// The text of a file that is there, not empty and not huge.
fn read_text(path: &Path) -> Looked {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|f| f.take(MAX_BYTES + 1).read_to_end(&mut bytes)) {
        Ok(_) => text_of(&bytes, path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unreadable(path.display(), e)),
    }
}

fn text_of(bytes: &[u8], path: &Path) -> Looked {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(unreadable(path.display(), "it is longer than 64 KiB"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| unreadable(path.display(), "it is no UTF-8 text"))?;
    // A partition that was never written holds zeros or nothing.
    let blank = text.trim_matches(|c: char| c.is_whitespace() || c == '\0').is_empty();
    Ok((!blank).then(|| text.to_owned()))
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
    fn an_empty_or_missing_file_is_no_seed_and_any_other_is_told() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("seed.toml");
        assert_eq!(read_text(&path).expect("nothing is there"), None);
        for (text, expect) in [("", None), ("\0\0 \n", None), ("[store]\n", Some("[store]\n".to_owned()))] {
            std::fs::write(&path, text).expect("written");
            assert_eq!(read_text(&path).expect("reads"), expect);
        }
        for (bytes, saying) in [
            ("x".repeat(65537).into_bytes(), "it is longer than 64 KiB"),
            // As a redirection of PowerShell leaves it.
            (b"\xff\xfe[\0s\0".to_vec(), "it is no UTF-8 text"),
        ] {
            std::fs::write(&path, bytes).expect("written");
            let error = read_text(&path).expect_err("no seed").to_string();
            assert!(error.ends_with(saying), "{error}");
        }
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
            let text = read_fat(&path).expect("reads").map(|bytes| text_of(&bytes, &path).expect("a text"));
            assert_eq!(text.flatten(), expect);
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
