//! The control socket: tells the router its configuration and the guests, takes its sessions, counts
//! and calls.
//!
//! Sessions belong to the connection that told them: when a router dies, its sessions are over.

use super::place;
use crate::{
    board::{Abort, Board, guest_states},
    guests::Reports,
    identity::{self, NodeKey},
    report::chain,
    sync::{Store, talk},
    wire::{Wire, WireError},
};
use model::{
    local::{RouterConfig, ToNoded, ToRouter},
    paths,
    state::UserState,
    sync::{Call, Reply, RouterTls, SessionReport},
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore, broadcast::error::RecvError, mpsc, watch},
};

/// How long a router that lives may take to connect again after this daemon started.
const SETTLE: Duration = Duration::from_secs(10);
/// Calls of one router that wait at the same time.
const CALLS: usize = 128;
/// The longest frame a router sends: Hello with some ten thousand sessions.
const FRAME: usize = 1 << 20;

/// What the control task works with.
#[derive(Clone)]
pub struct Control {
    /// The daemon's knowledge.
    pub board: Arc<Board>,
    /// The node's key, for other nodes' routers.
    pub key: Arc<NodeKey>,
    /// The store.
    pub store: Store,
    /// Guests' reports.
    pub guests: watch::Receiver<Reports>,
    /// Number of the connection that said Hello last: sessions are that router's.
    pub latest: Arc<AtomicU64>,
}

impl Control {
    /// Binds the socket and serves it for ever.
    pub fn start(self, paths: &crate::paths::Paths) -> io::Result<()> {
        let listener = place::bind(&paths.at(paths::ROUTER_SOCKET))?;
        let board = self.board.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SETTLE).await;
            settle(&board);
        });
        place::serve_each(listener, move |stream| self.clone().serve(stream));
        Ok(())
    }

    async fn serve(self, stream: UnixStream) {
        let mut number = None;
        let error = match self.exchange(stream, &mut number).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        // A successor that has said Hello has told which sessions there are.
        if number.is_some_and(|number| number == self.latest.load(Ordering::Relaxed)) {
            let mut sessions = 0;
            self.board.sessions.send_modify(|s| sessions = std::mem::take(&mut s.live).len());
            tracing::warn!(error = %chain(&error), sessions, "The router is gone");
        } else if !matches!(error, WireError::Closed) {
            tracing::warn!(error = %chain(&error), "A router's connection ended");
        }
    }

    async fn exchange(
        &self,
        stream: UnixStream,
        number: &mut Option<u64>,
    ) -> Result<std::convert::Infallible, WireError> {
        let mut wire = Wire::with_limit(stream, FRAME);
        let mut config = ConfigWatch::new(self);
        let mut guests = self.guests.clone();
        let (mut aborts, unheard) = self.board.hear_aborts();
        let (replies, mut replied) = mpsc::channel(CALLS);
        let free = Arc::new(Semaphore::new(CALLS));
        let (mut last_config, mut last_guests) = (None, None);
        for user in unheard {
            wire.send(&ToRouter::EndLogins(user)).await?;
        }
        loop {
            let now = config.now(self);
            if last_config.as_ref() != Some(&now) {
                wire.send(&ToRouter::Config(Box::new(now.clone()))).await?;
                last_config = Some(now);
            }
            let states = guest_states(&guests.borrow_and_update());
            if last_guests.as_ref() != Some(&states) {
                wire.send(&ToRouter::Guests(states.clone())).await?;
                last_guests = Some(states);
            }
            // Cancel-safe: receives take nothing unless they complete; changes are read again above.
            tokio::select! {
                word = wire.recv() => match word? {
                    ToNoded::Call(call_number, call) => match free.clone().try_acquire_owned() {
                        Ok(permit) => drop(tokio::spawn(self.clone().call(call_number, call, permit, replies.clone()))),
                        // Never waits here: what ends other calls comes through this loop.
                        Err(_) => wire.send(&ToRouter::Reply(call_number, talk::overloaded())).await?,
                    },
                    word => self.hear(word, number),
                },
                Some((call_number, reply)) = replied.recv() => wire.send(&ToRouter::Reply(call_number, reply)).await?,
                abort = aborts.recv() => match abort {
                    Ok(Abort::Session { vm, session, reason }) => {
                        wire.send(&ToRouter::Abort { vm, session, reason }).await?;
                    }
                    Ok(Abort::Logins(user)) => wire.send(&ToRouter::EndLogins(user)).await?,
                    Err(RecvError::Lagged(missed)) => tracing::error!(missed, "Sessions to cut were missed"),
                    Err(RecvError::Closed) => return Err(WireError::Closed),
                },
                () = config.changed() => {}
                Ok(()) = guests.changed() => {}
            }
        }
    }

    /// Asks the store. A VM given to a router that is gone is given back.
    async fn call(self, number: u64, call: Call, _place: OwnedSemaphorePermit, replies: mpsc::Sender<(u64, Reply)>) {
        let over = SessionReport::end_of(&call);
        let limit = talk::limit(&call, &self.board.config());
        let reply = self.store.call(call, limit).await;
        let granted = matches!(reply, Reply::Acquired(_));
        if replies.send((number, reply)).await.is_err()
            && let Some(report) = over.filter(|_| granted)
        {
            self.end(report);
        }
    }

    fn hear(&self, word: ToNoded, number: &mut Option<u64>) {
        match word {
            ToNoded::Hello { sessions } => {
                tracing::info!(sessions = sessions.len(), "The router is here");
                *number = Some(self.latest.fetch_add(1, Ordering::Relaxed) + 1);
                let live = sessions.into_iter().map(|report| (report.session, report)).collect();
                self.board.sessions.send_modify(|s| s.live = live);
                settle(&self.board);
            }
            ToNoded::Session(report) if report.state == UserState::Disconnected => self.end(report),
            ToNoded::Session(report) => {
                self.board.sessions.send_modify(|s| drop(s.live.insert(report.session, report)));
            }
            ToNoded::Counters(counters) => self.store.count(counters),
            ToNoded::Listening(Ok(address)) => tracing::info!(%address, "The router listens"),
            ToNoded::Listening(Err(error)) => tracing::error!(error, "The router cannot listen"),
            ToNoded::Call(..) => unreachable!("calls are taken by the caller"),
        }
    }

    fn end(&self, report: SessionReport) {
        let online = *self.board.online.borrow();
        self.board.sessions.send_modify(|s| s.end(report, online));
    }
}

fn settle(board: &Board) {
    board.sessions.send_if_modified(|s| !std::mem::replace(&mut s.settled, true));
}

/// Wakes when anything of the router's configuration may have changed.
struct ConfigWatch {
    member: watch::Receiver<Option<Arc<identity::Member>>>,
    desired: watch::Receiver<Option<Arc<model::sync::Desired>>>,
    online: watch::Receiver<bool>,
    verdict: watch::Receiver<crate::verdict::Verdict>,
}

impl ConfigWatch {
    fn new(control: &Control) -> Self {
        let board = &control.board;
        Self {
            member: board.member.subscribe(),
            desired: board.desired.subscribe(),
            online: board.online.subscribe(),
            verdict: board.verdict.subscribe(),
        }
    }

    /// Cancel-safe: only waits.
    async fn changed(&mut self) {
        // The board lives as long as the daemon, so no watch ends.
        tokio::select! {
            Ok(()) = self.member.changed() => {}
            Ok(()) = self.desired.changed() => {}
            Ok(()) = self.online.changed() => {}
            Ok(()) = self.verdict.changed() => {}
        }
    }

    fn now(&mut self, control: &Control) -> RouterConfig {
        let member = self.member.borrow_and_update().clone();
        let desired = self.desired.borrow_and_update().clone();
        let peer = |m: &Arc<identity::Member>| RouterTls {
            chain: identity::pem(&m.certificate) + &identity::pem(&m.ca),
            key: control.key.pem(),
        };
        RouterConfig {
            host: member.as_ref().map(|m| m.host),
            state: self.verdict.borrow_and_update().state,
            blocked: desired.as_ref().is_some_and(|d| d.blocked),
            store_online: *self.online.borrow_and_update(),
            config: desired.as_ref().map(|d| d.config.clone()).unwrap_or_default(),
            tls: desired.as_ref().map(|d| d.router_tls.clone()).unwrap_or_default(),
            peer_tls: member.as_ref().map(peer).unwrap_or_default(),
            ca: member.as_ref().map(|m| identity::pem(&m.ca)).unwrap_or_default(),
        }
    }
}
