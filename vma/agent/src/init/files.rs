//! What a guest's programs expect to find, where neither LXC nor the image has provided it.

use super::or_log;
use crate::error::{Error, Result};
use nix::mount::{MsFlags, mount};
use std::{
    collections::HashSet,
    fs, io,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Does it all; a failure costs only what it is about.
pub fn prepare() {
    let mounts = or_log(mount_points(), "Cannot read the mounts").unwrap_or_default();
    for (path, kind, flags, options) in MOUNTS {
        if !mounts.contains(Path::new(path)) {
            or_log(mount_one(path, kind, *flags, options), "Cannot mount");
        }
    }
    or_log(fresh_run(&mounts), "Cannot clear /run");
    or_log(fresh_tmp(), "Cannot prepare /tmp");
    or_log(machine_id(Path::new("/etc/machine-id")), "Cannot write the machine id");
    or_log(names(), "Cannot write the host's names");
    or_log(resolver(), "Cannot write the resolver's file");
}

const SAFE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
/// `/run` is not here: LXC has mounted the agent's socket below it, which a mount on it would hide.
const MOUNTS: &[(&str, &str, MsFlags, &str)] = &[
    ("/proc", "proc", SAFE.union(MsFlags::MS_NOEXEC), ""),
    ("/sys", "sysfs", SAFE.union(MsFlags::MS_NOEXEC), ""),
    ("/dev", "devtmpfs", MsFlags::MS_NOSUID, "mode=0755"),
    ("/dev/pts", "devpts", MsFlags::MS_NOSUID, "mode=0620,ptmxmode=0666,gid=5"),
    ("/dev/shm", "tmpfs", SAFE, "mode=1777"),
];

fn mount_points() -> Result<HashSet<PathBuf>> {
    let table = match fs::read_to_string("/proc/self/mounts") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        table => table.map_err(Error::file("read", "/proc/self/mounts"))?,
    };
    Ok(table.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from).collect())
}

fn mount_one(path: &str, kind: &str, flags: MsFlags, options: &str) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::file("create", path))?;
    mount(Some(kind), path, Some(kind), flags, Some(options)).map_err(Error::call("mount", format!("{kind} on {path}")))
}

/// `/run` belongs to one boot, also where the writable layer outlives it. Mounts and what leads to them stay.
fn fresh_run(mounts: &HashSet<PathBuf>) -> Result<()> {
    let run = Path::new("/run");
    if !mounts.contains(run) {
        clear(run, mounts)?;
    }
    for (dir, mode) in [("/run/lock", 0o1777), ("/run/user", 0o755), ("/run/dbus", 0o755)] {
        make_dir(dir, mode)?;
    }
    Ok(())
}

fn clear(dir: &Path, mounts: &HashSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::file("read", dir))? {
        let entry = entry.map_err(Error::file("read", dir))?;
        let path = entry.path();
        if mounts.contains(&path) {
            continue;
        }
        let is_dir = entry.file_type().map_err(Error::file("look at", &path))?.is_dir();
        if is_dir && mounts.iter().any(|mount| mount.starts_with(&path)) {
            clear(&path, mounts)?;
        } else if is_dir {
            fs::remove_dir_all(&path).map_err(Error::file("remove", &path))?;
        } else {
            fs::remove_file(&path).map_err(Error::file("remove", &path))?;
        }
    }
    Ok(())
}

/// Displays of an earlier boot go; the socket directories must be root's, or X refuses them.
fn fresh_tmp() -> Result<()> {
    make_dir("/tmp", 0o1777)?;
    for entry in fs::read_dir("/tmp").map_err(Error::file("read", "/tmp"))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(".X") && name.ends_with("-lock") {
            fs::remove_file(entry.path()).map_err(Error::file("remove", entry.path()))?;
        }
    }
    for dir in ["/tmp/.X11-unix", "/tmp/.ICE-unix"] {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(Error::file("remove", dir))?,
        }
        make_dir(dir, 0o1777)?;
    }
    Ok(())
}

fn make_dir(path: &str, mode: u32) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::file("create", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Error::file("set the mode of", path))
}

/// An image has none: all its guests would be the same machine.
fn machine_id(path: &Path) -> Result<()> {
    let known = fs::read_to_string(path).is_ok_and(|id| id.trim().len() == 32);
    if known {
        return Ok(());
    }
    let source = "/proc/sys/kernel/random/uuid";
    let uuid = fs::read_to_string(source).map_err(Error::file("read", source))?;
    fs::write(path, uuid.trim().replace('-', "") + "\n").map_err(Error::file("write", path))
}

/// The host's name is LXC's; the files follow it, so that the name resolves.
fn names() -> Result<()> {
    let name = nix::unistd::gethostname().map_err(Error::call("read", "the host name"))?;
    let name = name.to_string_lossy();
    fs::write("/etc/hostname", format!("{name}\n")).map_err(Error::file("write", "/etc/hostname"))?;
    let text = format!("127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost\n");
    fs::write("/etc/hosts", text).map_err(Error::file("write", "/etc/hosts"))
}

/// Where nobody said otherwise, the gateway resolves: the node runs a name server for its guests.
fn resolver() -> Result<()> {
    let path = Path::new("/etc/resolv.conf");
    if fs::read_to_string(path).is_ok_and(|text| text.contains("nameserver")) {
        return Ok(());
    }
    let table = fs::read_to_string("/proc/net/route").map_err(Error::file("read", "/proc/net/route"))?;
    let Some(gateway) = default_gateway(&table) else { return Ok(()) };
    fs::write(path, format!("nameserver {gateway}\n")).map_err(Error::file("write", path))
}

/// Of `/proc/net/route`, whose addresses are in the machine's byte order.
fn default_gateway(table: &str) -> Option<Ipv4Addr> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (target, gateway) = (fields.next()?, fields.next()?);
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        (target == "00000000" && gateway != 0).then(|| Ipv4Addr::from(gateway.to_le_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_gateway_is_read_from_the_kernels_table() {
        let table =
            "Iface\tDestination\tGateway\tFlags\neth0\t00004D0A\t00000000\t0001\neth0\t00000000\t01004D0A\t0003\n";
        assert_eq!(default_gateway(table), Some(Ipv4Addr::new(10, 77, 0, 1)));
        assert_eq!(default_gateway("Iface\n"), None);
    }

    #[test]
    fn an_empty_machine_id_is_made_and_a_real_one_stays() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("machine-id");
        for before in ["", "uninitialized\n"] {
            fs::write(&path, before).expect("write");
            machine_id(&path).expect("made");
            let made = fs::read_to_string(&path).expect("read");
            assert_eq!(made.trim().len(), 32);
            machine_id(&path).expect("kept");
            assert_eq!(fs::read_to_string(&path).expect("read"), made);
        }
    }

    #[test]
    fn clearing_spares_mounts_and_the_way_to_them() {
        let dir = tempfile::tempdir().expect("dir");
        for path in ["roost/sock", "roost/old", "dbus"] {
            fs::create_dir_all(dir.path().join(path)).expect("dir");
        }
        fs::write(dir.path().join("pid"), "1").expect("file");
        clear(dir.path(), &HashSet::from([dir.path().join("roost/sock")])).expect("cleared");
        assert!(dir.path().join("roost/sock").exists());
        for gone in ["roost/old", "dbus", "pid"] {
            assert!(!dir.path().join(gone).exists(), "{gone}");
        }
    }
}
