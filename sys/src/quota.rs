//! Project quotas of ext4 and xfs: a limit for a directory tree, whoever writes in it.
//!
//! The file system must have been made with, and mounted with, project quotas; otherwise the calls answer `ENOTTY`,
//! `EOPNOTSUPP` or `ESRCH`. Members of a user namespace cannot change a file's project, so a tree given to a guest
//! stays limited; root of the node is exempt from the limit on ext4.

use crate::{Error, Result};
use nix::{errno::Errno, libc};
use std::{fs::File, os::fd::AsRawFd};

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FsXattr {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

/// `struct if_dqblk` of linux/quota.h; limits in blocks of 1 KiB, usage in bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Block {
    hard: u64,
    soft: u64,
    used: u64,
    inodes_hard: u64,
    inodes_soft: u64,
    inodes_used: u64,
    grace: u64,
    inodes_grace: u64,
    valid: u32,
}

/// `FS_XFLAG_PROJINHERIT`: what is made in the directory belongs to its project.
const INHERIT: u32 = 0x200;
/// `QIF_BLIMITS`: the limits on space are meant.
const SPACE_LIMITS: u32 = 1;
/// `PRJQUOTA`.
const PROJECT: libc::c_uint = 2;
/// `Q_SETQUOTA` and `Q_GETQUOTA`.
const SET: libc::c_uint = 0x80_0008;
const GET: libc::c_uint = 0x80_0007;

/// The macros make public functions, which are nobody else's business.
mod ioctl {
    use super::FsXattr;
    nix::ioctl_read!(
        /// `FS_IOC_FSGETXATTR`.
        get_xattr, b'X', 31, FsXattr
    );
    nix::ioctl_write_ptr!(
        /// `FS_IOC_FSSETXATTR`.
        set_xattr, b'X', 32, FsXattr
    );
}

/// Makes a directory, and what will be made in it, part of a project. What is in it already stays where it was.
pub fn set_project(dir: &File, project: u32) -> Result<()> {
    let mut attr = FsXattr::default();
    let failed = |action| move |e: Errno| Error::of(action, format_args!("project {project}"))(e);
    // SAFETY: attr is a live fsxattr, which the kernel fills.
    unsafe { ioctl::get_xattr(dir.as_raw_fd(), &mut attr) }.map_err(failed("read the attributes for"))?;
    if attr.project == project && attr.flags & INHERIT != 0 {
        return Ok(());
    }
    attr = FsXattr { project, flags: attr.flags | INHERIT, ..attr };
    // SAFETY: attr is a live fsxattr, which the kernel reads.
    unsafe { ioctl::set_xattr(dir.as_raw_fd(), &attr) }.map_err(failed("put a directory into")).map(drop)
}

/// Limits the space of a project to so many bytes (rounded up to a KiB) on the file system of `on`.
pub fn limit_project(on: &File, project: u32, bytes: u64) -> Result<()> {
    let kib = bytes.div_ceil(1024);
    let mut block = Block { hard: kib, soft: 0, valid: SPACE_LIMITS, ..Block::default() };
    quotactl(on, SET, project, &mut block)
}

/// Bytes that a project uses on the file system of `on`.
pub fn project_usage(on: &File, project: u32) -> Result<u64> {
    let mut block = Block::default();
    quotactl(on, GET, project, &mut block)?;
    Ok(block.used)
}

fn quotactl(on: &File, command: libc::c_uint, project: u32, block: &mut Block) -> Result<()> {
    let command = (command << 8) | PROJECT;
    // SAFETY: block is a live if_dqblk; the kernel reads or fills it.
    let r =
        unsafe { libc::syscall(libc::SYS_quotactl_fd, on.as_raw_fd(), command, project, std::ptr::from_mut(block)) };
    Errno::result(r).map(drop).map_err(Error::of("use the quota of", format_args!("project {project}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::size_of;

    #[test]
    fn structures_have_the_kernels_sizes() {
        // linux/fs.h and linux/quota.h, x86_64.
        assert_eq!(size_of::<FsXattr>(), 28);
        assert_eq!(size_of::<Block>(), 72);
    }

    #[test]
    fn a_file_system_without_project_quotas_says_so() {
        let dir = File::open("/proc").expect("opens");
        let error = set_project(&dir, 1).expect_err("refused");
        assert_eq!(error.errno(), Some(Errno::ENOTTY), "{error}");
        assert!(limit_project(&dir, 1, 1 << 20).is_err());
    }
}
