//! The life of the X session, as a pure state machine.
//!
//! ```text
//! stopped -> provisioning -> starting -> listening -> connected -> suspending -> suspended
//!    ^                          ^                                                    |
//!    |                          +------------------- hang-up, to resume -------------+
//!    +---- stopping <---- any
//! ```
//!
//! Two things move it: requests, and what nxagent says ([`crate::nxlog`]). At most one request waits at a
//! time; a newer one takes its place, and each gets exactly one answer. A request that meets a connected
//! session has it suspended first, and is answered once the session listens again: a take-over.

#[cfg(test)]
mod tests;

use crate::nxlog::Line;
use std::time::Duration;
use vma_proto::{Session, Ticket};

/// Time since the agent's start.
pub type Now = Duration;

/// nxagent gives up 60 s after it began to listen; a client sent there late would find it gone.
const LISTEN_FRESH: Duration = Duration::from_secs(40);
/// A listener nobody came to: nxagent itself ends it after 60 s, so behind this it hangs.
const LISTEN_LIMIT: Duration = Duration::from_secs(75);
/// How long a request waits for a session that is busy.
const PATIENCE: Duration = Duration::from_secs(25);
/// A session that does not listen by then has failed.
const START_LIMIT: Duration = Duration::from_secs(20);
/// An abrupt death of the client takes nxagent some 15 s.
const SUSPEND_LIMIT: Duration = Duration::from_secs(60);
/// An orderly end takes 1-3 s.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// A hang-up in the same second as `Session suspended` has been lost.
const HUP_PAUSE: Duration = Duration::from_millis(1100);
/// A hang-up that nothing follows within this was lost.
const HUP_AGAIN: Duration = Duration::from_secs(4);
/// Pause between looks at the table of listeners.
const PROBE: Duration = Duration::from_millis(20);

/// What a client is to nxagent: to each it shows other cookies, so it listens for one or the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The user's own NX client.
    Nx,
    /// Ours, on the display that a browser sees ([`crate::bridge`]).
    Browser,
}

/// What happens to the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client wants it.
    Open(Ticket, Client),
    /// Its client is to go.
    Suspend,
    /// It is to end.
    Stop,
    /// The node's daemon is gone, and with it who asked.
    NodeLost,
    /// User and home are there, or are not, and why.
    Provisioned(Result<(), String>),
    /// nxagent said so.
    Log(Line),
    /// Something listens on the session's port.
    Listens,
    /// A client's first byte came, and the listener was used up for it.
    Claimed,
    /// The client that used it up is gone: told of a browser's, which is ours to know.
    ClientEnded,
    /// nxagent is gone (or could not be run), with its last words.
    Exited(String),
    /// The user's desktop ended: a log-out.
    DesktopEnded,
    /// [`Machine::deadline`] has passed.
    Tick,
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The node is to know.
    Report(Session),
    /// Make user and home; answered by [`Event::Provisioned`].
    Provision,
    /// Write the options for such a client and run nxagent.
    Start(Client),
    /// Write the options for such a client and hang up: it will listen again.
    Resume(Client),
    /// Hang up: it suspends.
    HangUp,
    /// Ask it to end.
    Terminate,
    /// Make it end.
    Kill,
    /// Look whether the port listens.
    Probe,
    /// Run window manager and desktop: the display answers from now on.
    StartDesktop,
    /// The request's session listens.
    Opened {
        /// Of the request.
        ticket: Ticket,
        /// Of the request.
        client: Client,
        /// Whether windows may be there already.
        resumed: bool,
    },
    /// The request's answer is no.
    Refused {
        /// Of the request.
        ticket: Ticket,
        /// Whether asking again soon may help.
        retry: bool,
        /// Why.
        reason: String,
    },
}

/// The session.
#[derive(Debug)]
pub struct Machine {
    state: Session,
    entered: Now,
    waiting: Option<Waiting>,
    /// Whom the options were last written for.
    prepared: Client,
    /// The first client was up: windows may exist, and a hang-up no longer ends the session.
    lived: bool,
    /// The listener was used up; its client is not yet up.
    claimed: bool,
    hup: Hup,
    next_probe: Now,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    ticket: Ticket,
    client: Client,
    since: Now,
}

/// Where a resume stands, or a suspension that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hup {
    /// None asked for, or heard.
    None,
    /// To be sent then.
    Due(Now),
    /// Sent then, not yet confirmed by `Resuming session` or `Suspending session`.
    Sent(Now),
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            state: Session::Stopped,
            entered: Now::ZERO,
            waiting: None,
            prepared: Client::Nx,
            lived: false,
            claimed: false,
            hup: Hup::None,
            next_probe: Now::ZERO,
        }
    }
}

impl Machine {
    /// State of the session.
    pub fn state(&self) -> Session {
        self.state
    }

    /// One step.
    pub fn step(&mut self, event: Event, now: Now) -> Vec<Effect> {
        let before = self.state;
        let mut effects = self.react(event, now);
        if self.state != before {
            self.entered = now;
            effects.insert(0, Effect::Report(self.state));
        }
        effects
    }

    /// When [`Event::Tick`] is due, if at all.
    pub fn deadline(&self) -> Option<Now> {
        let limit = match self.state {
            Session::Starting => Some(self.next_probe.min(self.entered + START_LIMIT)),
            Session::Listening => Some(self.entered + LISTEN_LIMIT),
            Session::Suspending => Some(self.entered + SUSPEND_LIMIT),
            Session::Stopping => Some(self.entered + STOP_LIMIT),
            _ => None,
        };
        let hup = match self.hup {
            Hup::None => None,
            Hup::Due(at) => Some(at),
            Hup::Sent(at) => Some(at + HUP_AGAIN),
        };
        let patience = self.waiting.map(|waiting| waiting.since + PATIENCE);
        [limit, hup, patience].into_iter().flatten().min()
    }

    fn react(&mut self, event: Event, now: Now) -> Vec<Effect> {
        match event {
            Event::Open(ticket, client) => self.open(ticket, client, now),
            Event::Suspend => self.suspend(now),
            Event::Stop => self.stop(),
            Event::NodeLost => self.forget(),
            Event::Provisioned(result) => self.provisioned(result, now),
            Event::Log(line) => self.log(line, now),
            Event::Listens => self.listens(),
            Event::Claimed => self.claim(),
            Event::ClientEnded => self.client_ended(),
            Event::Exited(why) => self.exited(why, now),
            Event::DesktopEnded => self.terminate(),
            Event::Tick => self.tick(now),
        }
    }

    fn open(&mut self, ticket: Ticket, client: Client, now: Now) -> Vec<Effect> {
        let mut effects = self.refuse(false, "another client asked for the session after this one");
        self.waiting = Some(Waiting { ticket, client, since: now });
        match self.state {
            Session::Stopped => {
                self.state = Session::Provisioning;
                effects.push(Effect::Provision);
            }
            Session::Listening if !self.claimed && now < self.entered + LISTEN_FRESH => effects.extend(self.answer()),
            Session::Connected => effects.extend(self.suspend(now)),
            Session::Suspended => self.hup = Hup::Due(now.max(self.entered + HUP_PAUSE)),
            _ => {}
        }
        effects
    }

    fn suspend(&mut self, now: Now) -> Vec<Effect> {
        match self.state {
            Session::Connected => {
                self.state = Session::Suspending;
                // Asked for again when nxagent has not said that it heard: seen under load, cause not known.
                self.hup = Hup::Sent(now);
                vec![Effect::HangUp]
            }
            // Before the first client a hang-up would end the session.
            Session::Listening if self.lived && !self.claimed => vec![Effect::HangUp],
            _ => vec![],
        }
    }

    fn stop(&mut self) -> Vec<Effect> {
        let mut effects = self.refuse(false, "the session is being ended");
        effects.extend(self.terminate());
        effects
    }

    fn forget(&mut self) -> Vec<Effect> {
        self.waiting = None;
        if let Hup::Due(_) = self.hup {
            self.hup = Hup::None;
        }
        vec![]
    }

    fn terminate(&mut self) -> Vec<Effect> {
        match self.state {
            // While provisioning nothing runs: `provisioned` sees that nobody waits any more.
            Session::Stopped | Session::Provisioning | Session::Stopping => vec![],
            _ => {
                self.state = Session::Stopping;
                self.hup = Hup::None;
                vec![Effect::Terminate]
            }
        }
    }

    fn provisioned(&mut self, result: Result<(), String>, now: Now) -> Vec<Effect> {
        if self.state != Session::Provisioning {
            return vec![];
        }
        match result {
            Ok(()) => match self.waiting {
                Some(waiting) => {
                    self.state = Session::Starting;
                    self.next_probe = now + PROBE;
                    self.prepared = waiting.client;
                    vec![Effect::Start(waiting.client)]
                }
                None => {
                    self.state = Session::Stopped;
                    vec![]
                }
            },
            Err(why) => {
                self.state = Session::Stopped;
                self.refuse(false, &why)
            }
        }
    }

    fn listens(&mut self) -> Vec<Effect> {
        if self.state != Session::Starting {
            return vec![];
        }
        self.state = Session::Listening;
        self.hup = Hup::None;
        self.claimed = false;
        self.answer()
    }

    fn claim(&mut self) -> Vec<Effect> {
        self.claimed |= self.state == Session::Listening;
        vec![]
    }

    /// nxagent waits a minute for one that went before it was up: no later client is to wait with it.
    fn client_ended(&mut self) -> Vec<Effect> {
        if self.state == Session::Listening && self.claimed { self.listen_anew() } else { vec![] }
    }

    /// Has it stop to listen: what lives is suspended by it, and what does not is ended. A waiting request
    /// then goes on from there.
    fn listen_anew(&mut self) -> Vec<Effect> {
        if self.lived { vec![Effect::HangUp] } else { self.terminate() }
    }

    fn log(&mut self, line: Line, now: Now) -> Vec<Effect> {
        if matches!(self.state, Session::Stopped | Session::Provisioning) {
            return vec![];
        }
        match line {
            Line::Started | Line::Resumed if self.state != Session::Stopping => self.connected(now),
            Line::Suspending if matches!(self.state, Session::Connected | Session::Listening) => {
                self.state = Session::Suspending;
                vec![]
            }
            Line::Suspending if self.state == Session::Suspending => {
                self.hup = Hup::None;
                vec![]
            }
            Line::Suspended if self.state != Session::Stopping => self.suspended(now),
            Line::Resuming if self.state == Session::Starting => {
                self.hup = Hup::None;
                vec![]
            }
            // A start that fails is answered when nxagent is gone, and not by another start.
            Line::Ending if self.state != Session::Starting => {
                self.state = Session::Stopping;
                self.hup = Hup::None;
                vec![]
            }
            _ => vec![],
        }
    }

    fn connected(&mut self, now: Now) -> Vec<Effect> {
        let first = !std::mem::replace(&mut self.lived, true);
        self.state = Session::Connected;
        self.claimed = false;
        self.hup = Hup::None;
        let mut effects = if first { vec![Effect::StartDesktop] } else { vec![] };
        if self.waiting.is_some() {
            // Asked for while this client was on its way: the later one has it.
            effects.extend(self.suspend(now));
        }
        effects
    }

    fn suspended(&mut self, now: Now) -> Vec<Effect> {
        self.state = Session::Suspended;
        self.claimed = false;
        self.hup = if self.waiting.is_some() { Hup::Due(now + HUP_PAUSE) } else { Hup::None };
        vec![]
    }

    fn exited(&mut self, why: String, now: Now) -> Vec<Effect> {
        let was = std::mem::replace(&mut self.state, Session::Stopped);
        (self.lived, self.claimed, self.hup) = (false, false, Hup::None);
        if was == Session::Stopped || self.waiting.is_none() {
            return vec![];
        }
        if was == Session::Starting {
            return self.refuse(false, &why);
        }
        // The request met the session at its end: it gets a new one.
        self.state = Session::Provisioning;
        self.entered = now;
        vec![Effect::Provision]
    }

    fn tick(&mut self, now: Now) -> Vec<Effect> {
        let mut effects = vec![];
        if self.waiting.is_some_and(|waiting| now >= waiting.since + PATIENCE) {
            effects.extend(self.refuse(true, &format!("the session is still {:?}", self.state).to_lowercase()));
        }
        effects.extend(self.hup_due(now));
        effects.extend(self.limits(now));
        if self.state == Session::Starting && now >= self.next_probe {
            self.next_probe = now + PROBE;
            // Before `Resuming` is heard, LISTEN would be someone else's.
            if !matches!(self.hup, Hup::Sent(_)) {
                effects.push(Effect::Probe);
            }
        }
        effects
    }

    fn hup_due(&mut self, now: Now) -> Vec<Effect> {
        match self.hup {
            Hup::Due(at) if now >= at => {
                self.hup = Hup::None;
                let Some(waiting) = self.waiting.filter(|_| self.state == Session::Suspended) else { return vec![] };
                self.state = Session::Starting;
                self.entered = now;
                self.hup = Hup::Sent(now);
                self.next_probe = now + PROBE;
                self.prepared = waiting.client;
                vec![Effect::Resume(waiting.client)]
            }
            Hup::Sent(at) if now >= at + HUP_AGAIN => {
                self.hup = Hup::Sent(now);
                vec![Effect::HangUp]
            }
            _ => vec![],
        }
    }

    fn limits(&mut self, now: Now) -> Vec<Effect> {
        let age = now.saturating_sub(self.entered);
        match self.state {
            Session::Starting if age >= START_LIMIT => self.start_failed(),
            Session::Listening if age >= LISTEN_LIMIT => self.listens_for_ever(now),
            Session::Suspending if age >= SUSPEND_LIMIT => self.terminate(),
            Session::Stopping if age >= STOP_LIMIT => {
                self.entered = now;
                vec![Effect::Kill]
            }
            _ => vec![],
        }
    }

    /// nxagent should have given up. Windows that may be in use are never ended for a word not heard.
    fn listens_for_ever(&mut self, now: Now) -> Vec<Effect> {
        if !self.lived {
            return self.terminate();
        }
        if self.claimed {
            return self.connected(now);
        }
        self.entered = now;
        vec![Effect::HangUp]
    }

    fn start_failed(&mut self) -> Vec<Effect> {
        let mut effects = self.refuse(true, "nxagent does not listen");
        if let Hup::Sent(_) = self.hup {
            // It never heard the hang-ups. Its windows live: leave it.
            self.state = Session::Suspended;
            self.hup = Hup::None;
        } else {
            effects.extend(self.terminate());
        }
        effects
    }

    fn answer(&mut self) -> Vec<Effect> {
        let Some(Waiting { ticket, client, .. }) = self.waiting else { return vec![] };
        if client != self.prepared {
            return self.listen_anew();
        }
        self.waiting = None;
        vec![Effect::Opened { ticket, client, resumed: self.lived }]
    }

    fn refuse(&mut self, retry: bool, reason: &str) -> Vec<Effect> {
        let refused = |waiting: Waiting| Effect::Refused { ticket: waiting.ticket, retry, reason: reason.into() };
        self.waiting.take().map(refused).into_iter().collect()
    }
}
