//! The device mapper, by its ioctls: a read-only device whose every block is checked against a tree of hashes.

use crate::{Error, Result, ioctl};
use std::fs::File;
use std::mem::size_of;
use std::path::{Path, PathBuf};

const CONTROL: &str = "/dev/mapper/control";
// _IOWR(0xfd, n, struct dm_ioctl) of linux/dm-ioctl.h.
const DEV_CREATE: u32 = 0xc138_fd03;
const DEV_REMOVE: u32 = 0xc138_fd04;
const DEV_SUSPEND: u32 = 0xc138_fd06;
const TABLE_LOAD: u32 = 0xc138_fd09;
const READONLY: u32 = 1;
/// Room for one target and its parameters behind the header.
const ROOM: usize = 1024;

/// `struct dm_ioctl`, with room for the data behind it.
#[repr(C)]
struct Request {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
    target: Target,
    params: [u8; ROOM],
}

/// `struct dm_target_spec`.
#[repr(C)]
struct Target {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
}

const HEADER: usize = 312;

/// What happens when a block does not have its hash. It is never read as data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCorruption {
    /// The reader gets `EIO`.
    Error,
    /// The kernel panics, and reboots by its `panic=` setting, with the reason in its log.
    #[default]
    Panic,
    /// The kernel reboots at once.
    Restart,
}

/// A tree of SHA-256 hashes over blocks of 4096 bytes, without superblock, on the same device as the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verity {
    /// Hash of the tree's top.
    pub root: [u8; 32],
    /// Salt that goes before each block; up to 256 bytes.
    pub salt: Vec<u8>,
    /// Blocks of data; the tree begins right behind them.
    pub data_blocks: u64,
    /// What to do about a wrong block.
    pub on_corruption: OnCorruption,
}

impl Verity {
    /// Parameters of the target, as the kernel's documentation of dm-verity has them.
    fn params(&self, device: &str) -> String {
        let salt = if self.salt.is_empty() { "-".to_owned() } else { hex(&self.salt) };
        let option = match self.on_corruption {
            OnCorruption::Error => "",
            OnCorruption::Panic => " 1 panic_on_corruption",
            OnCorruption::Restart => " 1 restart_on_corruption",
        };
        let (blocks, root) = (self.data_blocks, hex(&self.root));
        format!("1 {device} {device} 4096 4096 {blocks} {blocks} sha256 {root} {salt}{option}")
    }

    /// Makes the checked device of this name over a block device; needs the modules `dm_mod` and `dm_verity`.
    ///
    /// Says where the device is. It stays until [`remove`] or the machine's end.
    pub fn open(&self, device: &Path, name: &str) -> Result<PathBuf> {
        let control = control()?;
        let made = call(&control, DEV_CREATE, &mut Request::new(name)?, "create")?;
        let node = PathBuf::from(format!("/dev/dm-{}", minor(made)));
        self.load(&control, device, name).inspect_err(|_| {
            // Half a device is of use to nobody; the failure that is told is the first one.
            let _ = remove(name);
        })?;
        Ok(node)
    }

    fn load(&self, control: &File, device: &Path, name: &str) -> Result<()> {
        let mut request = Request::new(name)?;
        request.flags = READONLY;
        request.target(self.data_blocks * 8, "verity", &self.params(&device.to_string_lossy()))?;
        call(control, TABLE_LOAD, &mut request, "load the verity table of")?;
        // Without the suspend flag this resumes, which puts the table into force.
        call(control, DEV_SUSPEND, &mut Request::new(name)?, "activate").map(drop)
    }
}

/// Removes a device; `EBUSY` while something uses it.
pub fn remove(name: &str) -> Result<()> {
    call(&control()?, DEV_REMOVE, &mut Request::new(name)?, "remove").map(drop)
}

fn control() -> Result<File> {
    File::options().read(true).write(true).open(CONTROL).map_err(Error::of("open", CONTROL))
}

fn call(control: &File, request: u32, arg: &mut Request, action: &'static str) -> Result<u64> {
    let name = String::from_utf8_lossy(&arg.name).trim_end_matches('\0').to_owned();
    // SAFETY: the kernel reads and writes the `data_size` bytes that the header tells, which is the size of the whole
    // structure, and any bytes are valid in its fields.
    unsafe { ioctl::with(control, request, arg, (action, &format!("mapped device {name}")))? };
    Ok(arg.dev)
}

/// The kernel's "huge" device number: the minor's low byte, the major, the rest of the minor.
fn minor(dev: u64) -> u64 {
    (dev & 0xff) | ((dev >> 12) & 0xfff00)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Request {
    fn new(device: &str) -> Result<Self> {
        let mut name = [0; 128];
        put(&mut name, device)?;
        Ok(Self {
            version: [4, 0, 0],
            data_size: size_of::<Self>() as u32,
            data_start: HEADER as u32,
            target_count: 0,
            open_count: 0,
            flags: 0,
            event_nr: 0,
            padding: 0,
            dev: 0,
            name,
            uuid: [0; 129],
            data: [0; 7],
            target: Target { sector_start: 0, length: 0, status: 0, next: 0, target_type: [0; 16] },
            params: [0; ROOM],
        })
    }

    fn target(&mut self, sectors: u64, kind: &str, params: &str) -> Result<()> {
        self.target_count = 1;
        self.target.length = sectors;
        put(&mut self.target.target_type, kind)?;
        put(&mut self.params, params)
    }
}

/// Copies a text with the zero behind it that the kernel wants.
fn put(field: &mut [u8], text: &str) -> Result<()> {
    if text.len() >= field.len() {
        let object = "a device mapper field".to_owned();
        return Err(Error::Malformed { object, found: text.to_owned(), expected: "a shorter text" });
    }
    field[..text.len()].copy_from_slice(text.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn layouts_are_the_kernels() {
        // sizeof(struct dm_ioctl), offsetof(.., dev), (.., name), (.., uuid); sizeof(struct dm_target_spec).
        assert_eq!(offset_of!(Request, target), HEADER);
        assert_eq!((offset_of!(Request, dev), offset_of!(Request, name), offset_of!(Request, uuid)), (40, 48, 176));
        assert_eq!(size_of::<Target>(), 40);
        assert_eq!((DEV_CREATE >> 16) & 0x3fff, HEADER as u32);
    }

    #[test]
    fn the_table_has_the_documented_words() {
        let verity = Verity { root: [0xab; 32], salt: vec![1, 2], data_blocks: 10, on_corruption: OnCorruption::Panic };
        let root = "ab".repeat(32);
        let expect = format!("1 /dev/vda3 /dev/vda3 4096 4096 10 10 sha256 {root} 0102 1 panic_on_corruption");
        assert_eq!(verity.params("/dev/vda3"), expect);
        let plain = Verity { salt: vec![], on_corruption: OnCorruption::Error, ..verity };
        assert!(plain.params("/dev/x").ends_with(&format!("{root} -")));
    }

    #[test]
    fn minors_beyond_a_byte_are_understood() {
        assert_eq!(minor(0xfd00), 0);
        assert_eq!(minor((0xfd << 8) | 0x05 | (0x3 << 20)), 0x305);
    }

    #[test]
    fn a_long_name_is_refused() {
        assert!(Request::new(&"x".repeat(128)).is_err() && Request::new(&"x".repeat(127)).is_ok());
    }
}
