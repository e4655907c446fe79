//! LXC on this node: one `lxc-start` in the foreground per guest, and the cgroups around it.
//!
//! ```text
//! guests/qvd-<vm>/            ours; killed as a whole when all else fails
//!   launch/                   lxc-start's first home, so that it is never in this daemon's cgroup
//!   monitor/                  where LXC moves it
//!   limit/                    ours, with the limits: out of the guest's reach, and not LXC's to set
//!     payload/                the guest
//! ```
//!
//! LXC refuses to start when `monitor` or `payload` exist already. `lxc-start` is no child to look after:
//! it outlives this daemon, and the next one finds it by its cgroup.

use crate::{files, paths::Paths};
use model::{VmId, paths};
use nix::{net::if_::if_nametoindex, sys::signal::Signal};
use std::{
    fs, io,
    os::fd::{AsRawFd, RawFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use sys::{
    cgroup::{Cgroup, Controller},
    spawn::{Child, Command, ProcessRef},
};

/// The program.
pub const LXC_START: &str = "/usr/bin/lxc-start";
/// Killed processes are gone within this time, unless the kernel holds them.
const DEATH: Duration = Duration::from_secs(20);
/// The kernel takes a guest's network away in the background; it needs milliseconds.
const PORT_GONE: Duration = Duration::from_secs(10);

/// Why LXC could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LxcError {
    /// A file of the guest could not be written.
    #[error("Cannot write {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Remains of this guest run still.
    #[error("Processes of this guest run already: {0:?}")]
    Running(Vec<i32>),
    /// Processes do not die.
    #[error("Processes {0:?} do not die: the kernel waits for a disk or a network file system")]
    Undying(Vec<i32>),
    /// The port of a guest that has ended is still there.
    #[error("The network port {0} of a guest that has ended does not go away")]
    Port(String),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] sys::Error),
}

/// What a guest may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Memory, MiB.
    pub memory_mib: u32,
    /// CPUs; 0 is no limit.
    pub cpus: f64,
    /// Processes and threads.
    pub pids: u32,
}

/// A guest's `lxc-start`. Its descriptor is readable once it has ended; then it is reaped on drop, if it is ours to reap.
#[derive(Debug)]
pub struct Monitor {
    process: ProcessRef,
    child: Option<Child>,
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.process.as_raw_fd()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // One that still runs is let go; PID 1 reaps it when this daemon is gone.
        if let Some(Err(error)) = self.child.as_ref().map(Child::try_wait) {
            tracing::warn!(%error, "Cannot reap lxc-start");
        }
    }
}

/// LXC and the cgroups of guests.
#[derive(Clone, Debug)]
pub struct Lxc {
    paths: Paths,
    top: Cgroup,
    controllers: Vec<Controller>,
}

impl Lxc {
    /// Makes the top of the guests' tree below `root`.
    pub fn open(paths: &Paths, root: &Cgroup) -> Result<Self, LxcError> {
        let available = root.available()?;
        let has = |c: &Controller| available.iter().any(|name| *name == format!("{c:?}").to_lowercase());
        let controllers: Vec<_> = Controller::ALL.into_iter().filter(has).collect();
        if controllers.len() < Controller::ALL.len() {
            tracing::warn!(
                ?available,
                "The kernel lacks cgroup controllers: guests are limited less than they should be"
            );
        }
        root.enable(&controllers)?;
        let top = root.child("guests")?;
        top.enable(&controllers)?;
        for dir in [paths.at(paths::RUN_GUESTS), paths.run.join("lxc"), paths.run.join("rootfs")] {
            files::make_dir(&dir, 0o755).map_err(|source| LxcError::File { path: dir, source })?;
        }
        Ok(Self { paths: paths.clone(), top, controllers })
    }

    /// Directory of a guest's runtime files.
    pub fn dir(&self, vm: VmId) -> PathBuf {
        self.paths.at(paths::RUN_GUESTS).join(vm.to_string())
    }

    /// Name of a guest's cgroup, from the top of the tree.
    pub fn cgroup_name(vm: VmId) -> String {
        format!("guests/{}", name(vm))
    }

    /// Where LXC assembles roots.
    pub fn mount_point(&self) -> PathBuf {
        self.paths.run.join("rootfs")
    }

    /// Guests that have a cgroup, whether anything runs in it or not.
    pub fn remains(&self) -> Vec<VmId> {
        let entries = fs::read_dir(self.top.path()).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().to_str()?.strip_prefix("qvd-")?.parse().ok()).collect()
    }

    /// Starts a guest with this configuration. It runs when this returns; whether it gets far is another matter.
    pub fn launch(&self, vm: VmId, config: &str, limits: Limits) -> Result<Monitor, LxcError> {
        let group = self.make_groups(vm, limits)?;
        let dir = self.dir(vm);
        let (file, log) = (dir.join("config"), dir.join("lxc.log"));
        files::replace(&file, config.as_bytes(), 0o600)
            .map_err(|source| LxcError::File { path: file.clone(), source })?;
        for old in [&log, &dir.join("console.log")] {
            // LXC appends; the last start's lines would be taken for this one's.
            fs::remove_file(old).ok();
        }
        let mut command = Command::new(LXC_START);
        command.args(["-F", "-n", &name(vm), "-l", "WARN", "-P"]).arg(self.paths.run.join("lxc"));
        command.arg("-f").arg(file).arg("-o").arg(log);
        let child = command.cgroup(&group.child("launch")?).new_session().oom_score(0).spawn()?;
        Ok(Monitor { process: ProcessRef::open(child.pid())?, child: Some(child) })
    }

    fn make_groups(&self, vm: VmId, limits: Limits) -> Result<Cgroup, LxcError> {
        let group = self.top.child(&name(vm))?;
        let there = processes(group.path());
        if !there.is_empty() {
            return Err(LxcError::Running(there));
        }
        group.enable(&self.controllers)?;
        let limit = group.child("limit")?;
        limit.enable(&self.controllers)?;
        self.limit(vm, limits)?;
        Ok(group)
    }

    /// Sets what a guest may use, now and as long as it lives.
    pub fn limit(&self, vm: VmId, limits: Limits) -> Result<(), LxcError> {
        let group = Cgroup::at(self.top.path().join(name(vm)).join("limit"));
        for controller in &self.controllers {
            match controller {
                Controller::Memory => group.limit_memory(Some(u64::from(limits.memory_mib) << 20))?,
                Controller::Cpu if limits.cpus > 0.0 => group.limit_cpu(Some((limits.cpus * 100.0).ceil() as u32))?,
                Controller::Cpu => group.limit_cpu(None)?,
                Controller::Pids => group.limit_pids(Some(limits.pids.into()))?,
                Controller::Cpuset | Controller::Io => {}
            }
        }
        Ok(())
    }

    /// The `lxc-start` of a guest, if it runs: whoever started it.
    pub fn find(&self, vm: VmId) -> Option<Monitor> {
        let group = self.top.path().join(name(vm));
        let pids = ["monitor", "launch"].map(|home| Cgroup::at(group.join(home)).processes().unwrap_or_default());
        pids.concat()
            .into_iter()
            .find_map(|pid| ProcessRef::open(pid).ok())
            .filter(|process| !process.ended())
            .map(|process| Monitor { process, child: None })
    }

    /// Asks a guest's init to shut down, by the signal that LXC would send.
    pub fn power_off(&self, vm: VmId) -> Result<(), LxcError> {
        let Some(monitor) = self.find(vm) else { return Ok(()) };
        let pid = monitor.process.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            ProcessRef::open(child)?.signal(Signal::SIGPWR)?;
        }
        Ok(())
    }

    /// Kills the guest; LXC's monitor then ends by itself, after it has cleaned up.
    pub fn kill(&self, vm: VmId) -> Result<(), LxcError> {
        let guest = Cgroup::at(self.top.path().join(name(vm)).join("limit"));
        if guest.exists() { Ok(guest.kill()?) } else { Ok(()) }
    }

    /// Removes all that is left of a guest's processes, cgroups and port. Blocks; harmless when nothing is left.
    pub fn clean(&self, vm: VmId) -> Result<(), LxcError> {
        let group = Cgroup::at(self.top.path().join(name(vm)));
        if group.exists() {
            group.kill()?;
            if !group.wait_empty(DEATH)? {
                return Err(LxcError::Undying(processes(group.path())));
            }
            group.remove()?;
        }
        wait_port_gone(&port(vm))
    }

    /// Processes of the guest that were killed for want of memory.
    pub fn oom_kills(&self, vm: VmId) -> u64 {
        let group = Cgroup::at(self.top.path().join(name(vm)).join("limit"));
        group.oom_kills().unwrap_or(0)
    }

    /// What LXC says went wrong first in this start.
    pub fn first_error(&self, vm: VmId) -> Option<String> {
        let log = fs::read(self.dir(vm).join("lxc.log")).ok()?;
        first_error(&String::from_utf8_lossy(&log))
    }

    /// The last line that the guest wrote to its console.
    pub fn last_console_line(&self, vm: VmId) -> Option<String> {
        last_line(&tail(&self.dir(vm).join("console.log"), 4096)?)
    }
}

/// LXC's name of a guest.
pub fn name(vm: VmId) -> String {
    format!("qvd-{vm}")
}

/// Name of a guest's port on the bridge.
pub fn port(vm: VmId) -> String {
    format!("vg{vm}")
}

/// Pids in a cgroup and below.
fn processes(group: &Path) -> Vec<i32> {
    let mut pids = Cgroup::at(group).processes().unwrap_or_default();
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            pids.extend(processes(&entry.path()));
        }
    }
    pids
}

/// A port that lives on would make the next start of the guest fail.
fn wait_port_gone(port: &str) -> Result<(), LxcError> {
    let until = Instant::now() + PORT_GONE;
    while if_nametoindex(port).is_ok() {
        if Instant::now() > until {
            return Err(LxcError::Port(port.to_owned()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The message of the first line of level ERROR: later ones only say what failed as a consequence.
fn first_error(log: &str) -> Option<String> {
    let line = log.lines().find(|line| line.contains(" ERROR "))?;
    // "lxc-start NAME TIME ERROR module - file:function:line - message"
    let message = line.splitn(3, " - ").nth(2).unwrap_or(line);
    Some(printable(message))
}

fn last_line(text: &str) -> Option<String> {
    text.lines().map(printable).rfind(|line| !line.trim().is_empty())
}

/// A guest writes what it likes: only its plain characters are shown, and not too many.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

fn tail(path: &Path, most: usize) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(most)..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_of_a_log_is_the_cause() {
        let log = "\
lxc-start qvd-12 20261121020633.330 WARN     conf - ../src/lxc/conf.c:lxc_map_ids:3628 - newuidmap binary is missing
lxc-start qvd-12 20261121020633.337 ERROR    utils - ../src/lxc/utils.c:mkdir_p:236 - Permission denied - Failed to create directory \"/x/work\"
lxc-start qvd-12 20261121020633.337 ERROR    conf - ../src/lxc/conf.c:lxc_setup:4375 - Failed to setup rootfs
";
        assert_eq!(first_error(log).expect("found"), "Permission denied - Failed to create directory \"/x/work\"");
        assert_eq!(first_error("all well\n"), None);
    }

    #[test]
    fn a_console_line_is_shown_without_its_tricks() {
        assert_eq!(last_line("one\r\n\x1b[31mtwo\x07\r\n \n").expect("found"), "[31mtwo");
        assert_eq!(last_line(""), None);
    }
}
