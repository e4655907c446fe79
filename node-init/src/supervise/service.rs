//! One supervised service: what it is, and where it is in its life.
//!
//! ```text
//! Idle --want--> Running --ends--> Waiting --time--> Running ...
//!                   |                  `--too many failures--> GaveUp --want--> Running
//!                   |--its one job is done--> Idle, or Running again when it was wanted meanwhile
//!                   `--stop--> Stopping --ends--> Idle, or Running again when it was a restart
//! ```

use super::backoff::Backoff;
use super::output::Output;
use crate::fail::chain;
use model::init::Service;
use std::time::Duration;
use sys::cgroup::Cgroup;
use sys::signal::Signal;
use sys::spawn::{Child, Command, Exit};

/// Time between the request to stop and the kill.
const STOP: Duration = Duration::from_secs(5);

/// How a service is run.
pub struct Kind {
    /// Name in logs, of its cgroup and of its log file.
    pub name: &'static str,
    /// The word for it between us and `noded`; none for those that `noded` has no say in.
    pub word: Option<Service>,
    /// Makes the command.
    pub command: fn() -> Command,
    /// Ends in a row after which it is given up; none: never.
    pub give_up_after: Option<u32>,
    /// What the wish to start it means while it runs already.
    pub again: Again,
}

/// What the wish to start a service means while it runs already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Nothing: it goes on.
    GoOn,
    /// A new start.
    Restart,
    /// It has one job, and ends when it is done: once more after that.
    AfterEnd,
}

/// Where it is in its life.
#[derive(Debug)]
enum Life {
    Idle,
    Running { child: Child, since: Duration, again: bool },
    Stopping { child: Child, kill_at: Duration, again: bool },
    Waiting { until: Duration },
    GaveUp,
}

/// A service and its life.
pub struct Supervised {
    /// How it is run.
    pub kind: &'static Kind,
    /// What it says.
    pub output: Output,
    cgroup: Cgroup,
    life: Life,
    backoff: Backoff,
    restarts: u32,
}

/// What changed, for those who are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// It runs.
    pub running: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// It was given up.
    pub gave_up: bool,
}

impl Supervised {
    /// A service that does not run yet.
    pub fn new(kind: &'static Kind, cgroup: Cgroup, output: Output) -> Self {
        Self { kind, output, cgroup, life: Life::Idle, backoff: Backoff::default(), restarts: 0 }
    }

    /// How it is.
    pub fn status(&self) -> Status {
        Status {
            running: matches!(self.life, Life::Running { .. }),
            restarts: self.restarts,
            gave_up: matches!(self.life, Life::GaveUp),
        }
    }

    /// It is to run from now on; with fresh patience.
    pub fn want(&mut self, now: Duration) {
        match std::mem::replace(&mut self.life, Life::Idle) {
            Life::Running { child, since, .. } => match self.kind.again {
                Again::Restart => self.ask_to_stop(child, now, true),
                Again::GoOn => self.life = Life::Running { child, since, again: false },
                Again::AfterEnd => self.life = Life::Running { child, since, again: true },
            },
            Life::Stopping { child, kill_at, .. } => self.life = Life::Stopping { child, kill_at, again: true },
            Life::Idle | Life::Waiting { .. } | Life::GaveUp => {
                self.backoff = Backoff::default();
                self.life = Life::Waiting { until: now };
            }
        }
    }

    /// It is not to run any more.
    pub fn stop(&mut self, now: Duration) {
        match std::mem::replace(&mut self.life, Life::Idle) {
            Life::Running { child, .. } => self.ask_to_stop(child, now, false),
            Life::Stopping { child, kill_at, .. } => self.life = Life::Stopping { child, kill_at, again: false },
            Life::Idle | Life::Waiting { .. } | Life::GaveUp => {}
        }
    }

    /// It hangs: ends it without asking. Its end is then like any other.
    pub fn kill(&self) {
        if let Life::Running { child, .. } = &self.life {
            log_failure(self.kind.name, child.kill());
        }
    }

    fn ask_to_stop(&mut self, child: Child, now: Duration, again: bool) {
        log_failure(self.kind.name, child.signal(Signal::SIGTERM));
        self.life = Life::Stopping { child, kill_at: now + STOP, again };
    }

    /// Whether no process of it is left.
    pub fn is_down(&self) -> bool {
        !matches!(self.life, Life::Running { .. } | Life::Stopping { .. })
    }

    /// Since when it runs.
    pub fn running_since(&self) -> Option<Duration> {
        match self.life {
            Life::Running { since, .. } => Some(since),
            _ => None,
        }
    }

    /// When it wants to be looked at again.
    pub fn due(&self) -> Option<Duration> {
        match self.life {
            Life::Waiting { until } => Some(until),
            Life::Stopping { kill_at, .. } => Some(kill_at),
            _ => None,
        }
    }

    /// Whether it is to be started now.
    pub fn wants_start(&self, now: Duration) -> bool {
        matches!(self.life, Life::Waiting { until } if until <= now)
    }

    /// Starts it; `complete` adds what only the supervisor knows.
    pub fn start(&mut self, now: Duration, complete: impl FnOnce(&mut Command)) {
        match self.spawn(complete) {
            Ok(child) => {
                tracing::info!(service = self.kind.name, pid = child.pid(), "Service started");
                self.life = Life::Running { child, since: now, again: false };
            }
            Err(e) => {
                tracing::error!(service = self.kind.name, error = %chain(&e), "Service does not start");
                // The root is read-only: a program that is not there will not be there later.
                let hopeless = e.is(sys::Errno::ENOENT) && self.kind.give_up_after.is_some();
                self.life = if hopeless { Life::GaveUp } else { self.after_end(now, Duration::ZERO) };
            }
        }
    }

    fn spawn(&mut self, complete: impl FnOnce(&mut Command)) -> Result<Child, sys::Error> {
        let mut command = (self.kind.command)();
        command.stdout(self.output.stream()?).stderr(self.output.stream()?);
        command.cgroup(&self.cgroup).new_session();
        complete(&mut command);
        command.spawn()
    }

    /// Kills it if it has been asked to stop for long enough.
    pub fn tick(&mut self, now: Duration) {
        if let Life::Stopping { child, kill_at, .. } = &mut self.life
            && *kill_at <= now
        {
            tracing::warn!(service = self.kind.name, "Service does not stop and is killed");
            log_failure(self.kind.name, child.kill());
            *kill_at = now + STOP;
        }
    }

    /// A process ended; says whether it was this one.
    pub fn ended(&mut self, pid: i32, exit: Exit, now: Duration) -> bool {
        let ours = match &self.life {
            Life::Running { child, .. } | Life::Stopping { child, .. } => child.pid() == pid,
            _ => false,
        };
        if ours {
            self.life = match std::mem::replace(&mut self.life, Life::Idle) {
                Life::Stopping { again: true, .. } | Life::Running { again: true, .. } => Life::Waiting { until: now },
                Life::Running { .. } if self.kind.again == Again::AfterEnd && exit == Exit::Code(0) => Life::Idle,
                Life::Running { since, .. } => {
                    tracing::warn!(service = self.kind.name, pid, %exit, "Service ended");
                    self.after_end(now, now.saturating_sub(since))
                }
                _ => Life::Idle,
            };
        }
        ours
    }

    fn after_end(&mut self, now: Duration, ran: Duration) -> Life {
        let wait = self.backoff.ended_after(ran);
        if self.kind.give_up_after.is_some_and(|limit| self.backoff.failures() >= limit) {
            tracing::error!(service = self.kind.name, failures = self.backoff.failures(), "Service is given up");
            return Life::GaveUp;
        }
        self.restarts = self.restarts.saturating_add(1);
        Life::Waiting { until: now + wait }
    }
}

fn log_failure(service: &str, result: Result<bool, sys::Error>) {
    if let Err(e) = result {
        tracing::error!(service, error = %chain(&e), "Signal not sent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static SLEEPER: Kind = Kind {
        name: "sleeper",
        word: None,
        command: || {
            let mut c = Command::new("/bin/sleep");
            c.arg("1000");
            c
        },
        give_up_after: None,
        again: Again::Restart,
    };
    static BROKEN: Kind = Kind {
        name: "broken",
        word: None,
        command: || Command::new("/bin/false"),
        give_up_after: Some(3),
        again: Again::GoOn,
    };

    static JOB: Kind = Kind {
        name: "job",
        word: None,
        command: || Command::new("/bin/true"),
        give_up_after: None,
        again: Again::AfterEnd,
    };

    fn supervised(kind: &'static Kind) -> (tempfile::TempDir, Supervised) {
        let dir = tempfile::tempdir().expect("dir");
        let output = Output::new(kind.name, dir.path()).expect("pipe");
        let service = Supervised::new(kind, Cgroup::at("/"), output);
        (dir, service)
    }

    /// Starts it outside any cgroup, which a test cannot make everywhere.
    fn start(service: &mut Supervised, now: Duration) {
        assert!(service.wants_start(now));
        let child = (service.kind.command)().spawn().expect("spawns");
        service.life = Life::Running { child, since: now, again: false };
    }

    /// Waits for its process as PID 1 would, and tells it.
    fn reap(service: &mut Supervised, now: Duration) {
        let (Life::Running { child, .. } | Life::Stopping { child, .. }) = &service.life else { panic!("not running") };
        let (pid, exit) = (child.pid(), child.wait().expect("ends"));
        assert!(!service.ended(pid + 1, exit, now));
        assert!(service.ended(pid, exit, now));
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_wish_to_start_restarts_what_runs() {
        let (_dir, mut service) = supervised(&SLEEPER);
        service.want(at(1));
        start(&mut service, at(1));
        service.want(at(2));
        assert!(!service.status().running && !service.is_down() && service.due() == Some(at(7)));
        reap(&mut service, at(3));
        assert!(service.wants_start(at(3)), "at once, without backoff");
        start(&mut service, at(3));
        service.stop(at(4));
        reap(&mut service, at(5));
        assert!(service.is_down() && service.due().is_none());
    }

    #[test]
    fn a_job_that_is_wanted_while_it_is_done_is_done_once_more() {
        let (_dir, mut service) = supervised(&JOB);
        service.want(at(1));
        start(&mut service, at(1));
        service.want(at(2));
        service.want(at(2));
        reap(&mut service, at(3));
        assert!(service.wants_start(at(3)));
        start(&mut service, at(3));
        reap(&mut service, at(4));
        assert!(service.is_down() && service.due().is_none() && service.status().restarts == 0);
    }

    #[test]
    fn what_fails_again_and_again_is_given_up_until_it_is_wanted_anew() {
        let (_dir, mut service) = supervised(&BROKEN);
        service.want(at(1));
        for n in 0..3 {
            assert_eq!(service.status().restarts, n);
            let due = service.due().expect("waits");
            start(&mut service, due);
            reap(&mut service, due);
        }
        assert_eq!(service.status(), Status { running: false, restarts: 2, gave_up: true });
        assert!(service.due().is_none());
        service.want(at(9));
        assert!(service.wants_start(at(9)));
    }

    #[test]
    fn what_does_not_stop_is_killed() {
        let (_dir, mut service) = supervised(&SLEEPER);
        service.want(at(1));
        start(&mut service, at(1));
        let Life::Running { child, .. } = &service.life else { panic!("not running") };
        child.signal(Signal::SIGSTOP).expect("stands still, and so cannot end by SIGTERM");
        service.stop(at(2));
        service.tick(at(6));
        assert!(!service.is_down());
        service.tick(at(7));
        reap(&mut service, at(7));
        assert!(service.is_down());
    }

    #[test]
    fn a_service_that_cannot_be_spawned_waits_like_one_that_failed() {
        let (_dir, mut service) = supervised(&SLEEPER);
        service.want(at(1));
        service.start(at(1), |c| {
            c.dir("/nowhere");
        });
        assert_eq!(service.due(), Some(at(1) + Duration::from_millis(100)));
    }
}
