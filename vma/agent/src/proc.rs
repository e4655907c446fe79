//! Processes that the agent started: run as the user, signalled without mistake, swept up afterwards.

use crate::error::{Error, Result};
use crate::user::Account;
use nix::unistd;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use std::{
    ffi::OsString,
    fs,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

/// A started process, leader of its own session. The descriptor, unlike its number, is never another's.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    fd: OwnedFd,
}

impl Process {
    /// Starts it, and calls `ended` from a thread of its own with how it went.
    pub fn start(mut command: Command, ended: impl FnOnce(String) + Send + 'static) -> Result<Self> {
        let program = command.get_program().to_owned();
        let run = |source| Error::Run { program: program.clone().into(), source };
        let mut child = command.spawn().map_err(run)?;
        let fd = match descriptor(&child) {
            Ok(fd) => fd,
            Err(source) => {
                // Without a descriptor it could not be ended safely later.
                let _gone = child.kill().and_then(|()| child.wait());
                return Err(run(source));
            }
        };
        let pid = child.id();
        spawn("wait", move || ended(child.wait().map_or_else(|e| e.to_string(), |status| status.to_string())));
        Ok(Self { pid, fd })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal; to one that has ended already is no error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(Error::call("signal", format!("process {}", self.pid))(error)),
        }
    }
}

fn descriptor(child: &Child) -> std::io::Result<OwnedFd> {
    let pid = Pid::from_raw(child.id() as i32).ok_or(std::io::ErrorKind::NotFound)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// A thread with the little stack that all of ours need.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    spawn_with(96 * 1024, name, work);
}

/// The same, with a stack of so many bytes.
pub fn spawn_with(stack: usize, name: &str, work: impl FnOnce() + Send + 'static) {
    let builder = thread::Builder::new().name(name.into()).stack_size(stack);
    if let Err(error) = builder.spawn(work) {
        tracing::error!(name, %error, "Cannot start a thread");
    }
}

/// A command that will run as this user in a new session, or as ourselves when there is none.
pub fn as_user(account: &Account, program: &Path) -> Command {
    let mut command = if account.is_self { leading(program) } else { switching(account, program) };
    command.current_dir(&account.home).stdin(Stdio::null()).env_clear();
    command
}

/// A command that will lead a new session, as ourselves, with no signal blocked.
pub fn leading(program: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("vma").args(["run-as", "-", "-", "-", "0022"]).arg(program);
    command
}

fn switching(account: &Account, program: &Path) -> Command {
    let groups: Vec<_> = account.groups.iter().map(u32::to_string).collect();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("vma")
        .arg("run-as")
        .args([account.uid.to_string(), account.gid.to_string(), groups.join(","), account.umask.clone()])
        .arg(program);
    command
}

/// `vma run-as UID GID GROUPS UMASK PROGRAM ARGUMENTS...`: becomes that user and then that program.
/// A program of its own, because between fork and exec only unsafe code can do this.
pub fn run_as(args: &[OsString]) -> anyhow::Result<ExitCode> {
    use anyhow::Context;
    let text: Vec<_> = args.iter().take(4).filter_map(|arg| arg.to_str()).collect();
    let (&[uid, gid, groups, umask], [program, rest @ ..]) = (&text[..], args.get(4..).unwrap_or_default()) else {
        anyhow::bail!("Usage: vma run-as UID GID GROUPS UMASK PROGRAM [ARGUMENT...]");
    };
    // The agent's and init's own signals are blocked, which exec keeps; nxagent waits for ever with SIGTERM blocked.
    nix::sys::signal::SigSet::empty().thread_set_mask().context("Cannot unblock signals")?;
    unistd::setsid().context("Cannot begin a session")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(u32::from_str_radix(umask, 8)?));
    if uid != "-" {
        let groups: std::result::Result<Vec<_>, _> =
            groups.split(',').map(|n| n.parse().map(unistd::Gid::from_raw)).collect();
        unistd::setgroups(&groups.context("Bad list of groups")?).context("Cannot set the groups")?;
        unistd::setgid(gid.parse::<u32>()?.into()).context("Cannot set the group")?;
        unistd::setuid(uid.parse::<u32>()?.into()).context("Cannot become the user")?;
    }
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("Cannot run {}", program.display()))
}

/// Ends what is left of the session that `leader` led: asks, and two seconds later insists.
/// A desktop's programs outlive their display when they are not looking at it.
pub fn sweep(leader: u32) {
    spawn("sweep", move || {
        signal_session(leader, Signal::TERM);
        thread::sleep(Duration::from_secs(2));
        signal_session(leader, Signal::KILL);
    });
}

/// Signals every process of the session that `leader` leads or led; how many there were.
pub fn signal_session(leader: u32, signal: Signal) -> usize {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let found = pids.filter(|pid| session_of(&stat(*pid)) == Some(leader));
    // It may have ended since, which is what is wanted.
    found.filter_map(|pid| Pid::from_raw(pid as i32)).filter(|pid| kill_process(*pid, signal).is_ok()).count()
}

/// `/proc/PID/stat`; empty when there is no such process.
pub fn stat(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default()
}

/// The session in `/proc/PID/stat`: the fourth field behind the name, which may hold anything.
fn session_of(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_is_found_behind_any_name() {
        assert_eq!(session_of("12 (a) b) S 1 12 77 0 -1"), Some(77));
        assert_eq!(session_of("12 (bash) S 1 12 12 0 -1"), Some(12));
        assert_eq!(session_of(""), None);
    }
}
