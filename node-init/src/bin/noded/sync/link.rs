//! One connection to the store, from Hello to its end.
//!
//! Level-triggered: after Hello every guest and session is reported, then ReportsComplete, then
//! whatever differs from what was reported last.

use super::{
    boots::Teller,
    keeper::Keeper,
    talk::{Asked, Talk},
};
use crate::{
    board::{Abort, Board, Sessions},
    dial::{DialError, StoreWire},
    escrow::Escrowed,
    guests::Reports,
    identity::Member,
    load::Meter,
    wire::WireError,
};
use model::{
    VmId,
    key::HEARTBEAT,
    state::UserState,
    sync::{Counters, Desired, GuestReport, Hello, SessionReport, ToNode, ToStore, Welcome},
};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, timeout},
};

/// How long the store may take to welcome a node, and to take a frame.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long after Ready the boot timeline is complete for certain.
const SOON: Duration = Duration::from_secs(1);

/// Why there is no link to the store.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The node's certificate cannot be used.
    #[error("Cannot use this node's certificate")]
    Tls(#[source] rustls::Error),
    /// The connection broke.
    #[error("The link to the store broke")]
    Wire(#[from] WireError),
    /// The store does not answer, or does not read.
    #[error("The store did not react within {} s", PATIENCE.as_secs())]
    Silent,
    /// The store says no.
    #[error("The store refuses this node: {0}")]
    Refused(String),
    /// The store answered Hello with something else, or for another host.
    #[error("The store answered out of turn")]
    OutOfTurn,
}

/// A link and what it works with.
pub struct Link<'a> {
    /// The connection.
    pub wire: StoreWire,
    /// The daemon's knowledge.
    pub board: &'a Board,
    /// The ledger.
    pub keeper: &'a mut Keeper,
    /// Calls and counts.
    pub talk: &'a mut Talk,
    /// Guests' reports.
    pub guests: &'a mut watch::Receiver<Reports>,
    /// Whether guests can be started; while they cannot, it is not known which there are.
    pub able: &'a mut watch::Receiver<Result<(), String>>,
    /// File of the boot timeline.
    pub timeline: PathBuf,
    /// Boots that the store is to know of.
    pub boots: Teller,
    /// Recovery key that the store must have.
    pub recovery: Escrowed,
}

/// What the store was told last.
#[derive(Debug, Default)]
struct Told {
    guests: BTreeMap<VmId, GuestReport>,
    sessions: BTreeMap<u64, SessionReport>,
    timeline: String,
    complete: bool,
}

impl Link<'_> {
    /// Runs until the link breaks: why, and whether the store had welcomed the node.
    pub async fn run(&mut self, hello: Hello, member: &Member) -> (LinkError, bool) {
        match self.talk_hello(hello, member).await {
            Ok(()) => {}
            Err(error) => return (error, false),
        }
        match self.serve().await {
            Ok(never) => match never {},
            Err(error) => (error, true),
        }
    }

    async fn talk_hello(&mut self, hello: Hello, member: &Member) -> Result<(), LinkError> {
        self.send(&ToStore::Hello(hello)).await?;
        match timeout(PATIENCE, self.wire.recv()).await.map_err(|_| LinkError::Silent)?? {
            ToNode::Welcome(welcome) if welcome.host == member.host => self.welcomed(welcome).await,
            ToNode::Refused(reason) => return Err(LinkError::Refused(reason)),
            _ => return Err(LinkError::OutOfTurn),
        }
        Ok(())
    }

    async fn welcomed(&mut self, welcome: Welcome) {
        let apart_ms = welcome.clock_ms.abs_diff(crate::clock::now_ms());
        if apart_ms > 5000 {
            tracing::warn!(apart_ms, "The store's clock and this node's differ");
        }
        self.keeper.keep_grant_key(&welcome.grant_key).await;
        self.board.grant_key.send_replace(welcome.grant_key);
        self.board.welcomed.send_replace(true);
        self.board.online.send_replace(true);
        tracing::info!(host = welcome.host.0, node = %welcome.name, "The store welcomed this node");
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, LinkError> {
        let mut told = Told::default();
        let mut meter = Meter::default();
        let mut sessions = self.board.sessions.subscribe();
        let mut verdict = self.board.verdict.subscribe();
        let mut versions = self.board.versions.subscribe();
        // Told now, whether they changed since the last link or not.
        versions.mark_changed();
        let mut beat = self.beats();
        self.tell_boot().await?;
        if let Some(escrow) = self.recovery.pending() {
            self.send(&ToStore::Escrow(escrow)).await?;
        }
        loop {
            // Before the reports: those read below are then at least as new.
            let known = self.able.borrow_and_update().is_ok();
            let guests = self.guests.borrow_and_update().clone();
            let mut now = sessions.borrow_and_update().clone();
            // Told below, or not at all: a link that breaks makes all ends known by what lives.
            self.board.sessions.send_if_modified(|s| {
                s.over.retain(|id, _| !now.over.contains_key(id));
                false
            });
            now.settled &= known;
            self.report(&mut told, guests, now).await?;
            // Cancel-safe: receives take nothing unless they complete, and what a `changed` announces is
            // read by the borrows above. Nothing is sent inside a branch's future.
            tokio::select! {
                word = self.wire.recv() => self.hear(word?, &mut beat).await?,
                Some(asked) = self.talk.asked.recv() => self.ask(asked).await?,
                Some(counts) = self.talk.counted.recv() => self.talk.add(counts),
                Ok(()) = self.guests.changed() => {}
                Ok(()) = self.able.changed() => {}
                Ok(()) = sessions.changed() => {}
                Ok(()) = versions.changed() => {
                    let now = versions.borrow_and_update().clone();
                    if let Some(now) = now {
                        self.send(&ToStore::Versions(now)).await?;
                    }
                }
                Ok(()) = verdict.changed() => {
                    self.beat(&mut meter, &mut told).await?;
                    // PID 1 hears the verdict at this moment too, and enters Ready into the timeline.
                    beat.reset_after(SOON);
                }
                _ = beat.tick() => self.beat(&mut meter, &mut told).await?,
            }
        }
    }

    fn beats(&self) -> Interval {
        let every = self.board.config().get(&HEARTBEAT).max(Duration::from_secs(1));
        let mut beats = tokio::time::interval(every);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beats
    }

    async fn hear(&mut self, word: ToNode, beat: &mut Interval) -> Result<(), LinkError> {
        match word {
            ToNode::Desired(desired) => {
                self.want(*desired).await;
                if beat.period() != self.board.config().get(&HEARTBEAT).max(Duration::from_secs(1)) {
                    *beat = self.beats();
                }
            }
            ToNode::Reply(number, reply) => {
                if let Some(over) = self.talk.pending.answer(number, reply) {
                    self.send(&ToStore::Session(over)).await?;
                }
            }
            ToNode::AbortSession { vm, session, reason } => {
                let nobody = self.board.aborts.send(Abort::Session { vm, session, reason }).is_err();
                // No router is here, and none has been for a while: the session does not exist.
                if let Some(session) = session.filter(|_| nobody && self.board.sessions.borrow().settled) {
                    self.send(&ToStore::Session(SessionReport::over(vm, session))).await?;
                }
            }
            ToNode::EndLogins(user) => self.board.end_logins(user),
            ToNode::BootKept(boot) => {
                self.boots.kept(boot).await;
                self.tell_boot().await?;
            }
            ToNode::Escrowed(volume) => self.recovery.kept(&volume),
            ToNode::Welcome(_) | ToNode::Refused(_) | ToNode::JoinPending | ToNode::Joined(_) => {
                tracing::warn!("The store said something out of turn; ignored");
            }
        }
        Ok(())
    }

    /// Into the ledger first: what was acted on must be known after a power cut.
    async fn want(&mut self, desired: Desired) {
        let had = self.keeper.revision();
        if desired.revision < had {
            tracing::warn!(revision = desired.revision, had, "The store's desired state went back; it is followed");
        }
        self.keeper.keep_desired(&desired).await;
        tracing::info!(revision = desired.revision, guests = desired.guests.len(), "The store's desired state");
        self.board.desired.send_replace(Some(Arc::new(desired)));
    }

    async fn ask(&mut self, (call, reply): Asked) -> Result<(), LinkError> {
        let number = self.talk.pending.number(&call, reply);
        self.send(&ToStore::Call(number, call)).await
    }

    async fn report(&mut self, told: &mut Told, guests: Reports, sessions: Sessions) -> Result<(), LinkError> {
        for word in news(told, guests, sessions) {
            self.send(&word).await?;
        }
        Ok(())
    }

    async fn beat(&mut self, meter: &mut Meter, told: &mut Told) -> Result<(), LinkError> {
        let verdict = self.board.verdict.borrow().clone();
        self.send(&ToStore::Heartbeat(meter.measure(verdict.state, verdict.reason))).await?;
        if self.talk.counters != Counters::default() {
            let counters = std::mem::take(&mut self.talk.counters);
            self.send(&ToStore::Counters(counters)).await?;
        }
        // A node started by hand has none.
        let timeline = std::fs::read_to_string(&self.timeline).unwrap_or_default();
        if timeline != told.timeline {
            self.send(&ToStore::Timeline(timeline.clone())).await?;
            told.timeline = timeline;
        }
        self.keeper.keep_time().await;
        Ok(())
    }

    async fn tell_boot(&mut self) -> Result<(), LinkError> {
        match self.boots.next().await {
            Some(report) => self.send(&ToStore::Boot(report)).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, word: &ToStore) -> Result<(), LinkError> {
        Ok(timeout(PATIENCE, self.wire.send(word)).await.map_err(|_| LinkError::Silent)??)
    }
}

/// What differs from what the store was told last.
fn news(told: &mut Told, guests: Reports, sessions: Sessions) -> Vec<ToStore> {
    let mut words = vec![];
    let changed = guests.iter().filter(|(vm, report)| told.guests.get(vm) != Some(report));
    words.extend(changed.map(|(_, report)| ToStore::Guest(report.clone())));
    let changed = sessions.live.iter().filter(|(id, report)| told.sessions.get(id) != Some(report));
    words.extend(changed.map(|(_, report)| ToStore::Session(report.clone())));
    words.extend(sessions.over.values().cloned().map(ToStore::Session));
    let lost =
        told.sessions.iter().filter(|(id, _)| !sessions.live.contains_key(id) && !sessions.over.contains_key(id));
    words.extend(
        lost.map(|(_, report)| ToStore::Session(SessionReport { state: UserState::Disconnected, ..report.clone() })),
    );
    if sessions.settled && !told.complete {
        told.complete = true;
        words.push(ToStore::ReportsComplete);
    }
    (told.guests, told.sessions) = (guests, sessions.live);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{UserId, state::VmState};

    fn guest(vm: u32, state: VmState) -> GuestReport {
        let (vm, phase) = (VmId(vm), String::new());
        GuestReport { vm, epoch: 1, generation: 1, state, phase, since_ms: 0, di: None, failed: None, start_ms: None }
    }

    fn session(id: u64, state: UserState) -> SessionReport {
        SessionReport { vm: VmId(1), user: UserId(1), state, client: "c".into(), session: id }
    }

    fn all(guests: &[GuestReport], sessions: &[SessionReport], settled: bool) -> (Reports, Sessions) {
        let live = sessions.iter().map(|s| (s.session, s.clone())).collect();
        (guests.iter().map(|g| (g.vm, g.clone())).collect(), Sessions { settled, live, ..Sessions::default() })
    }

    #[test]
    fn only_differences_are_told_and_completeness_once() {
        let mut told = Told::default();
        let (up, on) = (guest(1, VmState::Running), session(7, UserState::Connected));
        let (guests, sessions) = all(std::slice::from_ref(&up), std::slice::from_ref(&on), false);
        let first = news(&mut told, guests.clone(), sessions.clone());
        assert_eq!(first, [ToStore::Guest(up), ToStore::Session(on.clone())]);
        // One that was never seen live is told all the same: the store may hold its VM.
        let brief = session(8, UserState::Disconnected);
        let over = [(8, brief.clone())].into();
        let with_brief = Sessions { over, ..sessions.clone() };
        assert_eq!(news(&mut told, guests.clone(), with_brief), [ToStore::Session(brief)]);
        let settled = Sessions { settled: true, ..sessions };
        assert_eq!(news(&mut told, guests.clone(), settled.clone()), [ToStore::ReportsComplete]);
        assert_eq!(news(&mut told, guests.clone(), settled), []);
        let (guests, sessions) = all(&[guest(1, VmState::Stopping)], &[], true);
        let gone = SessionReport { state: UserState::Disconnected, ..on };
        assert_eq!(
            news(&mut told, guests, sessions),
            [ToStore::Guest(guest(1, VmState::Stopping)), ToStore::Session(gone)]
        );
    }
}
