//! Handles of processes.

use crate::{Error, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this status.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Exit {
    /// Whether it returned 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    fn of(status: WaitStatus) -> Option<Self> {
        match status {
            WaitStatus::Exited(_, code) => Some(Self::Code(code)),
            WaitStatus::Signaled(_, signal, _) => Some(Self::Signal(signal as i32)),
            _ => None,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "status {code}"),
            Self::Signal(n) => match Signal::try_from(n) {
                Ok(signal) => f.write_str(signal.as_str()),
                Err(_) => write!(f, "signal {n}"),
            },
        }
    }
}

/// A process, child or not, that cannot be confused with a later one of the same pid.
#[derive(Debug)]
pub struct ProcessRef {
    pid: i32,
    pidfd: OwnedFd,
}

impl ProcessRef {
    /// Adopts a running process: it can be polled (readable = ended) and signalled, but only its parent learns how it
    /// ended. `ESRCH` when there is none.
    pub fn open(pid: i32) -> Result<Self> {
        // SAFETY: the call takes two numbers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::O_NONBLOCK) };
        let fd = Errno::result(fd).map_err(Error::of("open", format_args!("process {pid}")))?;
        // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
        Ok(Self { pid, pidfd: unsafe { OwnedFd::from_raw_fd(fd as i32) } })
    }

    pub(super) fn new(pid: i32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd }
    }

    /// Its pid, for messages and for files named by pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal; `Ok(false)` when the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<bool> {
        let null = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: a null siginfo is allowed and means that of kill(2).
        let r = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.as_raw_fd(), signal as libc::c_int, null, 0)
        };
        match Errno::result(r) {
            Ok(_) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(e) => Err(Error::of("signal", format_args!("process {}", self.pid))(e)),
        }
    }

    /// Whether it has ended (a zombie counts as ended).
    pub fn ended(&self) -> bool {
        crate::poll::readable(self.pidfd.as_fd(), Some(std::time::Duration::ZERO)).unwrap_or(true)
    }
}

impl AsFd for ProcessRef {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for ProcessRef {
    fn as_raw_fd(&self) -> i32 {
        self.pidfd.as_raw_fd()
    }
}

/// A child of this process. Dropping it neither kills nor reaps.
#[derive(Debug)]
pub struct Child {
    process: ProcessRef,
    /// Write end, when standard input was asked to be a pipe.
    pub stdin: Option<File>,
    /// Read end, when standard output was asked to be a pipe.
    pub stdout: Option<File>,
    /// Read end, when standard error was asked to be a pipe.
    pub stderr: Option<File>,
}

impl Child {
    pub(super) fn new(process: ProcessRef, pipes: [Option<File>; 3]) -> Self {
        let [stdin, stdout, stderr] = pipes;
        Self { process, stdin, stdout, stderr }
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Sends a signal; `Ok(false)` when the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<bool> {
        self.process.signal(signal)
    }

    /// Kills it; `Ok(false)` when it has ended.
    pub fn kill(&self) -> Result<bool> {
        self.signal(Signal::SIGKILL)
    }

    /// Reaps it if it has ended. Only once, and never where [`reap_any`] runs: that takes the answer away (`ECHILD`).
    pub fn try_wait(&self) -> Result<Option<Exit>> {
        self.wait_with(WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)
    }

    /// Blocks until it ends, and reaps it.
    pub fn wait(&self) -> Result<Exit> {
        loop {
            if let Some(exit) = self.wait_with(WaitPidFlag::WEXITED)? {
                return Ok(exit);
            }
        }
    }

    fn wait_with(&self, flags: WaitPidFlag) -> Result<Option<Exit>> {
        match waitid(Id::PIDFd(self.process.as_fd()), flags) {
            Ok(status) => Ok(Exit::of(status)),
            // With WNOHANG nix reports a child that still runs as StillAlive; EAGAIN is the kernel's word for
            // non-blocking pidfds.
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(e) => Err(Error::of("wait for", format_args!("process {}", self.pid()))(e)),
        }
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

impl AsRawFd for Child {
    fn as_raw_fd(&self) -> i32 {
        self.process.as_raw_fd()
    }
}

/// Reaps one ended child, whichever: for PID 1 alone, which inherits every orphan. None when nothing has ended.
pub fn reap_any() -> Result<Option<(i32, Exit)>> {
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(status) => match (status.pid(), Exit::of(status)) {
                (Some(pid), Some(exit)) => return Ok(Some((pid.as_raw(), exit))),
                (None, _) => return Ok(None),
                _ => {}
            },
            Err(Errno::ECHILD) => return Ok(None),
            Err(Errno::EINTR) => {}
            // A real-time signal killed it: nix has no name for that, but it is reaped all the same.
            Err(Errno::EINVAL) => {}
            Err(e) => return Err(Error::of("wait for", "any child")(e)),
        }
    }
}
