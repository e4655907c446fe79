//! Files as block devices.

use crate::{Error, Result, ioctl};
use nix::errno::Errno;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

const CONTROL: &str = "/dev/loop-control";
// linux/loop.h
const LOOP_CTL_GET_FREE: u32 = 0x4c82;
const LOOP_CONFIGURE: u32 = 0x4c0a;
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;

/// `struct loop_config` with its `struct loop_info64`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// A device that shows a file. The kernel lets go of it when this is dropped and nothing has it mounted.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _open: File,
}

impl LoopDevice {
    /// Shows the file at `path`; needs the module `loop`.
    pub fn attach(path: &Path, read_only: bool) -> Result<Self> {
        let file =
            File::options().read(true).write(!read_only).open(path).map_err(Error::of("open", path.display()))?;
        let control = File::options().read(true).write(true).open(CONTROL).map_err(Error::of("open", CONTROL))?;
        loop {
            // SAFETY: this request takes no argument.
            let number = unsafe { ioctl::number(&control, LOOP_CTL_GET_FREE, 0, ("find", "a free loop device"))? };
            match configure(number, &file, path, read_only) {
                // Somebody else took the device that was free a moment ago.
                Err(e) if e.is(Errno::EBUSY) => {}
                result => return result,
            }
        }
    }

    /// The block device.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn configure(number: i32, file: &File, backing: &Path, read_only: bool) -> Result<LoopDevice> {
    let path = PathBuf::from(format!("/dev/loop{number}"));
    let device = File::options().read(true).write(!read_only).open(&path).map_err(Error::of("open", path.display()))?;
    let mut config = Config::new(file, read_only);
    let shown = backing.as_os_str().as_encoded_bytes();
    let length = shown.len().min(63);
    config.file_name[..length].copy_from_slice(&shown[..length]);
    // SAFETY: the request reads one loop_config, whose layout the test below compares.
    unsafe {
        ioctl::with(&device, LOOP_CONFIGURE, &mut config, ("show as a loop device", &backing.to_string_lossy()))?
    };
    Ok(LoopDevice { path, _open: device })
}

impl Config {
    fn new(file: &File, read_only: bool) -> Self {
        Self {
            fd: file.as_raw_fd() as u32,
            block_size: 0,
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: AUTOCLEAR | if read_only { READ_ONLY } else { 0 },
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
            reserved: [0; 8],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::mem::{offset_of, size_of};

    #[test]
    fn layout_is_the_kernels() {
        // sizeof(struct loop_config); offsetof(.., info), (.., info.lo_flags), (.., info.lo_file_name).
        assert_eq!(size_of::<Config>(), 304);
        let offsets = (offset_of!(Config, device), offset_of!(Config, flags), offset_of!(Config, file_name));
        assert_eq!(offsets, (8, 60, 64));
    }

    #[test]
    fn a_file_is_read_through_its_device() {
        if !Path::new(CONTROL).exists() || !nix::unistd::geteuid().is_root() {
            return;
        }
        let mut file = tempfile::NamedTempFile::new().expect("file");
        file.write_all(&[7; 4096]).expect("written");
        let device = LoopDevice::attach(file.path(), true).expect("attached");
        let mut bytes = Vec::new();
        File::open(device.path()).expect("opens").read_to_end(&mut bytes).expect("reads");
        assert_eq!(bytes, [7; 4096]);
    }
}
