//! A child process with a log file, killed when dropped.

use super::{LabError, file};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// How often a condition outside this process (a file, a port, a child) is looked at.
pub(super) const POLL: Duration = Duration::from_millis(50);

/// A child of the lab. Its output goes to a log file; it dies with this handle.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `command`; its output goes to `log`, which is made anew.
    pub fn start(name: &str, log: PathBuf, command: &mut Command) -> Result<Self, LabError> {
        let out = file("write", &log, File::create)?;
        let err = file("write", &log, |_| out.try_clone())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|source| LabError::Spawn { program: name.to_owned(), source })?;
        Ok(Self { name: name.to_owned(), log, child })
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until `probe` yields a value; fails when the process ends first, or after `limit`.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut probe: impl FnMut() -> Option<T>,
    ) -> Result<T, LabError> {
        let end = Instant::now() + limit;
        loop {
            if let Some(found) = probe() {
                return Ok(found);
            }
            if let Some(status) = self.ended() {
                let (program, log) = (self.name.clone(), self.log.clone());
                return Err(LabError::Ended { program, status: status.to_string(), what: what.to_owned(), log });
            }
            if Instant::now() > end {
                return Err(LabError::Timeout { what: what.to_owned(), limit, log: self.log.clone() });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Sends a signal, such as SIGTERM or SIGSTOP.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<(), LabError> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal)
            .map_err(|e| LabError::Spawn { program: format!("signal for {}", self.name), source: e.into() })
    }

    /// Asks it to end (SIGTERM) and waits; kills it after `limit`. True when it ended by itself.
    pub fn stop(mut self, limit: Duration) -> bool {
        let asked = self.signal(rustix::process::Signal::TERM).is_ok();
        asked && self.wait_end(limit)
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            // Either call fails only when the process is gone already, which is what is wanted.
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }

    /// Waits for its end. True when it came within `limit`.
    pub fn wait_end(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if self.ended().is_some() {
                return true;
            }
            std::thread::sleep(POLL);
        }
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command to its end and returns what it printed.
pub(super) fn run(command: &mut Command) -> Result<String, LabError> {
    let line = || format!("{command:?}");
    let text = line();
    let output = command.output().map_err(|source| LabError::Spawn { program: text.clone(), source })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(LabError::Command { command: text, status: output.status.to_string(), stderr });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
