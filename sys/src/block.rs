//! Block devices: size, and partitions told to the kernel one by one, since it does not read the table of a disk again
//! while one of its partitions is in use.

use crate::{Result, ioctl};
use std::fs::File;
use std::path::Path;

// linux/fs.h, linux/blkpg.h
const BLKGETSIZE64: u32 = 0x8008_1272;
const BLKSSZGET: u32 = 0x1268;
const BLKDISCARD: u32 = 0x1277;
const BLKPG: u32 = 0x1269;
const ADD: i32 = 1;
const RESIZE: i32 = 3;

/// `struct blkpg_partition`.
#[repr(C)]
struct Partition {
    start: i64,
    length: i64,
    number: i32,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct Arg {
    op: i32,
    flags: i32,
    data_length: i32,
    data: *mut Partition,
}

/// Bytes on the device.
pub fn size(device: &File, name: &Path) -> Result<u64> {
    let mut bytes = 0u64;
    // SAFETY: the request writes one u64.
    unsafe { ioctl::with(device, BLKGETSIZE64, &mut bytes, ("ask the size of", &name.to_string_lossy()))? };
    Ok(bytes)
}

/// Bytes of its logical sector.
pub fn sector_size(device: &File, name: &Path) -> Result<u64> {
    let mut bytes = 0i32;
    // SAFETY: the request writes one int.
    unsafe { ioctl::with(device, BLKSSZGET, &mut bytes, ("ask the sector size of", &name.to_string_lossy()))? };
    Ok(u64::try_from(bytes).unwrap_or(512))
}

/// Gives back all of the device's blocks: what was there is lost, on a disk that trims for good. `EOPNOTSUPP` on others.
pub fn discard(device: &File, name: &Path) -> Result<()> {
    let mut range = [0, size(device, name)?];
    // SAFETY: the request reads two u64, start and length.
    unsafe { ioctl::with(device, BLKDISCARD, &mut range, ("discard", &name.to_string_lossy()))? };
    Ok(())
}

/// Tells the kernel of a new partition; start and length in bytes.
pub fn add_partition(disk: &File, number: u32, start: u64, length: u64) -> Result<()> {
    tell(disk, ADD, number, start, length, "add")
}

/// Tells the kernel that a partition, which may be in use, has grown.
pub fn resize_partition(disk: &File, number: u32, start: u64, length: u64) -> Result<()> {
    tell(disk, RESIZE, number, start, length, "resize")
}

fn tell(disk: &File, op: i32, number: u32, start: u64, length: u64, action: &'static str) -> Result<()> {
    let mut partition = Partition {
        start: start as i64,
        length: length as i64,
        number: number as i32,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let data_length = std::mem::size_of::<Partition>() as i32;
    let mut arg = Arg { op, flags: 0, data_length, data: &raw mut partition };
    // SAFETY: arg points to a live blkpg_partition of the length told; both layouts are tested below.
    unsafe { ioctl::with(disk, BLKPG, &mut arg, (action, &format!("partition {number}")))? };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    #[test]
    fn layouts_are_the_kernels() {
        // sizeof(struct blkpg_partition), sizeof(struct blkpg_ioctl_arg), offsetof(.., data).
        assert_eq!((size_of::<Partition>(), size_of::<Arg>(), offset_of!(Arg, data)), (152, 24, 16));
    }
}
