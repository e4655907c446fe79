//! The task of one guest: performs what its life's table says, in order; publishes after each step;
//! holds the one deadline.
//!
//! Inputs: the guest's [`Wish`] (a level), the agent's words (levels), the end of LXC's monitor, the
//! deadline. Outputs: the guest's report, its record, the handle of its agent for sessions.

use super::{
    Shared,
    agent::{Agent, Seen},
    engine::limits,
    failure::{Evidence, reason},
    life::{Effect, Event, State, step},
    lxc::{Limits, Monitor},
    plan::{Order, due},
    record::Record,
    slots::Slot,
};
use crate::report::chain;
use model::{
    key::{self, Config},
    state::VmState,
    sync::{GuestReport, GuestSpec},
};
use overlays::Views;
use std::{
    future::pending,
    io,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
    time::{Instant, sleep_until},
};

/// What is wanted of a guest, as a level.
#[derive(Clone, Debug)]
pub struct Wish {
    /// As the store has it.
    pub spec: Arc<GuestSpec>,
    /// The cluster's configuration.
    pub config: Arc<Config>,
    /// What to see to.
    pub order: Order,
}

/// One guest's task.
pub struct Task {
    shared: Arc<Shared>,
    wish: watch::Receiver<Wish>,
    state: State,
    /// With what the guest runs, or ran last.
    spec: Arc<GuestSpec>,
    persistent: bool,
    report: GuestReport,
    /// The generation that had its run.
    spent: Option<u64>,
    deadline: Option<Instant>,
    launched: Option<Instant>,
    error: Option<String>,
    /// What the running guest may use, once that was set.
    limits: Option<Limits>,
    /// Processes killed for want of memory that were told of.
    oom_kills: u64,
    slot: Option<Slot>,
    views: Option<Views>,
    monitor: Option<AsyncFd<Monitor>>,
    agent: Option<Link>,
}

/// The agent, and how much of what it said was heard.
struct Link {
    agent: Agent,
    seen: watch::Receiver<Seen>,
    heard: Seen,
}

impl Link {
    fn new(agent: Agent) -> Self {
        let seen = agent.seen();
        let heard = *seen.borrow();
        Self { agent, seen, heard }
    }

    /// The next thing that the agent said. Cancel-safe: `wait_for` is, and what was heard is noted in one go.
    async fn next(&mut self) -> Event {
        let heard = self.heard;
        let new = |seen: &Seen| {
            seen.frames != heard.frames || seen.going_down != heard.going_down || seen.hellos != heard.hellos
        };
        let Ok(seen) = self.seen.wait_for(new).await.map(|seen| *seen) else { return pending().await };
        if seen.hellos != heard.hellos {
            self.heard = Seen { going_down: heard.going_down, ..seen };
            return Event::AgentReady;
        }
        self.heard = seen;
        if seen.going_down && !heard.going_down { Event::GoingDown } else { Event::AgentSpoke }
    }
}

impl Task {
    /// The task of a guest that is not here yet.
    pub fn new(shared: Arc<Shared>, wish: watch::Receiver<Wish>) -> Self {
        let spec = wish.borrow().spec.clone();
        let report = GuestReport {
            vm: spec.vm,
            epoch: spec.epoch,
            generation: spec.generation,
            state: VmState::Stopped,
            phase: String::new(),
            since_ms: now_ms(),
            di: None,
            failed: None,
            start_ms: None,
        };
        Self {
            shared,
            wish,
            state: State::Stopped,
            spec,
            persistent: true,
            report,
            spent: None,
            deadline: None,
            launched: None,
            error: None,
            limits: None,
            oom_kills: 0,
            slot: None,
            views: None,
            monitor: None,
            agent: None,
        }
    }

    /// The task of a guest that an earlier run of this daemon left, running or not.
    pub fn resume(shared: Arc<Shared>, wish: watch::Receiver<Wish>, record: Record) -> Self {
        let monitor = shared.engine.lxc().find(record.spec.vm);
        let state = record.resume(monitor.is_some());
        let spent = (state == State::Stopped).then_some(record.report.generation);
        let mut task =
            Self { state, spent, persistent: record.persistent, report: record.report, ..Self::new(shared, wish) };
        if let Some(monitor) = monitor.filter(|_| state.is_live())
            && let Err(error) = task.adopt(monitor)
        {
            tracing::warn!(guest = task.spec.vm.0, %error, "A guest found running cannot be taken hold of: it is removed");
            task.report.failed =
                Some(format!("The node daemon was restarted and could not take hold of the guest: {error}"));
            task.state = State::Zombie;
        }
        task.deadline = match task.state {
            State::Zombie => Some(Instant::now()),
            state => task.time_of(state).map(|time| Instant::now() + time),
        };
        tracing::info!(guest = task.spec.vm.0, state = ?task.state, "Found a guest");
        task
    }

    fn adopt(&mut self, monitor: Monitor) -> Result<(), String> {
        let engine = &self.shared.engine;
        self.monitor = Some(watch_end(monitor).map_err(|e| e.to_string())?);
        self.oom_kills = engine.lxc().oom_kills(self.spec.vm);
        engine.adopt(&self.spec).map_err(|e| chain(&e).to_string())?;
        let agent = engine.listen(&self.spec, &self.wish.borrow().config).map_err(|e| chain(&e).to_string())?;
        self.set_agent(agent);
        Ok(())
    }

    /// Runs for as long as the guest is known here; ends when its wish is dropped.
    pub async fn run(mut self) {
        self.publish();
        while self.wish.has_changed().is_ok() {
            self.follow_the_wish();
            let event = match self.due() {
                Some(event) => Some(event),
                None => self.wait().await,
            };
            let mut next = event;
            while let Some(event) = next {
                next = self.take(event).await;
            }
        }
    }

    /// Waits for something to happen; none when only the wish has changed. Each branch is cancel-safe:
    /// a watch, a deadline, a descriptor's readiness, and [`Link::next`].
    async fn wait(&mut self) -> Option<Event> {
        let keep = self.wish.borrow().config.get(&key::VM_DEBUG);
        tokio::select! {
            _ = self.wish.changed() => None,
            event = next_word(&mut self.agent) => Some(event),
            () = ended(&self.monitor) => {
                self.monitor = None;
                Some(Event::Ended)
            }
            () = passed(self.deadline) => Some(if keep { Event::DeadlineKeep } else { Event::Deadline }),
        }
    }

    fn due(&self) -> Option<Event> {
        let wish = self.wish.borrow();
        due(wish.order, self.state, self.spent == Some(wish.spec.generation))
    }

    /// Takes over what a wish changes without an event: generation and epoch of reports, limits.
    fn follow_the_wish(&mut self) {
        let wish = self.wish.borrow_and_update().clone();
        let runs = !matches!(self.state.vm_state(), VmState::Stopping | VmState::Zombie | VmState::Stopped);
        let as_wanted = match wish.order {
            Order::Run => runs,
            Order::Stop | Order::Kill => self.state == State::Stopped,
        };
        let mut report = GuestReport { epoch: wish.spec.epoch, ..self.report.clone() };
        if as_wanted {
            // A newer generation that finds the guest as it wants it needs nothing more.
            report.generation = wish.spec.generation;
        }
        if runs {
            self.limit_anew(&wish);
        }
        if report != self.report {
            self.report = report;
            self.publish();
        }
    }

    fn limit_anew(&mut self, wish: &Wish) {
        let memory_mib = wish.spec.memory_mib;
        if memory_mib != self.spec.memory_mib {
            self.spec = Arc::new(GuestSpec { memory_mib, ..GuestSpec::clone(&self.spec) });
        }
        let limits = limits(&self.spec, &wish.config);
        if !self.state.is_live() || self.limits.replace(limits) == Some(limits) {
            return;
        }
        if let Err(error) = self.shared.engine.lxc().limit(self.spec.vm, limits) {
            tracing::warn!(guest = self.spec.vm.0, error = %chain(&error), "Cannot change a guest's limits");
        }
    }

    /// One step of the life; returns the event that its work ended in.
    async fn take(&mut self, event: Event) -> Option<Event> {
        if matches!(event, Event::AgentSpoke | Event::Ended) {
            self.note_oom_kills();
        }
        let (next, effects) = step(self.state, event)?;
        let quiet = next == self.state;
        if event == Event::Start {
            self.begin();
        }
        if event == Event::AgentReady && self.state == State::Waiting {
            self.report.start_ms = self.launched.map(|since| since.elapsed().as_millis() as u64);
        }
        self.note_failure(event);
        self.deadline = None;
        self.state = next;
        if next == State::Stopped {
            self.rest();
        }
        if !quiet {
            self.publish();
        }
        for effect in effects {
            if effect.is_work() {
                return Some(self.work(*effect).await);
            }
            self.perform(*effect);
        }
        None
    }

    fn begin(&mut self) {
        let wish = self.wish.borrow();
        self.spec = wish.spec.clone();
        self.persistent = wish.config.get(&key::OVERLAY_PERSISTENT);
        self.report.generation = self.spec.generation;
        self.report.di = Some(self.spec.image.di);
        (self.report.failed, self.report.start_ms, self.launched) = (None, None, None);
        self.oom_kills = 0;
    }

    fn rest(&mut self) {
        self.spent = Some(self.report.generation);
        (self.views, self.monitor) = (None, None);
    }

    /// A desktop goes on when the kernel has killed one of its programs, and its user only sees a window vanish. Looked
    /// at when the agent speaks, which it does every few seconds: the kernel's event comes at each touch of the limit.
    fn note_oom_kills(&mut self) {
        let (guest, memory_mib) = (self.spec.vm.0, self.spec.memory_mib);
        let all = self.shared.engine.lxc().oom_kills(self.spec.vm);
        let killed = all.saturating_sub(self.oom_kills);
        if killed > 0 {
            tracing::warn!(guest, killed, memory_mib, "Processes of a guest were killed for want of memory");
            self.oom_kills = all;
        }
    }

    /// The first reason of a life is the one to show; later ones follow from it.
    fn note_failure(&mut self, event: Event) {
        let error = self.error.take();
        if self.report.failed.is_some() || matches!(event, Event::Done | Event::AgentSpoke | Event::AgentReady) {
            return;
        }
        let lxc = self.shared.engine.lxc();
        let live = self.state.is_live();
        let evidence = Evidence {
            error,
            lxc: live.then(|| lxc.first_error(self.spec.vm)).flatten(),
            console: live.then(|| lxc.last_console_line(self.spec.vm)).flatten(),
            oom_kills: if live { lxc.oom_kills(self.spec.vm) } else { 0 },
            memory_mib: self.spec.memory_mib,
            silent_s: self.time_of(self.state).unwrap_or_default().as_secs(),
            announced: self.agent.as_ref().is_some_and(|link| link.seen.borrow().going_down),
        };
        if let Some(reason) = reason(self.state, event, &evidence) {
            tracing::error!(guest = self.spec.vm.0, phase = self.state.phase(), error = %reason, "A guest failed");
            self.report.failed = Some(reason);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::ReleaseSlot => self.slot = None,
            Effect::ArmDeadline => self.deadline = self.time_of(self.state).map(|time| Instant::now() + time),
            Effect::Kill => self.log_failure(self.shared.engine.lxc().kill(self.spec.vm)),
            Effect::PowerOff => {
                if !self.agent.as_ref().is_some_and(|link| link.agent.power_off()) {
                    self.log_failure(self.shared.engine.lxc().power_off(self.spec.vm));
                }
            }
            Effect::FetchImage | Effect::TakeSlot | Effect::PrepareStorage => {}
            Effect::AdmitNetwork | Effect::Launch | Effect::CleanUp => {}
        }
    }

    /// The deadline that is armed with it leads on, so a failure here is only told.
    fn log_failure<E: std::error::Error>(&self, result: Result<(), E>) {
        if let Err(error) = result {
            tracing::warn!(guest = self.spec.vm.0, error = %chain(&error), "A guest cannot be stopped in this way");
        }
    }

    async fn work(&mut self, effect: Effect) -> Event {
        let result = match effect {
            Effect::FetchImage => return self.fetch().await,
            Effect::TakeSlot => return self.take_slot().await,
            Effect::PrepareStorage => self.prepare().await,
            Effect::AdmitNetwork => self.admit().await,
            Effect::Launch => self.launch().await,
            Effect::CleanUp => self.clean_up().await,
            Effect::ReleaseSlot | Effect::PowerOff | Effect::Kill | Effect::ArmDeadline => Ok(()),
        };
        self.outcome(result)
    }

    fn outcome(&mut self, result: Result<(), String>) -> Event {
        match result {
            Ok(()) => Event::Done,
            Err(error) => {
                tracing::warn!(guest = self.spec.vm.0, phase = self.state.phase(), %error, "A step of a guest failed");
                self.error = Some(error);
                Event::Failed
            }
        }
    }

    async fn fetch(&mut self) -> Event {
        let (shared, image) = (self.shared.clone(), self.spec.image.clone());
        let done = shared.engine.images.ensure(&image);
        // Abandonable: what was fetched stays for the next time.
        let result = tokio::select! {
            result = done => result.map_err(|e| chain(&e).to_string()),
            event = self.called_off() => return event,
        };
        self.outcome(result)
    }

    async fn take_slot(&mut self) -> Event {
        let slots = self.shared.slots.clone();
        // Abandonable: a slot not taken is not held.
        let slot = tokio::select! {
            slot = slots.take() => slot,
            event = self.called_off() => return event,
        };
        self.slot = Some(slot);
        Event::Done
    }

    /// Waits until the guest is wanted no more.
    async fn called_off(&mut self) -> Event {
        loop {
            if let Some(event) = self.due() {
                return event;
            }
            if self.wish.changed().await.is_err() {
                return Event::Kill;
            }
            self.follow_the_wish();
        }
    }

    async fn prepare(&mut self) -> Result<(), String> {
        let config = self.wish.borrow().config.clone();
        let views = self
            .shared
            .engine
            .prepare(&self.spec, &config, self.persistent)
            .await
            .map_err(|e| chain(&e).to_string())?;
        self.views = Some(views);
        Ok(())
    }

    async fn admit(&mut self) -> Result<(), String> {
        let (spec, port) = (&self.spec, super::lxc::port(self.spec.vm));
        let admitted = self.shared.engine.network.admit(spec.vm, &port, &spec.mac, spec.ip).await;
        admitted.map_err(|e| format!("Cannot admit the guest to the network: {}", chain(&e)))
    }

    async fn launch(&mut self) -> Result<(), String> {
        let config = self.wish.borrow().config.clone();
        let views = self.views.take().ok_or("Its storage is not mounted")?;
        let agent = self.shared.engine.listen(&self.spec, &config).map_err(|e| chain(&e).to_string())?;
        self.set_agent(agent);
        self.launched = Some(Instant::now());
        let launched = self.shared.engine.launch(&self.spec, &config, views, self.shared.init.as_ref()).await;
        let monitor = launched.map_err(|e| chain(&e).to_string())?;
        self.limits = Some(limits(&self.spec, &config));
        self.monitor = Some(watch_end(monitor).map_err(|e| e.to_string())?);
        Ok(())
    }

    async fn clean_up(&mut self) -> Result<(), String> {
        self.shared.agents().remove(&self.spec.vm);
        (self.agent, self.monitor) = (None, None);
        self.shared.engine.clean_up(self.spec.vm, self.persistent).await.map_err(|e| chain(&e).to_string())
    }

    fn set_agent(&mut self, agent: Agent) {
        self.shared.agents().insert(self.spec.vm, agent.clone());
        self.agent = Some(Link::new(agent));
    }

    /// How long a guest may stay in a state.
    fn time_of(&self, state: State) -> Option<Duration> {
        let config = &self.wish.borrow().config;
        match state {
            State::Waiting => Some(config.get(&key::AGENT_START_TIMEOUT)),
            State::Running => Some(config.get(&key::AGENT_RUN_TIMEOUT)),
            State::PoweringOff => Some(config.get(&key::SHUTDOWN_TIMEOUT)),
            State::Killing => Some(config.get(&key::STOP_TIMEOUT)),
            State::Zombie => Some(config.get(&key::ZOMBIE_RETRY)),
            State::Stopped | State::Fetching | State::Queued | State::Storing | State::Admitting => None,
            State::Launching | State::Debugging | State::Cleaning | State::Reaping => None,
        }
    }

    fn publish(&mut self) {
        let (vm, state, phase) = (self.report.vm, self.state.vm_state(), self.state.phase());
        if self.report.state != state {
            self.report.since_ms = now_ms();
        }
        if self.report.state != state || self.report.phase != phase {
            tracing::info!(guest = vm.0, %state, phase, "A guest's state changed");
        }
        (self.report.state, self.report.phase) = (state, phase.to_owned());
        let report = self.report.clone();
        let record = Record { spec: GuestSpec::clone(&self.spec), report: report.clone(), persistent: self.persistent };
        if let Err(error) = record.write(&self.shared.engine.lxc().dir(vm)) {
            tracing::warn!(guest = vm.0, %error, "Cannot remember a guest: it would be lost when this daemon restarts");
        }
        self.shared.reports.send_modify(|reports| drop(reports.insert(vm, report)));
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, for types that close their descriptor early; a monitor owns its own"
)]
fn watch_end(monitor: Monitor) -> io::Result<AsyncFd<Monitor>> {
    AsyncFd::with_interest(monitor, Interest::READABLE)
}

async fn next_word(link: &mut Option<Link>) -> Event {
    match link {
        Some(link) => link.next().await,
        None => pending().await,
    }
}

async fn ended(monitor: &Option<AsyncFd<Monitor>>) {
    match monitor {
        // The descriptor stays readable, so readiness need not be cleared.
        Some(monitor) => drop(monitor.readable().await),
        None => pending().await,
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as u64)
}
