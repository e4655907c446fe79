//! Creating processes, and waiting for exactly those.
//!
//! Every child is held by a pidfd: it can be polled (`tokio::io::unix::AsyncFd<Child>`), signalled and waited for
//! without ever meeting a reused pid. A child starts in the cgroup it was asked to be in, never a moment elsewhere,
//! with no signal blocked or caught, with the descriptors it was given and no others, and with an environment that
//! holds nothing but `PATH` and what the caller adds.
//!
//! ```no_run
//! use std::time::Duration;
//! let mut nft = sys::spawn::Command::new("/usr/sbin/nft");
//! nft.args(["-c", "-f", "-"]);
//! sys::spawn::run(&mut nft, b"flush ruleset\n", Duration::from_secs(5))?.ok()?;
//! # Ok::<(), sys::Error>(())
//! ```

mod child;
mod clone;
mod plan;
mod run;

pub use child::{Child, Exit, ProcessRef, reap_any};
pub(crate) use clone::{CLONE_NEWUSER, Forked, fork};
pub use run::{Output, run};

use crate::cgroup::Cgroup;
use std::ffi::OsString;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

/// What a standard stream of a child is.
#[derive(Debug, Default)]
pub enum Stdio {
    /// `/dev/null`.
    #[default]
    Null,
    /// The caller's own.
    Inherit,
    /// A pipe, whose other end is in [`Child`].
    Pipe,
    /// This descriptor.
    Fd(OwnedFd),
}

/// A process to be made. Streams are [`Stdio::Null`] unless said otherwise.
#[derive(Debug)]
pub struct Command {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: PathBuf,
    streams: [Stdio; 3],
    fds: Vec<(OwnedFd, RawFd)>,
    user: Option<User>,
    drop_capabilities: bool,
    die_with_parent: bool,
    new_session: bool,
    oom_score: Option<i16>,
    open_files: Option<u64>,
    cgroup: Option<Cgroup>,
}

#[derive(Debug)]
struct User {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Command {
    /// Will run the program at this absolute path.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: vec![("PATH".into(), "/usr/sbin:/usr/bin".into())],
            dir: "/".into(),
            streams: Default::default(),
            fds: Vec::new(),
            user: None,
            drop_capabilities: false,
            die_with_parent: false,
            new_session: false,
            oom_score: None,
            open_files: None,
            cgroup: None,
        }
    }

    /// Adds an argument.
    pub fn arg(&mut self, arg: impl Into<OsString>) -> &mut Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(&mut self, args: impl IntoIterator<Item = A>) -> &mut Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of the environment; the last value of a name wins.
    pub fn env(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> &mut Self {
        let name = name.into();
        self.env.retain(|(n, _)| *n != name);
        self.env.push((name, value.into()));
        self
    }

    /// Starts in this directory instead of `/`.
    pub fn dir(&mut self, dir: impl Into<PathBuf>) -> &mut Self {
        self.dir = dir.into();
        self
    }

    /// Standard input.
    pub fn stdin(&mut self, stream: Stdio) -> &mut Self {
        self.streams[0] = stream;
        self
    }

    /// Standard output.
    pub fn stdout(&mut self, stream: Stdio) -> &mut Self {
        self.streams[1] = stream;
        self
    }

    /// Standard error.
    pub fn stderr(&mut self, stream: Stdio) -> &mut Self {
        self.streams[2] = stream;
        self
    }

    /// Passes a descriptor under this number (3 or more).
    pub fn fd(&mut self, fd: impl Into<OwnedFd>, number: RawFd) -> &mut Self {
        self.fds.push((fd.into(), number));
        self
    }

    /// Runs as this user, group and further groups. Needs `CAP_SETUID` and `CAP_SETGID`.
    pub fn user(&mut self, uid: u32, gid: u32, groups: &[u32]) -> &mut Self {
        self.user = Some(User { uid, gid, groups: groups.to_vec() });
        self
    }

    /// Takes every capability away for good: bounding set empty, no new privileges by exec.
    pub fn drop_capabilities(&mut self) -> &mut Self {
        self.drop_capabilities = true;
        self
    }

    /// Killed when the *thread* that spawns it ends: of use only from a thread that lives as long as the program.
    pub fn die_with_parent(&mut self) -> &mut Self {
        self.die_with_parent = true;
        self
    }

    /// Leads a session and process group of its own, without a terminal.
    pub fn new_session(&mut self) -> &mut Self {
        self.new_session = true;
        self
    }

    /// `oom_score_adj`, -1000 (never) to 1000 (first); inherited when not said.
    pub fn oom_score(&mut self, score: i16) -> &mut Self {
        self.oom_score = Some(score);
        self
    }

    /// Limit of open files, soft and hard.
    pub fn open_files(&mut self, limit: u64) -> &mut Self {
        self.open_files = Some(limit);
        self
    }

    /// Starts in this cgroup (`CLONE_INTO_CGROUP`: it is never anywhere else).
    pub fn cgroup(&mut self, cgroup: &Cgroup) -> &mut Self {
        self.cgroup = Some(cgroup.clone());
        self
    }

    /// Makes the process; returns when its program runs, or with the step that failed (`ENOENT`: no such program).
    ///
    /// Descriptors given as [`Stdio::Fd`] or by [`Command::fd`] are duplicated: one command can spawn repeatedly.
    pub fn spawn(&mut self) -> crate::Result<Child> {
        plan::spawn(self)
    }
}

#[cfg(test)]
mod tests;
