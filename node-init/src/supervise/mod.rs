//! After the boot: keeps services alive, reaps, listens to `noded`, feeds the watchdog, and takes the machine down.
//!
//! One thread, one loop, no locks. Each turn handles all that is there and waits for the next thing; a fault in a turn
//! is logged, and the loop goes on. Nothing in here waits for another program.

mod backoff;
mod chaos;
mod hardware;
mod kinds;
mod output;
mod service;
mod shutdown;
mod trying;

pub use chaos::hang_in;

use crate::boot::{Cgroups, Seed, State, TimelineFile};
use crate::console::Console;
use crate::fail::{Failure, chain, describe};
use crate::words::Words;
use crate::{kmsg, variant};
use chaos::Chaos;
use hardware::{Happened, Hardware};
use model::init::{ALIVE_LIMIT_S, FromInit, NODED_FD, ToInit, update_to};
use output::Output;
use service::{Kind, Status, Supervised};
use shutdown::{GUESTS_WITHIN_S, Next, Shutdown};
use std::convert::Infallible;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;
use sys::poll::Interest;
use sys::power::End;
use sys::seqpacket::{Received, Seqpacket, pair};
use sys::signal::{Signal, SignalFd};
use sys::watchdog::Watchdog;
use trying::{Found, Look, Trying};

/// Faults after which the machine reboots: something in here is broken for good.
const MAX_FAULTS: u32 = 20;
const ALIVE_LIMIT: Duration = Duration::from_secs(ALIVE_LIMIT_S);

/// Nobody who stands in front of such a node is to take it for another.
const DEBUG: [&str; 3] = [
    "  ************************************************************************",
    "  *  DEBUG IMAGE: a root shell on ttyS0. NOT for users' desktops.        *",
    "  ************************************************************************",
];

/// Where `devices` is among the services; `noded` is the first.
const DEVICES: usize = 1;

/// Starts loading modules for all devices, beside the rest of the boot.
pub fn start_devices(cgroups: &Cgroups) -> Result<Supervised, sys::Error> {
    let mut devices = supervised(&kinds::DEVICES, cgroups)?;
    let now = sys::boottime::now();
    devices.want(now);
    devices.start(now, |_| {});
    Ok(devices)
}

fn supervised(kind: &'static Kind, cgroups: &Cgroups) -> Result<Supervised, sys::Error> {
    let output = Output::new(kind.name, Path::new(model::paths::LOG))?;
    Ok(Supervised::new(kind, cgroups.roost.child(kind.name)?, output))
}

/// What the boot leaves to the supervisor.
pub struct Machine {
    /// The boot's timeline.
    pub timeline: TimelineFile,
    /// The top of the tree.
    pub cgroups: Cgroups,
    /// Modules being loaded.
    pub devices: Supervised,
    /// Armed.
    pub watchdog: Option<Watchdog>,
    /// The record of this boot.
    pub words: Words,
    /// Of [`signals`].
    pub signals: SignalFd,
}

/// Runs the node until the machine goes down. State and seed are proofs that `noded` finds them in their places; `look`
/// tells whether this boot is a trial.
pub fn run(machine: Machine, _state: State, seed: Option<Seed>, look: Look) -> Result<Infallible, Failure> {
    let failed =
        |e: sys::Error| Failure { phase: "supervisor", what: chain(&e), advice: "See the kernel's lines above." };
    let mut supervisor = Supervisor::new(machine, look).map_err(failed)?;
    if seed.is_none() {
        supervisor
            .console
            .line("  No seed found: no partition ROOST-SEED, no fw_cfg opt/roost/seed, no SMBIOS string.");
    }
    let mut faults = 0;
    loop {
        match catch_unwind(AssertUnwindSafe(|| supervisor.turn())) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                faults += 1;
                tracing::error!(error = %chain(&e), faults, "Supervisor failed in a turn");
            }
            Err(fault) => {
                faults += 1;
                tracing::error!(error = describe(&*fault), faults, "Fault in the supervisor");
            }
        }
        if faults > MAX_FAULTS {
            let what = format!("{faults} faults");
            return Err(Failure { phase: "supervisor", what, advice: "Report it with the kernel's lines above." });
        }
    }
}

/// The signals of PID 1. To be called before its first thread begins: one that had them unblocked would take them instead
/// of the loop, and end the machine (Ctrl-Alt-Del did).
pub fn signals() -> Result<SignalFd, Failure> {
    SignalFd::new(&[Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM]).map_err(|e| Failure {
        phase: "signals",
        what: chain(&e),
        advice: "Report it with the kernel's lines above.",
    })
}

struct Supervisor {
    /// `noded` is the first.
    services: Vec<Supervised>,
    /// What `noded` was told last of each.
    told: Vec<Option<Status>>,
    noded: Option<Seqpacket>,
    alive_at: Duration,
    guests_stopped: bool,
    signals: SignalFd,
    hardware: Hardware,
    fed_at: Duration,
    shutdown: Option<Shutdown>,
    /// Until it is blessed.
    trying: Trying,
    /// Why the node is not ready, as far as is known.
    lacks: String,
    cgroups: Cgroups,
    timeline: TimelineFile,
    console: Console,
    log: Option<File>,
    chaos: Chaos,
    words: Words,
    /// Who asked for the shutdown.
    why_down: String,
}

impl Supervisor {
    fn new(machine: Machine, look: Look) -> Result<Self, sys::Error> {
        let Machine { timeline, cgroups, devices, watchdog, words, signals } = machine;
        let now = sys::boottime::now();
        cgroups.services_first()?;
        let mut noded = supervised(&kinds::NODED, &cgroups)?;
        noded.want(now);
        let mut services = vec![noded, devices];
        for kind in &kinds::ON_REQUEST {
            services.push(supervised(kind, &cgroups)?);
        }
        let console = Console::open();
        if variant::is_debug() {
            DEBUG.iter().for_each(|line| console.line(line));
            let mut shell = supervised(&kinds::SHELL, &cgroups)?;
            shell.want(now);
            services.push(shell);
        }
        Ok(Self {
            chaos: Chaos::start(&console),
            told: vec![None; services.len()],
            services,
            noded: None,
            alive_at: now,
            guests_stopped: false,
            signals,
            hardware: Hardware::open(watchdog),
            fed_at: Duration::ZERO,
            shutdown: None,
            trying: Trying::new(look),
            lacks: "the node daemon said nothing".to_owned(),
            cgroups,
            timeline,
            console,
            log: kmsg::open(),
            words,
            why_down: String::new(),
        })
    }

    /// One turn: everything that is there, then wait.
    fn turn(&mut self) -> Result<(), sys::Error> {
        let now = sys::boottime::now();
        self.words.turns();
        self.chaos.maybe_hang();
        self.chaos.maybe_fail();
        self.hear_signals(now)?;
        self.reap(now)?;
        self.mind_hardware(now);
        self.hear_noded(now);
        self.services.iter_mut().for_each(|s| s.output.pass_on(now, self.log.as_ref()));
        self.mind_services(now);
        self.tell_noded();
        self.mind_trial(now);
        self.feed(now);
        self.proceed_with_shutdown(now);
        self.wait(now)
    }

    fn mind_hardware(&mut self, now: Duration) {
        let Happened { pressed, appeared } = self.hardware.turn();
        if pressed {
            self.go_down(End::PowerOff, "the power button", now);
        }
        if appeared && self.shutdown.is_none() {
            self.services[DEVICES].want(now);
        }
    }

    fn hear_signals(&mut self, now: Duration) -> Result<(), sys::Error> {
        while let Some(signal) = self.signals.next()? {
            match signal {
                Signal::SIGINT => self.go_down(End::Reboot, "Ctrl-Alt-Del", now),
                Signal::SIGTERM => self.go_down(End::PowerOff, "SIGTERM", now),
                _ => {}
            }
        }
        Ok(())
    }

    /// Everybody who ended: services, and orphans, of which PID 1 is the parent.
    fn reap(&mut self, now: Duration) -> Result<(), sys::Error> {
        while let Some((pid, exit)) = sys::spawn::reap_any()? {
            self.services.iter_mut().any(|s| s.ended(pid, exit, now));
        }
        Ok(())
    }

    fn hear_noded(&mut self, now: Duration) {
        while let Some(link) = &self.noded {
            match link.recv() {
                Ok(Received::Packet(packet)) => match postcard::from_bytes(&packet) {
                    Ok(message) => self.obey(message, now),
                    Err(e) => tracing::warn!(error = %e, bytes = packet.len(), "Packet of noded not understood"),
                },
                Ok(Received::Nothing) => return,
                Ok(Received::Closed) => self.noded = None,
                Err(e) => {
                    tracing::warn!(error = %chain(&e), "Packet of noded not taken");
                    return;
                }
            }
        }
    }

    fn obey(&mut self, message: ToInit, now: Duration) {
        match message {
            ToInit::Alive => self.alive_at = now,
            ToInit::Start(word) => {
                if self.shutdown.is_none() {
                    self.services.iter_mut().filter(|s| s.kind.word == Some(word)).for_each(|s| s.want(now));
                }
            }
            ToInit::PhaseBegan(name) => self.timeline.begin(&name),
            ToInit::PhaseEnded(name) => {
                let took_ms = self.timeline.end(&name);
                self.console.phase(&name, took_ms);
            }
            ToInit::Ready => {
                let ms = self.timeline.ready();
                tracing::info!(ms, "Node is ready");
                self.trying.look();
                self.console.line(&format!("Ready after {}.{:03} s", ms / 1000, ms % 1000));
            }
            ToInit::NotReady(why) => {
                self.console.line(&format!("Not ready: {why}"));
                self.lacks = why;
            }
            ToInit::Lacks(why) => self.lacks = why,
            ToInit::Blessed => {
                if let Some(trial) = self.trying.bless() {
                    self.console.line(&format!("Version {} is good", trial.version));
                }
            }
            ToInit::RebootForUpdate(version) => self.go_down(End::Reboot, &update_to(&version), now),
            ToInit::Console(line) => self.console.line(&line),
            ToInit::GuestsStopped => self.guests_stopped = true,
            ToInit::Reboot => self.go_down(End::Reboot, "an administrator", now),
            ToInit::PowerOff => self.go_down(End::PowerOff, "an administrator", now),
        }
    }

    /// A version that was not blessed in its time is given up: the boot loader has counted this try.
    fn mind_trial(&mut self, now: Duration) {
        let trial = match self.trying.turn(now) {
            Some(Found::Over(trial)) => trial,
            Some(Found::Begins(trial)) => {
                let text = format!("  Version {} is on trial for {} s", trial.version, trial.until.as_secs());
                return self.console.line(&text);
            }
            None => return,
        };
        let why = format!("not good within {} s: {}", trial.until.as_secs(), self.lack());
        self.console.line(&format!("Version {} is {why}", trial.version));
        // Its folder is made by the version before; without it nobody asks why.
        if let Err(error) = std::fs::write(model::paths::TRIAL_WHY, &why) {
            tracing::warn!(%error, "Cannot write down why the trial ended");
        }
        self.go_down(End::Reboot, "the end of its trial", now);
    }

    /// What `noded` said last, and whether it can be believed.
    fn lack(&self) -> String {
        match self.services[0].status().restarts {
            0 => self.lacks.clone(),
            n => format!("{}; the node daemon ended {n} times", self.lacks),
        }
    }

    fn mind_services(&mut self, now: Duration) {
        self.kill_hung_noded(now);
        for index in 0..self.services.len() {
            self.services[index].tick(now);
            if self.services[index].wants_start(now) {
                self.start(index, now);
            }
        }
    }

    fn start(&mut self, index: usize, now: Duration) {
        if index > 0 {
            return self.services[index].start(now, |_| {});
        }
        match pair() {
            Ok((ours, theirs)) => {
                self.services[0].start(now, |c| {
                    c.fd(OwnedFd::from(theirs), NODED_FD);
                });
                self.noded = Some(ours);
                self.alive_at = now;
                // A new noded knows nothing of what runs.
                self.told.fill(None);
            }
            Err(e) => tracing::error!(error = %chain(&e), "Cannot talk to noded"),
        }
    }

    fn kill_hung_noded(&mut self, now: Duration) {
        if self.services[0].running_since().is_some() && now.saturating_sub(self.alive_at) > ALIVE_LIMIT {
            tracing::error!(service = "noded", "Service hangs and is killed");
            self.services[0].kill();
        }
    }

    /// What changed among services that it knows of.
    fn tell_noded(&mut self) {
        for (service, told) in self.services.iter().zip(&mut self.told) {
            let Some(word) = service.kind.word else { continue };
            let status = service.status();
            let Status { running, restarts, gave_up } = status;
            let message = FromInit::ServiceState { service: word, running, restarts, gave_up };
            if *told != Some(status) && send(self.noded.as_ref(), &message) {
                *told = Some(status);
            }
        }
    }

    /// Only while `noded` is alive: a node whose daemon does not come back is taken over by others, and must be off.
    fn feed(&mut self, now: Duration) {
        let healthy = self.shutdown.is_some() || now.saturating_sub(self.alive_at) <= ALIVE_LIMIT;
        if healthy && now.saturating_sub(self.fed_at) >= self.hardware.feed_every() {
            self.hardware.feed();
            self.fed_at = now;
        }
    }

    fn go_down(&mut self, how: End, why: &str, now: Duration) {
        if let Some(shutdown) = &mut self.shutdown {
            return shutdown.hurry(now);
        }
        let what = if how == End::Reboot { "Reboot" } else { "Power off" };
        tracing::info!(why, what, "Going down");
        self.console.line(&format!("{what}, asked for by {why}: stopping guests"));
        self.shutdown = Some(Shutdown::begin(how, now));
        why.clone_into(&mut self.why_down);
        // Without noded nobody can stop them in order; then they are killed at once.
        self.guests_stopped = !send(self.noded.as_ref(), &FromInit::Shutdown { within_s: GUESTS_WITHIN_S });
    }

    fn proceed_with_shutdown(&mut self, now: Duration) {
        let Some(mut shutdown) = self.shutdown else { return };
        let noded_gone = self.services[0].is_down();
        let down = self.services.iter().all(Supervised::is_down);
        match shutdown.step(now, self.guests_stopped || noded_gone, down) {
            Next::Wait => self.shutdown = Some(shutdown),
            Next::StopServices => {
                self.console.line("Stopping services");
                self.services.iter_mut().for_each(|s| s.stop(now));
                self.shutdown = Some(shutdown);
            }
            Next::Finish => self.finish(shutdown.how, now),
        }
    }

    fn finish(&mut self, how: End, now: Duration) -> ! {
        for service in &mut self.services {
            service.output.pass_on(now, self.log.as_ref());
            service.output.close();
        }
        self.words.end(how, &self.why_down);
        // All its steps together may take longer than the watchdog waits; none alone does.
        shutdown::finish(how, &self.cgroups.guests, &self.cgroups.roost, |line| {
            self.console.line(line);
            self.hardware.feed();
        })
    }

    /// Until something happens or is due.
    fn wait(&self, now: Duration) -> Result<(), sys::Error> {
        let mut fds: Vec<_> = self.services.iter().map(|s| s.output.as_fd()).collect();
        fds.push(self.signals.as_fd());
        fds.extend(self.noded.iter().map(AsFd::as_fd));
        fds.extend(self.hardware.fds());
        let fds: Vec<_> = fds.into_iter().map(|fd| (fd, Interest::Read)).collect();
        let dues = self.services.iter().filter_map(Supervised::due).chain(self.shutdown.map(|s| s.due()));
        let dues = dues.chain(self.trying.due(now));
        let feed_every = self.hardware.feed_every();
        let due = dues.chain([self.fed_at + feed_every, self.alive_at + ALIVE_LIMIT]).filter(|d| *d > now).min();
        // At least so often: the loop's turning is what the watchdog is fed for.
        let limit = due.map_or(feed_every, |d| d.saturating_sub(now)).min(feed_every);
        sys::poll::wait(&fds, Some(limit)).map(drop)
    }
}

fn send(link: Option<&Seqpacket>, message: &FromInit) -> bool {
    let Some(link) = link else { return false };
    let packet = postcard::to_allocvec(message).unwrap_or_default();
    link.send(&packet).unwrap_or_else(|e| {
        tracing::warn!(error = %chain(&e), "noded not told");
        false
    })
}
