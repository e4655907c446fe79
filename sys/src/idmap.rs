//! Idmapped views: a directory whose ids 0, 1, 2... on disk appear as base, base + 1... where it is mounted.
//!
//! So a guest's files lie on disk with the guest's own ids, whatever range the guest runs with. Works for squashfs,
//! ext4, erofs, btrfs and xfs, and not for overlayfs, NFS, 9p and CIFS (`EINVAL`).

use crate::mount::{MountGuard, attach, c_path, detached_copy};
use crate::spawn::{CLONE_NEWUSER, Forked, fork};
use crate::{Error, Result};
use nix::errno::Errno;
use nix::libc;
use std::fs::File;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Ids `inside..inside + count` stand for `outside..outside + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First id in the namespace; for a view: on disk.
    pub inside: u32,
    /// First id outside; for a view: as seen where it is mounted.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// A user namespace that holds nothing but its maps.
#[derive(Debug)]
pub struct UserNamespace(File);

impl UserNamespace {
    /// Makes one with these maps, for users and groups alike. Needs `CAP_SETUID` and `CAP_SETGID`.
    pub fn new(ranges: &[IdRange]) -> Result<Self> {
        let (reader, writer) = std::io::pipe().map_err(Error::of("create", "a pipe"))?;
        let (reader, writer): (OwnedFd, OwnedFd) = (reader.into(), writer.into());
        // SAFETY: the child only closes, reads and ends, by raw system calls.
        match unsafe { fork(CLONE_NEWUSER, None) }? {
            // SAFETY: this is the child.
            Forked::Child => unsafe { wait_for_end_of(&reader, &writer) },
            Forked::Parent { pid, pidfd } => {
                let made = write_maps(pid, ranges).and_then(|()| open_namespace(pid));
                drop(writer);
                // Reaped here; where PID 1 reaps everything it may be gone already (ECHILD).
                let _ = nix::sys::wait::waitid(
                    nix::sys::wait::Id::PIDFd(pidfd.as_fd()),
                    nix::sys::wait::WaitPidFlag::WEXITED,
                );
                made
            }
        }
    }
}

impl AsFd for UserNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The child keeps its namespace alive until the parent lets go of the pipe.
unsafe fn wait_for_end_of(reader: &OwnedFd, writer: &OwnedFd) -> ! {
    let mut byte = 0u8;
    loop {
        // SAFETY: byte is live and one long; the rest are numbers.
        unsafe {
            libc::syscall(libc::SYS_close, writer.as_raw_fd());
            libc::syscall(libc::SYS_read, reader.as_raw_fd(), &raw mut byte, 1);
            libc::syscall(libc::SYS_exit_group, 0);
        }
    }
}

fn write_maps(pid: i32, ranges: &[IdRange]) -> Result<()> {
    let lines: String = ranges.iter().map(|r| format!("{} {} {}\n", r.inside, r.outside, r.count)).collect();
    for map in ["uid_map", "gid_map"] {
        let path = format!("/proc/{pid}/{map}");
        // One write: the kernel takes the whole map at once or not at all.
        std::fs::write(&path, &lines).map_err(Error::of("write", format_args!("the id map '{}'", lines.trim())))?;
    }
    Ok(())
}

fn open_namespace(pid: i32) -> Result<UserNamespace> {
    let path = format!("/proc/{pid}/ns/user");
    File::open(&path).map(UserNamespace).map_err(Error::of("open", path))
}

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}
const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;

/// Shows `source` at `target` with its ids mapped by the namespace.
///
/// `target` must be there, and whoever looks it up by the mapped ids must be able to search its parents (o+x).
pub fn view(
    source: impl AsRef<Path>,
    target: impl AsRef<Path>,
    map: &UserNamespace,
    read_only: bool,
) -> Result<MountGuard> {
    let tree = detached_copy(&source)?;
    let attr = MountAttr {
        set: MOUNT_ATTR_IDMAP | if read_only { MOUNT_ATTR_RDONLY } else { 0 },
        clear: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: map.0.as_raw_fd() as u64,
    };
    let empty = c_path(Path::new(""))?;
    // SAFETY: empty is a C string and attr a live mount_attr of the size told.
    let r = unsafe {
        let (path, attr) = (empty.as_ptr(), &raw const attr);
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            path,
            libc::AT_EMPTY_PATH,
            attr,
            size_of::<MountAttr>(),
        )
    };
    Errno::result(r).map_err(Error::of("map the ids of", source.as_ref().display()))?;
    attach(tree.as_fd(), target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn mount_attr_has_the_kernels_size() {
        // MOUNT_ATTR_SIZE_VER0 of linux/mount.h.
        assert_eq!(size_of::<MountAttr>(), 32);
    }

    #[test]
    fn a_namespace_has_the_maps_it_was_given() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let range = IdRange { inside: 0, outside: 200_000, count: 65_536 };
        UserNamespace::new(&[range]).expect("made");
        let overlapping = [range, IdRange { inside: 1, ..range }];
        let error = UserNamespace::new(&overlapping).expect_err("refused");
        assert_eq!(error.to_string(), "Cannot write the id map '0 200000 65536\n1 200000 65536'");
    }

    /// On tmpfs (idmappable since 6.3); an older kernel, or one without the right, says so.
    #[test]
    fn ids_on_disk_appear_shifted() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (from, to) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        crate::mount::mount("none", from.path(), "tmpfs", crate::mount::MsFlags::empty(), "").expect("tmpfs");
        let _tmpfs = MountGuard::of(from.path());
        std::fs::write(from.path().join("file"), "x").expect("written");
        let map = UserNamespace::new(&[IdRange { inside: 0, outside: 200_000, count: 65_536 }]).expect("made");
        let seen = view(from.path(), to.path(), &map, true).expect("mapped");
        assert_eq!(seen.path().join("file").metadata().expect("there").uid(), 200_000);
        assert_eq!(from.path().join("file").metadata().expect("there").uid(), 0);
        assert!(std::fs::write(seen.path().join("new"), "").is_err(), "the view is read-only");
    }
}
