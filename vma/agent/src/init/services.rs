//! The two programs that the small init keeps running: the agent and, where the image has it, the system bus.

use super::or_log;
use crate::error::Error;
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::WaitStatus,
    },
    unistd::{Pid, alarm},
};
use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A program that ran so long is well; its next restart is quick again.
const WELL: Duration = Duration::from_secs(60);

/// A program to be kept running.
struct Service {
    name: &'static str,
    command: fn() -> Command,
    pid: Option<Pid>,
    started: Instant,
    due: Option<Instant>,
    pause: Duration,
}

/// All of them; the agent is the first.
pub struct Services(Vec<Service>);

impl Services {
    /// Those that the image has, all due now.
    pub fn start() -> Self {
        let mut services = vec![Service::new("agent", agent)];
        if Path::new("/usr/share/dbus-1/system.conf").exists() && Path::new("/usr/bin/dbus-daemon").exists() {
            services.push(Service::new("dbus", bus));
        }
        Self(services)
    }

    /// Starts what is due.
    pub fn start_due(&mut self) {
        let now = Instant::now();
        for service in self.0.iter_mut().filter(|service| service.due.is_some_and(|due| due <= now)) {
            service.run();
        }
    }

    /// Has SIGALRM come when the next one is due; whole seconds are what there is.
    pub fn arm(&self) {
        let next = self.0.iter().filter_map(|service| service.due).min();
        if let Some(due) = next {
            alarm::set((due.saturating_duration_since(Instant::now()).as_secs() as u32).saturating_add(1));
        }
    }

    /// A child ended; when it is one of these, it is due again after a pause.
    pub fn ended(&mut self, pid: Pid, status: &WaitStatus) {
        let Some(service) = self.0.iter_mut().find(|service| service.pid == Some(pid)) else { return };
        service.pid = None;
        service.pause = if service.started.elapsed() >= WELL { PAUSE_MIN } else { (service.pause * 2).min(PAUSE_MAX) };
        service.due = Some(Instant::now() + service.pause);
        tracing::warn!(service = service.name, ?status, pause = ?service.pause, "Service ended");
    }

    /// From now on what ends stays so.
    pub fn stop_restarting(&mut self) {
        for service in &mut self.0 {
            service.due = None;
        }
    }

    /// Asks the agent to end: the session first, in order. The bus goes with the rest.
    pub fn terminate(&self) {
        if let Some(pid) = self.0[0].pid {
            // It may just have ended.
            let _gone = kill(pid, Signal::SIGTERM);
        }
    }

    /// Whether the agent is still there.
    pub fn agent_runs(&self) -> bool {
        self.0[0].pid.is_some()
    }
}

impl Service {
    fn new(name: &'static str, command: fn() -> Command) -> Self {
        let now = Instant::now();
        Self { name, command, pid: None, started: now, due: Some(now), pause: PAUSE_MIN / 2 }
    }

    fn run(&mut self) {
        let mut command = (self.command)();
        let program = command.get_program().to_owned();
        self.started = Instant::now();
        self.due = None;
        let run = |source| Error::Run { program: program.into(), source };
        match or_log(command.spawn().map_err(run), "Cannot start a service") {
            Some(child) => self.pid = Some(Pid::from_raw(child.id() as i32)),
            None => self.due = Some(self.started + PAUSE_MAX),
        }
    }
}

fn agent() -> Command {
    // It inherits blocked signals, and unblocks them for what it runs.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("vma").current_dir("/");
    command
}

fn bus() -> Command {
    let mut command = crate::proc::leading(Path::new("/usr/bin/dbus-daemon"));
    command.args(["--system", "--nofork", "--nopidfile", "--nosyslog"]).current_dir("/");
    command
}
