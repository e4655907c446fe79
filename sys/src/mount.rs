//! Mounts, and guards that undo them.

use crate::{Error, Result};
use nix::libc;
pub use nix::mount::{MntFlags, MsFlags};
use std::ffi::{CString, OsString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Mounts a file system of this type; `source` is a device, or any word where the type needs none.
pub fn mount(source: impl AsRef<Path>, target: impl AsRef<Path>, kind: &str, flags: MsFlags, data: &str) -> Result<()> {
    let (source, target) = (source.as_ref(), target.as_ref());
    nix::mount::mount(Some(source), target, Some(kind), flags, Some(data))
        .map_err(Error::of("mount", format_args!("{} ({kind}) on {}", source.display(), target.display())))
}

/// Makes `source` (a file or a directory) visible at `target` too. `flags` such as read-only and nosuid take effect.
pub fn bind(source: impl AsRef<Path>, target: impl AsRef<Path>, flags: MsFlags) -> Result<()> {
    let (source, target) = (source.as_ref(), target.as_ref());
    let what = || format!("{} on {}", source.display(), target.display());
    let none = None::<&Path>;
    nix::mount::mount(Some(source), target, none, MsFlags::MS_BIND | (flags & MsFlags::MS_REC), none)
        .map_err(Error::of("bind", what()))?;
    let rest = flags - MsFlags::MS_REC;
    if rest.is_empty() {
        return Ok(());
    }
    // A bind ignores its flags; only a remount of the bind sets them.
    remount(target, MsFlags::MS_BIND | rest).inspect_err(|_| {
        // Without its flags it must not stay: a writable view of what was asked to be read-only.
        let _ = unmount(target, MntFlags::MNT_DETACH);
    })
}

/// Changes the flags of a mount; with `MS_BIND` those of this mount point only.
pub fn remount(target: impl AsRef<Path>, flags: MsFlags) -> Result<()> {
    let (target, none) = (target.as_ref(), None::<&Path>);
    nix::mount::mount(none, target, none, MsFlags::MS_REMOUNT | flags, none)
        .map_err(Error::of("remount", target.display()))
}

/// Stops a mount and all below it from passing mounts to other namespaces.
pub fn make_private(target: impl AsRef<Path>) -> Result<()> {
    let (target, none) = (target.as_ref(), None::<&Path>);
    nix::mount::mount(none, target, none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(Error::of("make private", target.display()))
}

/// Moves a mount, with all below it, to another directory.
pub fn move_to(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<()> {
    let (source, target) = (source.as_ref(), target.as_ref());
    let none = None::<&Path>;
    nix::mount::mount(Some(source), target, none, MsFlags::MS_MOVE, none)
        .map_err(Error::of("move the mount", format_args!("{} to {}", source.display(), target.display())))
}

/// Unmounts what is mounted last at `target`; never follows a symbolic link.
pub fn unmount(target: impl AsRef<Path>, flags: MntFlags) -> Result<()> {
    let target = target.as_ref();
    nix::mount::umount2(target, flags | MntFlags::UMOUNT_NOFOLLOW).map_err(Error::of("unmount", target.display()))
}

/// Undoes a mount on drop, at once if it is idle and else as soon as it is.
#[derive(Debug)]
#[must_use = "dropping the guard undoes the mount"]
pub struct MountGuard(Option<PathBuf>);

impl MountGuard {
    /// Takes charge of what is mounted at this path.
    pub fn of(target: impl Into<PathBuf>) -> Self {
        Self(Some(target.into()))
    }

    /// Leaves the mount in place.
    pub fn keep(mut self) -> PathBuf {
        self.0.take().unwrap_or_default()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }

    /// Undoes it now; `EBUSY` while something uses it, and then it stays.
    pub fn undo(mut self) -> Result<()> {
        let target = self.0.take().unwrap_or_default();
        unmount(target, MntFlags::empty())
    }
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        if let Some(target) = self.0.take() {
            // Nobody can be told here, and a lazy unmount fails only when the mount is gone already.
            let _ = unmount(target, MntFlags::MNT_DETACH);
        }
    }
}

/// Makes sure that the kernel knows the file system `kind`: it loads the module when it has one.
pub fn know(kind: &str) -> Result<()> {
    let name = c_path(Path::new(kind))?;
    // SAFETY: `name` is a C string that outlives the call; the flags are none of the caller's.
    let fd = unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) };
    if fd < 0 {
        return Err(Error::of("use the file system", kind)(nix::errno::Errno::last()));
    }
    // SAFETY: the kernel returned a new descriptor that nobody else has.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    Ok(())
}

/// `FSOPEN_CLOEXEC` of linux/mount.h.
const FSOPEN_CLOEXEC: libc::c_int = 1;

/// A detached copy of the mount at a path (`open_tree`): seen by nobody until [`attach`] puts it somewhere.
pub fn detached_copy(source: impl AsRef<Path>) -> Result<OwnedFd> {
    let source = source.as_ref();
    let path = c_path(source)?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: path is a C string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let fd = nix::errno::Errno::result(fd).map_err(Error::of("open the tree", source.display()))?;
    // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Puts a detached mount at a path.
pub fn attach(tree: BorrowedFd<'_>, target: impl AsRef<Path>) -> Result<MountGuard> {
    let target = target.as_ref();
    let path = c_path(target)?;
    /// `MOVE_MOUNT_F_EMPTY_PATH` of linux/mount.h.
    const FROM_DESCRIPTOR: libc::c_uint = 4;
    // SAFETY: both paths are C strings that outlive the call.
    let r = unsafe {
        let empty = c"".as_ptr();
        libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), empty, libc::AT_FDCWD, path.as_ptr(), FROM_DESCRIPTOR)
    };
    nix::errno::Errno::result(r).map_err(Error::of("attach a mount at", target.display()))?;
    Ok(MountGuard::of(target))
}

pub(crate) fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::Malformed {
        object: "a path".to_owned(),
        found: path.display().to_string(),
        expected: "no zero byte",
    })
}

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Where it is.
    pub target: PathBuf,
    /// File system type.
    pub kind: String,
    /// Device, or the word given in its place.
    pub source: PathBuf,
    /// Flags of this mount, such as `rw,nosuid`.
    pub options: String,
}

/// What is mounted, in the order in which it was.
pub fn mounts() -> Result<Vec<MountInfo>> {
    let path = "/proc/self/mountinfo";
    let text = std::fs::read(path).map_err(Error::of("read", path))?;
    Ok(text.split(|&b| b == b'\n').filter_map(parse_mountinfo).collect())
}

/// Whether something is mounted at exactly this path.
pub fn is_mount_point(path: impl AsRef<Path>) -> Result<bool> {
    Ok(mounts()?.iter().any(|m| m.target == path.as_ref()))
}

fn parse_mountinfo(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|&b| b == b' ');
    let target = unescape(fields.nth(4)?);
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    let mut rest = fields.skip_while(|f| *f != b"-").skip(1);
    let kind = String::from_utf8_lossy(rest.next()?).into_owned();
    Some(MountInfo { target, options, kind, source: unescape(rest.next()?) })
}

/// The kernel writes space, tab, newline and backslash as `\ooo`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_optional_fields_and_escapes() {
        let line = br"36 35 98:0 / /mnt/a\040b rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue";
        let expect = MountInfo {
            target: "/mnt/a b".into(),
            kind: "ext3".into(),
            source: "/dev/root".into(),
            options: "rw,noatime".into(),
        };
        assert_eq!(parse_mountinfo(line), Some(expect));
        assert_eq!(parse_mountinfo(br"1 2 3:4 / /x rw -"), None);
        assert_eq!(unescape(br"a\1\999\134"), Path::new(r"a\1\999\"));
    }

    #[test]
    fn a_guard_undoes_its_mount() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("dir");
        mount("none", dir.path(), "tmpfs", MsFlags::MS_NOSUID, "size=1m").expect("mounts");
        let guard = MountGuard::of(dir.path());
        assert!(is_mount_point(dir.path()).expect("asks"));
        let copy = detached_copy(dir.path()).expect("copied");
        drop(guard);
        assert!(!is_mount_point(dir.path()).expect("asks"));
        let again = attach(std::os::fd::AsFd::as_fd(&copy), dir.path()).expect("attached");
        assert!(is_mount_point(again.path()).expect("asks"));
        drop(copy);
        again.undo().expect("undone");
    }

    #[test]
    fn a_bind_is_read_only_when_asked() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (from, to) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        bind(from.path(), to.path(), MsFlags::MS_RDONLY).expect("binds");
        let _guard = MountGuard::of(to.path());
        let error = std::fs::write(to.path().join("x"), "").expect_err("read-only");
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
}
