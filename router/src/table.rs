//! The sessions that live in this router, and the guests of this node.
//!
//! A session is in the table from before its VM is asked for until its connection ends; [`Live`] is
//! the connection's hold on it, and dropping it (also by a panic) removes the session and reports it
//! disconnected. A session is *acquired* once the store has answered: only then is it reported, and
//! only then does an abort concern it that names no session. One that names it may come before the
//! answer does: the two take different ways through `noded`.

use crate::noded::Reports;
use model::{
    UserId, VmId,
    local::ToNoded,
    state::{UserState, VmState},
    sync::SessionReport,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// All sessions and guests.
#[derive(Debug, Default)]
pub struct Table {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: HashMap<u64, Entry>,
    guests: HashMap<VmId, VmState>,
}

#[derive(Debug)]
struct Entry {
    report: SessionReport,
    acquired: bool,
    abort: watch::Sender<Option<String>>,
}

impl Table {
    /// Enters a session that is about to ask for its VM.
    pub fn enter(self: &Arc<Self>, report: SessionReport, reports: Reports) -> Live {
        let (abort, aborted) = watch::channel(None);
        let session = report.session;
        self.lock().sessions.insert(session, Entry { report, acquired: false, abort });
        Live { table: self.clone(), session, aborted, reports }
    }

    /// The store has given the VM to this session; false when the session has ended meanwhile.
    pub fn acquired(&self, session: u64) -> bool {
        self.lock().sessions.get_mut(&session).map(|entry| entry.acquired = true).is_some()
    }

    /// Ends the session that is meant, or all acquired ones with the VM; how many there were.
    pub fn abort(&self, vm: VmId, session: Option<u64>, reason: &str) -> usize {
        let inner = self.lock();
        let meant = |e: &&Entry| session.map_or(e.acquired, |session| session == e.report.session);
        let concerned = inner.sessions.values().filter(|e| e.report.vm == vm).filter(meant);
        concerned.inspect(|e| drop(e.abort.send_replace(Some(reason.to_owned())))).count()
    }

    /// Whether a client of this router has the VM.
    pub fn is_held(&self, vm: VmId) -> bool {
        self.lock().sessions.values().any(|e| e.acquired && e.report.vm == vm)
    }

    /// The sessions to tell of after a reconnection.
    pub fn reports(&self) -> Vec<SessionReport> {
        let inner = self.lock();
        inner.sessions.values().filter(|e| e.acquired).map(|e| e.report.clone()).collect()
    }

    /// Takes note of all guests of this node.
    pub fn set_guests(&self, guests: Vec<(VmId, VmState)>) {
        self.lock().guests = guests.into_iter().collect();
    }

    /// A guest's state, if it is one of this node.
    pub fn guest(&self, vm: VmId) -> Option<VmState> {
        self.lock().guests.get(&vm).copied()
    }

    /// A panic elsewhere leaves the maps whole: every change is one call.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's hold on its session.
pub struct Live {
    table: Arc<Table>,
    session: u64,
    aborted: watch::Receiver<Option<String>>,
    reports: Reports,
}

impl Live {
    /// Resolves with the reason when the session must end.
    pub async fn aborted(&self) -> String {
        let mut aborted = self.aborted.clone();
        let reason = aborted.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// The session's id.
    pub fn id(&self) -> u64 {
        self.session
    }

    /// The VM is known to be this session's without a word of the store, which is away.
    pub fn acquired(&self) {
        self.table.acquired(self.session);
    }

    /// Takes note of the session's state, and reports it.
    pub fn report(&self, state: UserState) {
        let mut inner = self.table.lock();
        if let Some(entry) = inner.sessions.get_mut(&self.session) {
            entry.report.state = state;
            self.reports.say(ToNoded::Session(entry.report.clone()));
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let entry = self.table.lock().sessions.remove(&self.session);
        if let Some(Entry { report, acquired: true, .. }) = entry {
            self.reports.say(ToNoded::Session(SessionReport { state: UserState::Disconnected, ..report }));
        }
    }
}

/// A report of a session that begins.
pub fn connecting(session: u64, vm: VmId, user: UserId, client: String) -> SessionReport {
    SessionReport { vm, user, state: UserState::Connecting, client, session }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(table: &Arc<Table>, session: u64) -> (Live, tokio::sync::mpsc::UnboundedReceiver<crate::noded::Command>) {
        let (reports, commands) = Reports::for_tests();
        (table.enter(connecting(session, VmId(7), UserId(1), String::new()), reports), commands)
    }

    #[tokio::test]
    async fn an_abort_ends_the_holder_and_not_the_one_that_takes_over() {
        let table = Arc::new(Table::default());
        let (holder, _a) = enter(&table, 1);
        holder.acquired();
        let (newcomer, _b) = enter(&table, 2);
        assert_eq!(table.abort(VmId(7), None, "taken over"), 1);
        assert_eq!(holder.aborted().await, "taken over");
        assert!(newcomer.aborted.borrow().is_none());
        table.acquired(2);
        assert_eq!(table.abort(VmId(7), Some(1), "a late word for the one before"), 1);
        assert!(newcomer.aborted.borrow().is_none());
        assert_eq!(table.abort(VmId(7), Some(9), "nobody"), 0);
        let (early, _c) = enter(&table, 3);
        assert_eq!(table.abort(VmId(7), Some(3), "before the answer came"), 1);
        assert_eq!(early.aborted().await, "before the answer came");
        assert_eq!(table.abort(VmId(7), None, "cut"), 2);
        assert_eq!(newcomer.aborted().await, "cut");
    }

    #[test]
    fn only_an_acquired_session_is_told_of_and_its_end_is_reported() {
        let table = Arc::new(Table::default());
        let (live, mut commands) = enter(&table, 1);
        assert!(table.reports().is_empty());
        drop(live);
        assert!(commands.try_recv().is_err(), "never acquired, never reported");
        let (live, mut commands) = enter(&table, 2);
        live.acquired();
        live.report(UserState::Connected);
        assert_eq!(table.reports().len(), 1);
        drop(live);
        assert!(table.reports().is_empty());
        let states: Vec<_> = std::iter::from_fn(|| commands.try_recv().ok()?.session_state()).collect();
        assert_eq!(states, [UserState::Connected, UserState::Disconnected]);
    }
}
