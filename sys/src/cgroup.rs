//! Control groups, version 2: plain files in a tree.
//!
//! Controllers are enabled from the top down, and a group that hands controllers to its children holds no processes
//! itself (the root is the exception): so processes live in leaves only.

use crate::{Error, Result};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the tree is mounted on a node.
pub const ROOT: &str = "/sys/fs/cgroup";

/// A controller that a group hands to its children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// CPU time.
    Cpu,
    /// Which CPUs.
    Cpuset,
    /// Block I/O.
    Io,
    /// Memory.
    Memory,
    /// Number of tasks.
    Pids,
}

impl Controller {
    /// All that a node uses.
    pub const ALL: [Self; 5] = [Self::Cpu, Self::Cpuset, Self::Io, Self::Memory, Self::Pids];

    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Io => "io",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

/// A group. It is a name, not a guard: groups outlive the program that made them, as guests outlive `noded`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup(PathBuf);

/// What `cgroup.events` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// A process is in it or below.
    pub populated: bool,
    /// All of them stand still.
    pub frozen: bool,
}

impl Cgroup {
    /// The group at this path, which must be there.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The root of the tree.
    pub fn root() -> Self {
        Self::at(ROOT)
    }

    /// That of the calling process.
    pub fn own() -> Result<Self> {
        let path = "/proc/self/cgroup";
        let text = std::fs::read_to_string(path).map_err(Error::of("read", path))?;
        // Other hierarchies, of version 1, have numbers.
        let own = text.lines().find_map(|l| l.strip_prefix("0::/"));
        let own = own.ok_or_else(|| Error::Malformed {
            object: path.to_owned(),
            found: text.clone(),
            expected: "a line '0::/PATH'",
        })?;
        Ok(Self::at(Path::new(ROOT).join(own)))
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The group of this name in it, made if need be.
    pub fn child(&self, name: &str) -> Result<Self> {
        let path = self.0.join(name);
        match std::fs::create_dir(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(Error::of("create cgroup", path.display())(e))
            }
            _ => Ok(Self(path)),
        }
    }

    /// Hands controllers to its children. `EBUSY`: it holds processes. `ENOENT`: its own parent does not hand them on.
    pub fn enable(&self, controllers: &[Controller]) -> Result<()> {
        let words: Vec<_> = controllers.iter().map(|c| format!("+{}", c.name())).collect();
        self.write("cgroup.subtree_control", &words.join(" "))
    }

    /// Names of the controllers that it may hand to its children.
    pub fn available(&self) -> Result<Vec<String>> {
        Ok(self.read("cgroup.controllers")?.split_whitespace().map(str::to_owned).collect())
    }

    /// Its directory, opened for `CLONE_INTO_CGROUP`.
    pub fn open(&self) -> Result<OwnedFd> {
        open(&self.0, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(Error::of("open cgroup", self.0.display()))
    }

    /// Moves a process here.
    pub fn add(&self, pid: i32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Pids of its processes, those of its children not among them.
    pub fn processes(&self) -> Result<Vec<i32>> {
        Ok(self.read("cgroup.procs")?.lines().filter_map(|l| l.parse().ok()).collect())
    }

    /// Limits memory in bytes; none: no limit.
    pub fn limit_memory(&self, bytes: Option<u64>) -> Result<()> {
        self.write("memory.max", &limit(bytes))
    }

    /// Below this many bytes memory is taken from it only when nothing else is left.
    pub fn protect_memory(&self, bytes: u64) -> Result<()> {
        self.write("memory.low", &bytes.to_string())
    }

    /// Limits CPU time, 100 = one whole CPU; none: no limit.
    pub fn limit_cpu(&self, percent: Option<u32>) -> Result<()> {
        const PERIOD_US: u64 = 100_000;
        let quota = percent.map(|p| u64::from(p) * PERIOD_US / 100);
        self.write("cpu.max", &format!("{} {PERIOD_US}", limit(quota)))
    }

    /// Share of CPU time under contention, 1 to 10,000; the default is 100.
    pub fn weigh_cpu(&self, weight: u32) -> Result<()> {
        self.write("cpu.weight", &weight.clamp(1, 10_000).to_string())
    }

    /// Limits the number of tasks; none: no limit.
    pub fn limit_pids(&self, tasks: Option<u64>) -> Result<()> {
        self.write("pids.max", &limit(tasks))
    }

    /// Asks for all processes to stand still, or to go on; [`Cgroup::events`] tells when they do.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        self.write("cgroup.freeze", if frozen { "1" } else { "0" })
    }

    /// Kills every process in it and below, those being forked included.
    pub fn kill(&self) -> Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.0.is_dir()
    }

    /// Populated, frozen.
    pub fn events(&self) -> Result<Events> {
        Ok(parse_events(&self.read("cgroup.events")?))
    }

    /// Its event file, pollable for [`crate::poll::Interest::Priority`] (`POLLPRI`).
    pub fn watch(&self) -> Result<Watch> {
        let path = self.0.join("cgroup.events");
        File::open(&path).map(Watch).map_err(Error::of("open", path.display()))
    }

    /// Waits until no process is left in it; false when the time is over.
    pub fn wait_empty(&self, within: Duration) -> Result<bool> {
        let mut watch = self.watch()?;
        let until = Instant::now() + within;
        while watch.read()?.populated {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            crate::poll::wait(&[(watch.as_fd(), crate::poll::Interest::Priority)], Some(left))?;
        }
        Ok(true)
    }

    /// Processes in it and below that were killed for want of memory since it was made.
    pub fn oom_kills(&self) -> Result<u64> {
        Ok(field(&self.read("memory.events")?, "oom_kill"))
    }

    /// Removes it and all groups below; they must be empty of processes (`EBUSY`). Fine if it is gone.
    pub fn remove(&self) -> Result<()> {
        let entries = match std::fs::read_dir(&self.0) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(Error::of("read cgroup", self.0.display()))?,
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                Self(entry.path()).remove()?;
            }
        }
        std::fs::remove_dir(&self.0).map_err(Error::of("remove cgroup", self.0.display()))
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.0.join(file);
        // Not fs::write: a cgroup file cannot be created, and a typo must say ENOENT and not EACCES.
        let written = File::options().write(true).truncate(true).open(&path).and_then(|mut f| {
            use std::io::Write;
            f.write_all(value.as_bytes())
        });
        written.map_err(Error::of("write", format_args!("'{value}' to {}", path.display())))
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.0.join(file);
        std::fs::read_to_string(&path).map_err(Error::of("read", path.display()))
    }
}

/// An open event file.
#[derive(Debug)]
pub struct Watch(File);

impl Watch {
    /// The state now; the next change makes the descriptor ready again.
    pub fn read(&mut self) -> Result<Events> {
        let mut text = String::new();
        let read = self.0.seek(SeekFrom::Start(0)).and_then(|_| self.0.read_to_string(&mut text));
        match read {
            Ok(_) => Ok(parse_events(&text)),
            // The group is gone, and nobody was in it.
            Err(e) if e.raw_os_error() == Some(nix::libc::ENODEV) => Ok(Events::default()),
            Err(e) => Err(Error::of("read", "a cgroup's events")(e)),
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn limit(value: Option<u64>) -> String {
    value.map_or_else(|| "max".to_owned(), |v| v.to_string())
}

fn field(text: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|l| l.split_once(' '));
    lines.find(|(n, _)| *n == name).and_then(|(_, v)| v.trim().parse().ok()).unwrap_or(0)
}

fn parse_events(text: &str) -> Events {
    Events { populated: field(text, "populated") == 1, frozen: field(text, "frozen") == 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with the files of a group; what the kernel makes of them is tested on a node.
    fn group(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let dir = tempfile::tempdir().expect("dir");
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).expect("written");
        }
        let group = Cgroup::at(dir.path());
        (dir, group)
    }

    #[track_caller]
    fn check(act: impl Fn(&Cgroup) -> Result<()>, file: &str, expect: &str) {
        let (_dir, group) = group(&[(file, "old and longer")]);
        act(&group).expect("written");
        assert_eq!(group.read(file).expect("read"), expect);
    }

    #[test]
    fn limits_are_written_in_the_kernels_words() {
        check(|g| g.limit_memory(Some(1 << 30)), "memory.max", "1073741824");
        check(|g| g.limit_memory(None), "memory.max", "max");
        check(|g| g.limit_cpu(Some(150)), "cpu.max", "150000 100000");
        check(|g| g.limit_cpu(None), "cpu.max", "max 100000");
        check(|g| g.limit_pids(Some(2000)), "pids.max", "2000");
        check(|g| g.weigh_cpu(0), "cpu.weight", "1");
        check(|g| g.freeze(true), "cgroup.freeze", "1");
        check(|g| g.kill(), "cgroup.kill", "1");
        check(|g| g.add(42), "cgroup.procs", "42");
        let all = "+cpu +cpuset +io +memory +pids";
        check(|g| g.enable(&Controller::ALL), "cgroup.subtree_control", all);
    }

    #[test]
    fn a_missing_controller_is_named_by_its_file() {
        let (dir, group) = group(&[]);
        let error = group.limit_memory(Some(1)).expect_err("refused");
        assert!(error.to_string().ends_with("/memory.max"), "{error}");
        assert!(error.is(crate::Errno::ENOENT) && !dir.path().join("memory.max").exists());
    }

    #[test]
    fn events_and_processes_are_read() {
        let (_dir, group) = group(&[
            ("memory.events", "low 0\noom 1\noom_kill 2\n"),
            ("cgroup.events", "populated 1\nfrozen 0\n"),
            ("cgroup.procs", "1\n22\n"),
        ]);
        assert_eq!(group.oom_kills().expect("read"), 2);
        assert_eq!(group.events().expect("read"), Events { populated: true, frozen: false });
        assert_eq!(group.processes().expect("read"), [1, 22]);
    }

    #[test]
    fn a_tree_is_made_and_removed() {
        let (_dir, group) = group(&[]);
        let guests = group.child("guests").expect("made");
        assert_eq!(group.child("guests").expect("there"), guests);
        guests.child("a").expect("made").child("b").expect("made");
        guests.remove().expect("removed");
        assert!(!guests.exists() && guests.remove().is_ok());
    }
}
