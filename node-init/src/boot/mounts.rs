//! What is mounted before anything else can be.

use super::phases::BootError;
use crate::fail::{Failure, chain};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::convert::Infallible;
use std::ffi::CString;
use std::path::Path;
use sys::mount::{MsFlags, is_mount_point, mount, move_to};

/// Proof that the kernel's file systems are in place.
pub struct Mounted(());

const STRICT: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const NO_PROGRAMS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);

/// Type, where, flags, options.
type Entry = (&'static str, &'static str, MsFlags, &'static str);

const EARLY: &[Entry] = &[
    ("devtmpfs", "/dev", NO_PROGRAMS, "mode=0755"),
    ("proc", "/proc", STRICT, ""),
    ("sysfs", "/sys", STRICT, ""),
    ("tmpfs", "/run", STRICT, "mode=0755,size=25%"),
];

const LATER: &[Entry] = &[
    ("tmpfs", "/tmp", STRICT, "mode=1777,size=25%"),
    ("cgroup2", "/sys/fs/cgroup", STRICT, "nsdelegate,memory_recursiveprot"),
    ("devpts", "/dev/pts", NO_PROGRAMS, "mode=0620,gid=5,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", STRICT, "mode=1777"),
];

/// Mounted where the kernel has it: a machine without UEFI is not broken.
const EFIVARS: Entry = ("efivarfs", "/sys/firmware/efi/efivars", STRICT, "");
/// The kernel reads all of the firmware's variables when it is mounted: not in the way of the boot.
const PSTORE: Entry = ("pstore", "/sys/fs/pstore", STRICT, "");

/// Path, major and minor number: what `modules.devname` lists of what a node has.
const DEVICE_FILES: &[(&str, u64, u64)] = &[
    ("/dev/loop-control", 10, 237),
    ("/dev/net/tun", 10, 200),
    ("/dev/vhost-net", 10, 238),
    ("/dev/vhost-vsock", 10, 241),
];

/// In the initrd: without these there is not even a log to complain in.
pub fn kernel_interfaces() -> Result<(), Failure> {
    let early = || -> Result<(), sys::Error> {
        EARLY.iter().try_for_each(mount_entry)?;
        make(Path::new(model::paths::RUN))
    };
    early().map_err(|e| Failure {
        phase: "early-mounts",
        what: chain(&e),
        advice: "The image is damaged. Write it again.",
    })?;
    take_console();
    panic_reboots();
    helper_is("/init");
    Ok(())
}

/// A dead end is a reboot, which boot counting understands; without `panic=` Debian's kernel would hang for ever.
fn panic_reboots() {
    let path = "/proc/sys/kernel/panic";
    if std::fs::read_to_string(path).is_ok_and(|seconds| seconds.trim() == "0")
        && let Err(e) = std::fs::write(path, "10")
    {
        tracing::warn!(error = %e, "A kernel panic will not reboot");
    }
}

/// On the root: the rest.
pub fn the_rest() -> Result<Mounted, BootError> {
    // They moved over from the initrd, unless somebody booted this root by other means.
    EARLY.iter().try_for_each(mount_entry)?;
    make(Path::new(model::paths::RUN))?;
    panic_reboots();
    helper_is(crate::SELF);
    LATER.iter().try_for_each(mount_entry)?;
    if let Err(e) = optional(&EFIVARS) {
        tracing::warn!(error = %chain(&e), "Not mounted");
    }
    var()?;
    link("/proc/self/fd", "/dev/fd")?;
    DEVICE_FILES.iter().try_for_each(device_file)?;
    Ok(Mounted(()))
}

/// Mounts what the kernel keeps of earlier panics, where it does.
pub fn pstore() -> Result<(), sys::Error> {
    optional(&PSTORE)
}

fn optional(entry: &Entry) -> Result<(), sys::Error> {
    if Path::new(entry.1).is_dir() { mount_entry(entry) } else { Ok(()) }
}

/// A character device whose driver the kernel loads when somebody opens it; until then nothing else makes its file.
fn device_file(&(path, major, minor): &(&str, u64, u64)) -> Result<(), sys::Error> {
    let path = Path::new(path);
    path.parent().map_or(Ok(()), make)?;
    let made = mknod(path, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, makedev(major, minor));
    match made {
        Err(e) if e != sys::Errno::EEXIST => Err(sys::Error::of("create", path.display())(e)),
        _ => Ok(()),
    }
}

/// What the image's links from `/var` point to, and homes there of users that services run as.
fn var() -> Result<(), sys::Error> {
    use std::os::unix::fs::PermissionsExt;
    for name in ["lock", "var/cache", "var/lib/lxc", "var/log", "var/tmp"] {
        make(&Path::new("/run").join(name))?;
    }
    let open = std::fs::Permissions::from_mode(0o1777);
    std::fs::set_permissions("/run/var/tmp", open).map_err(sys::Error::of("open up", "/run/var/tmp"))?;
    for (uid, gid, home) in homes(&std::fs::read_to_string("/etc/passwd").unwrap_or_default()) {
        make(Path::new(&home))?;
        std::os::unix::fs::chown(&home, Some(uid), Some(gid)).map_err(sys::Error::of("give away", &home))?;
    }
    Ok(())
}

/// User, group and home of all who live below `/var`, from the text of `/etc/passwd`.
fn homes(passwd: &str) -> Vec<(u32, u32, String)> {
    let user = |line: &str| {
        let fields: Vec<_> = line.split(':').collect();
        let [_, _, uid, gid, _, home, _] = fields.as_slice() else { return None };
        let below_var = home.starts_with("/var/") && !home.split('/').any(|part| part == "..");
        Some((uid.parse().ok()?, gid.parse().ok()?, (*home).to_owned())).filter(|_| below_var)
    };
    passwd.lines().filter_map(user).collect()
}

fn mount_entry(&(kind, target, flags, options): &Entry) -> Result<(), sys::Error> {
    let target = Path::new(target);
    if is_mount_point(target).unwrap_or(false) {
        return Ok(());
    }
    // On the root, which is read-only, only folders of devtmpfs and sysfs are made here.
    if !target.is_dir() {
        make(target)?;
    }
    mount(kind, target, kind, flags, options)
}

fn make(path: &Path) -> Result<(), sys::Error> {
    std::fs::create_dir_all(path).map_err(sys::Error::of("create", path.display()))
}

fn link(to: &str, at: &str) -> Result<(), sys::Error> {
    match std::os::unix::fs::symlink(to, at) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(sys::Error::of("link", at)(e)),
        _ => Ok(()),
    }
}

/// The kernel asks this program for modules instead of `/sbin/modprobe`, which no image has.
fn helper_is(program: &str) {
    if let Err(e) = std::fs::write("/proc/sys/kernel/modprobe", program) {
        tracing::warn!(error = %e, "The kernel cannot ask for modules");
    }
}

/// The kernel opened the console for us only if the initrd had its device file.
fn take_console() {
    if let Ok(console) = std::fs::File::options().read(true).write(true).open("/dev/console") {
        // Without a console the streams stay what they are, and nobody reads them.
        let _ = nix::unistd::dup2_stdin(&console);
        let _ = nix::unistd::dup2_stdout(&console);
        let _ = nix::unistd::dup2_stderr(&console);
    }
}

/// Makes this root the only one and runs its `node-init`, with this argument.
pub fn switch_to(root: &Path, argument: Option<&str>) -> Result<Infallible, BootError> {
    for &(_, target, _, _) in EARLY {
        move_to(target, root.join(target.trim_start_matches('/')))?;
    }
    nix::unistd::chdir(root).map_err(sys::Error::of("enter", root.display()))?;
    empty_initrd();
    move_to(".", "/")?;
    nix::unistd::chroot(".").map_err(sys::Error::of("change the root to", root.display()))?;
    nix::unistd::chdir("/").map_err(sys::Error::of("enter", "/"))?;
    let program = CString::new(crate::SELF).unwrap_or_default();
    let argument = argument.and_then(|a| CString::new(a).ok());
    let words: Vec<_> = std::iter::once(&program).chain(&argument).collect();
    let Err(e) = nix::unistd::execve(&program, &words, &[c"PATH=/usr/sbin:/usr/bin"]);
    Err(sys::Error::of("run", crate::SELF)(e).into())
}

/// The initrd's files are memory for as long as they exist.
fn empty_initrd() {
    use std::os::unix::fs::MetadataExt;
    let Ok(device) = std::fs::metadata("/").map(|m| m.dev()) else { return };
    for entry in std::fs::read_dir("/").into_iter().flatten().flatten() {
        // Never across a mount: the new root is one of these folders.
        let Ok(meta) = std::fs::symlink_metadata(entry.path()) else { continue };
        if meta.dev() != device {
            continue;
        }
        // What cannot be removed costs memory and nothing else.
        let _ = if meta.is_dir() { std::fs::remove_dir_all(entry.path()) } else { std::fs::remove_file(entry.path()) };
    }
}

#[cfg(test)]
mod tests {
    use super::homes;

    #[test]
    fn only_users_below_var_get_a_home() {
        let passwd = "root:x:0:0:root:/root:/usr/sbin/nologin\nrouter:x:900:900::/:\n_chrony:x:902:903::/var/lib/chrony:\n\
                      bad:x:1:1::/var/../etc:\nshort:x\nnobody:x:a:1::/var/x:\n";
        assert_eq!(homes(passwd), [(902, 903, "/var/lib/chrony".to_owned())]);
    }
}
