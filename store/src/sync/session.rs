//! A joined node's connection: it reports, the store wants.
//!
//! The loop owns the node's picture; a writer task owns the sending half, so a slow node never keeps
//! its own reports from being read. What is wanted is a level: at each change anywhere the node's
//! desired state is made anew and sent if its revision grew.

use super::{SEND, Wire, calls, first_word, name, read, refuse};
use crate::{
    db::{Holder, Node, Reported, Tx},
    error::{Result, chain},
    hub::QUEUE,
    listen, recovery,
    store::Store,
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream::SplitSink};
use model::{
    HostId, VmId, frame, key,
    recovery::Escrow,
    state::UserState,
    sync::{Call, GuestReport, Hello, PROTO, Reply, SessionReport, ToNode, ToStore, Welcome},
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::{Semaphore, mpsc, watch};
use tracing::{debug, error, info, warn};

/// Questions of one router at work at a time; a login takes a moment, a takeover half a minute.
const CALLS: usize = 256;
/// Missed heartbeats after which a connection counts as dead.
const SILENT_BEATS: u32 = 4;
/// A clock that is further off than this is reported.
const SKEW_MS: u64 = 10_000;

/// The node's connection as the loop sees it.
struct Session {
    store: Arc<Store>,
    node: Node,
    out: mpsc::Sender<ToNode>,
    calls: Arc<Semaphore>,
    /// Revision sent last.
    sent: u64,
    /// All that the node found at its start is told.
    settled: bool,
    guests: Vec<VmId>,
    sessions: Vec<SessionReport>,
}

pub(super) async fn serve(
    store: Arc<Store>,
    mut wire: Wire,
    peer: SocketAddr,
    node: Node,
    stop: watch::Receiver<bool>,
) {
    let hello = match first_word(&mut wire, peer).await {
        Some(ToStore::Hello(hello)) => hello,
        Some(_) => return refuse(&mut wire, peer, "The first word of a node that has joined is Hello").await,
        None => return,
    };
    if hello.proto != PROTO {
        let reason =
            format!("The node speaks version {} of node sync, the store {PROTO}: update the older", hello.proto);
        return refuse(&mut wire, peer, &reason).await;
    }
    if let Err(error) = welcome(&store, &node, &hello).await {
        error!(node = node.name, error = %chain(&error), "Cannot welcome a node");
        return refuse(&mut wire, peer, "The store cannot welcome a node now: see its log, and try again").await;
    }
    info!(node = node.name, host = %node.id, %peer, version = hello.version, "Node connected");
    let why = talk(store, wire, &node, stop).await;
    info!(node = node.name, host = %node.id, reason = why, "Node disconnected");
}

async fn welcome(store: &Store, node: &Node, hello: &Hello) -> Result<()> {
    let skew = hello.clock_ms.abs_diff(store.db.clock().now_ms());
    if skew > SKEW_MS {
        warn!(node = node.name, seconds = skew / 1000, "A node's clock differs from the store's");
    }
    let (id, address, name) = (node.id, hello.address, node.name.clone());
    let fresh = store.db.read(move |tx| tx.router_address(id)).await? != address.to_string();
    let tls = if fresh { Some(store.pki.router_certificate(id, &name, address.into())?) } else { None };
    let hello = hello.clone();
    store
        .db
        .write(move |tx| {
            tx.hello(id, &hello)?;
            tx.revision_at_least(id, hello.revision)?;
            tls.map_or(Ok(()), |tls| tx.router_tls_set(id, &address.to_string(), &tls))
        })
        .await
}

/// Until the connection ends; why it did.
async fn talk(store: Arc<Store>, wire: Wire, node: &Node, mut stop: watch::Receiver<bool>) -> String {
    let (sink, mut frames) = wire.split();
    let (out, inbox) = mpsc::channel(QUEUE);
    let mut changes = store.db.changes();
    let mut seat = store.hub.enter(node.id, out.clone());
    let writer = tokio::spawn(write(sink, inbox));
    let mut session = Session {
        store: store.clone(),
        node: node.clone(),
        out,
        calls: Arc::new(Semaphore::new(CALLS)),
        sent: 0,
        settled: false,
        guests: Vec::new(),
        sessions: Vec::new(),
    };
    session.tell(ToNode::Welcome(Welcome {
        host: node.id,
        name: node.name.clone(),
        clock_ms: store.db.clock().now_ms(),
        grant_key: store.pki.grant_key(),
    }));
    store.hub.missed(node.id).for_each(|word| session.tell(word));
    changes.mark_changed();
    let why = loop {
        let patience = silence(&store).await;
        // Cancel-safe: each branch waits for one thing and takes nothing before it is there.
        tokio::select! {
            frame = tokio::time::timeout(patience, frames.next()) => match frame {
                Ok(Some(frame)) => match read(frame) {
                    Ok(message) => if let Err(error) = session.hear(message).await {
                        break format!("its message could not be handled: {}", chain(&error));
                    },
                    Err(error) => break error,
                },
                Ok(None) => break "it closed".to_owned(),
                Err(_) => break format!("no word for {} s", patience.as_secs()),
            },
            Ok(()) = changes.changed() => if let Err(error) = session.want().await {
                break format!("its desired state could not be made: {}", chain(&error));
            },
            reason = seat.ended() => break reason.to_owned(),
            () = listen::stopped(&mut stop) => break "the store stops".to_owned(),
            () = session.out.closed() => break "it cannot be written to".to_owned(),
        }
    };
    let current = seat.is_current();
    drop((seat, session));
    // The writer sends what is queued and ends, as all its senders are gone (but calls at work).
    if tokio::time::timeout(Duration::from_secs(1), writer).await.is_err() {
        debug!(node = node.name, "Its last messages were dropped");
    }
    if current && let Err(error) = ended(&store, node.id).await {
        error!(node = node.name, error = %chain(&error), "Cannot note a node's end");
    }
    why
}

async fn ended(store: &Store, host: HostId) -> Result<()> {
    store.db.write(move |tx| tx.connection_ended(host)).await
}

async fn silence(store: &Store) -> Duration {
    let beat = store.db.read(|tx| Ok(tx.config()?.get(&key::HEARTBEAT))).await.unwrap_or_default();
    (beat * SILENT_BEATS).max(Duration::from_secs(30))
}

async fn write(mut sink: SplitSink<Wire, Bytes>, mut inbox: mpsc::Receiver<ToNode>) {
    while let Some(message) = inbox.recv().await {
        let bytes = match frame::encode(&message) {
            Ok(bytes) => bytes,
            Err(error) => {
                error!(error = %chain(&error), "A message is too large for a node");
                continue;
            }
        };
        match tokio::time::timeout(SEND, sink.send(bytes.into())).await {
            Ok(Ok(())) => {}
            // The reading half notices as well and tells why.
            Ok(Err(_)) | Err(_) => return,
        }
    }
    // Failing here means that the peer is gone already.
    drop(tokio::time::timeout(SEND, sink.close()).await);
}

impl Session {
    fn tell(&self, message: ToNode) {
        self.store.hub.send(self.node.id, message);
    }

    /// Sends what is wanted, if that changed.
    async fn want(&mut self) -> Result<()> {
        let host = self.node.id;
        let (mut desired, current) = self.store.db.read(move |tx| tx.desired(host)).await?;
        if !current {
            desired = self.store.db.write_quietly(move |tx| tx.revise(host)).await?;
        }
        if desired.revision != self.sent {
            debug!(node = self.node.name, revision = desired.revision, "Desired state sent");
            self.sent = desired.revision;
            self.tell(ToNode::Desired(Box::new(desired)));
        }
        Ok(())
    }

    async fn hear(&mut self, message: ToStore) -> Result<()> {
        let (db, host) = (self.store.db.clone(), self.node.id);
        match message {
            ToStore::Heartbeat(beat) => {
                if db.write_quietly(move |tx| tx.heartbeat(host, &beat)).await? {
                    db.wake();
                }
                Ok(())
            }
            ToStore::Guest(report) => self.guest(report).await,
            ToStore::Session(report) => self.session(report).await,
            ToStore::ReportsComplete => self.complete().await,
            ToStore::Call(number, call) => {
                self.call(number, call);
                Ok(())
            }
            ToStore::Counters(counters) => db.write_quietly(move |tx| tx.count_up(host, &counters)).await,
            ToStore::Versions(versions) => {
                let keep = move |tx: &Tx<'_>| {
                    let matters = tx.versions_set(host, &versions)?;
                    if matters {
                        tx.rollouts_step()?;
                    }
                    Ok(matters)
                };
                if db.write_quietly(keep).await? {
                    db.wake();
                }
                Ok(())
            }
            ToStore::Boot(report) => {
                let boot = report.boot.clone();
                db.write_quietly(move |tx| tx.boot_report(host, &report)).await?;
                self.tell(ToNode::BootKept(boot));
                Ok(())
            }
            ToStore::Escrow(escrow) => self.escrow(escrow).await,
            ToStore::Timeline(json) => db.write_quietly(move |tx| tx.timeline_set(host, &json)).await,
            ToStore::Hello(_) | ToStore::Join(_) => {
                warn!(node = self.node.name, "A node said Hello or Join a second time");
                Ok(())
            }
        }
    }

    async fn guest(&mut self, report: GuestReport) -> Result<()> {
        let (host, vm, epoch, settled) = (self.node.id, report.vm, report.epoch, self.settled);
        if !settled {
            self.guests.push(vm);
        }
        let (state, failed) = (report.state, report.failed.clone());
        match self.store.db.write(move |tx| tx.guest_report(host, &report, settled)).await? {
            Reported::Taken => match failed {
                Some(error) => warn!(node = name(&self.node), guest = %vm, %state, error, "Guest failed"),
                None => info!(node = name(&self.node), guest = %vm, %state, "Guest reported"),
            },
            Reported::Stale => {
                warn!(node = name(&self.node), guest = %vm, epoch, "Report refused: this node does not hold the guest in this epoch");
            }
        }
        Ok(())
    }

    /// Acknowledged once it is kept: the node tells it until then.
    async fn escrow(&mut self, Escrow { volume, key }: Escrow) -> Result<()> {
        if !recovery::is_volume(&volume) {
            warn!(node = name(&self.node), "A recovery key refused: it is for no volume");
            return Ok(());
        }
        let (host, actor, of) = (self.node.id, name(&self.node), volume.clone());
        let sealed = recovery::seal(&self.store.pki, host, &volume, &key)?;
        let kept = self.store.db.write_quietly(move |tx| {
            if tx.recovery_set(host, &of, &sealed)? {
                tx.event(&actor, "host.escrow", &format!("host {host}"), &of)?;
            }
            Ok(())
        });
        kept.await?;
        info!(node = name(&self.node), volume, "Recovery key kept");
        self.tell(ToNode::Escrowed(volume));
        Ok(())
    }

    async fn session(&mut self, report: SessionReport) -> Result<()> {
        if !self.settled {
            self.sessions.retain(|earlier| earlier.session != report.session);
            if report.state != UserState::Disconnected {
                self.sessions.push(report.clone());
            }
        }
        let host = self.node.id;
        self.store.db.write(move |tx| tx.session_report(host, &report)).await
    }

    async fn complete(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.settled, true) {
            return Ok(());
        }
        let (host, guests, sessions) =
            (self.node.id, std::mem::take(&mut self.guests), std::mem::take(&mut self.sessions));
        self.store
            .db
            .write(move |tx| {
                tx.reports_complete(host, &guests)?;
                let live: Vec<u64> = sessions.iter().map(|report| report.session).collect();
                tx.sessions_complete(host, &live)?;
                // Those that began while the store was away, in place of one that it believed in until now.
                sessions.iter().try_for_each(|report| tx.session_report(host, report))
            })
            .await
    }

    /// Answers in a task of its own: logins and takeovers take their time.
    fn call(&self, number: u64, call: Call) {
        let Ok(place) = self.calls.clone().try_acquire_owned() else {
            let busy = model::sync::Refusal::Other("the store is busy".to_owned());
            return self.tell(ToNode::Reply(number, model::sync::Reply::Refused(busy)));
        };
        let (store, router, out) = (self.store.clone(), self.node.id, self.out.clone());
        tokio::spawn(async move {
            let _place = place;
            let asked = SessionReport::end_of(&call);
            let reply = calls::answer(&store, router, call).await;
            let granted = asked.filter(|_| matches!(reply, Reply::Acquired(_)));
            // The node went away: its router asks again, for a session of another number.
            if out.send(ToNode::Reply(number, reply)).await.is_err()
                && let Some(SessionReport { vm, session, .. }) = granted
            {
                let holder = Holder { router: Some(router), session: Some(session) };
                if let Err(error) = store.db.write(move |tx| tx.end_session_of(vm, holder)).await {
                    warn!(guest = %vm, error = %chain(&error), "Cannot take back a desktop whose router is gone");
                }
            }
        });
    }
}
