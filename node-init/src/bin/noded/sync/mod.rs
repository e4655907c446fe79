//! The cluster task: membership, then one connection to the store after another.
//!
//! ```text
//! join (once in a node's life) -> dial -> Hello/Welcome -> link ... -> broken -> wait 0.2-10 s -> dial
//! ```
//!
//! Owns: the ledger, the board's `member`, `desired`, `grant_key`, `online` and `welcomed`.
//! In: calls and counts by [`Store`], guests' reports, sessions, verdicts. Out: the board, aborts.

mod boots;
mod keeper;
mod link;
pub mod talk;

pub use keeper::Keeper;
pub use talk::Store;

use crate::{
    backoff::Backoff,
    board::Board,
    dial,
    escrow::Escrowed,
    guests::Reports,
    identity::{Member, NodeKey},
    init::Init,
    join, load,
    network::Uplink,
    paths::Paths,
    report::chain,
    tls,
};
use model::{
    Digest,
    init::ToInit,
    seed::Seed,
    sync::{ALPN, Hello, Inventory, JoinRequest, PROTO},
};
use node_init::boots::Boots;
use std::{net::Ipv4Addr, sync::Arc, time::Duration};
use talk::Talk;
use tokio::{sync::watch, time::Instant};

/// A link that lasted so long has worked; what ends it then is news.
const SETTLED: Duration = Duration::from_secs(10);

/// What the cluster task works with.
pub struct Cluster {
    /// Where files are.
    pub paths: Paths,
    /// The seed.
    pub seed: Seed,
    /// Fingerprint of the cluster's CA.
    pub ca: Digest,
    /// The node's key.
    pub key: Arc<NodeKey>,
    /// The daemon's knowledge.
    pub board: Arc<Board>,
    /// To `node-init`.
    pub init: Init,
    /// The ledger.
    pub keeper: Keeper,
    /// Reports of the guests.
    pub guests: watch::Receiver<Reports>,
    /// Whether guests can be started, which is also when those that run are known.
    pub able: watch::Receiver<Result<(), String>>,
    /// The uplink, none while it is down.
    pub uplink: watch::Receiver<Option<Uplink>>,
    /// Calls and counts.
    pub talk: Talk,
    /// Why there is no link, as the console was told last.
    pub said: Option<String>,
}

impl Cluster {
    /// Runs for ever.
    pub async fn run(mut self) {
        self.uplink_up().await;
        let known = self.board.member.borrow().clone();
        let member = match known {
            Some(member) => member,
            None => self.join().await,
        };
        let mut backoff = Backoff::new(Duration::from_millis(400), Duration::from_secs(10));
        loop {
            let error = match self.connect(&member).await {
                Ok(wire) => {
                    backoff.reset();
                    let linked = Instant::now();
                    let error = self.link(wire, &member).await;
                    if linked.elapsed() > SETTLED {
                        self.said = None;
                    }
                    error
                }
                Err(error) => error,
            };
            self.board.online.send_replace(false);
            let wait = self.after(&error, &mut backoff);
            self.talk.away(tokio::time::sleep(wait)).await;
        }
    }

    /// Waits for an address; calls are answered meanwhile.
    async fn uplink_up(&mut self) {
        let mut uplink = self.uplink.clone();
        // An error means that the network's task is gone; dialling will say more.
        self.talk.away(async move { uplink.wait_for(Option::is_some).await.map(drop).ok() }).await;
    }

    async fn join(&mut self) -> Arc<Member> {
        let (paths, seed, key, init) = (&self.paths, &self.seed, &self.key, &self.init);
        let (board, uplink) = (&self.board, &self.uplink);
        let request = || {
            let (address, inventory) = machine(paths, uplink);
            let name = seed.node.as_ref().map_or_else(|| load::machine_name(&inventory), |n| n.name.to_string());
            let csr = key.request(&name)?;
            Ok(JoinRequest { proto: PROTO, csr, token: seed.store.token.clone(), name, address, inventory })
        };
        let joining = join::until_joined(paths, &seed.store, self.ca, key, init, request);
        let member = init.phase("join", self.talk.away(joining)).await;
        tracing::info!(host = member.host.0, node = %member.name, "Joined the cluster");
        board.member.send_replace(Some(member.clone()));
        member
    }

    async fn connect(&mut self, member: &Member) -> Result<dial::StoreWire, link::LinkError> {
        let config = tls::client(member, &self.key, ALPN).map_err(link::LinkError::Tls)?;
        Ok(self.talk.away(dial::dial(&self.seed.store.address, config)).await?)
    }

    async fn link(&mut self, wire: dial::StoreWire, member: &Member) -> link::LinkError {
        let (address, inventory) = machine(&self.paths, &self.uplink);
        let hello = Hello {
            proto: PROTO,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: load::boot_id(),
            revision: self.keeper.revision(),
            address,
            inventory,
            clock_ms: crate::clock::now_ms(),
        };
        let mut link = link::Link {
            wire,
            board: &self.board,
            keeper: &mut self.keeper,
            talk: &mut self.talk,
            guests: &mut self.guests,
            able: &mut self.able,
            timeline: self.paths.at(model::paths::TIMELINE),
            boots: boots::Teller::new(Boots::at(self.paths.at(model::paths::BOOTS)), load::boot_id()),
            recovery: Escrowed::at(self.paths.at(model::paths::RECOVERY), member.cluster()),
        };
        let (error, talked) = link.run(hello, member).await;
        if talked {
            tracing::warn!(error = %chain(&error), "Lost the store");
        }
        self.talk.broken();
        error
    }

    /// Logs why there is no link, and says how long to wait.
    fn after(&mut self, error: &link::LinkError, backoff: &mut Backoff) -> Duration {
        let wait = match error {
            link::LinkError::Refused(_) => Duration::from_secs(30),
            _ => backoff.next(),
        };
        tracing::warn!(error = %chain(error), wait_ms = wait.as_millis() as u64, "No link to the store");
        let line = match error {
            link::LinkError::Refused(reason) => format!("The store refuses this node: {reason}"),
            _ => format!("No link to the store: {}", chain(error)),
        };
        // Whoever stands in front of the node reads each reason once.
        if self.said.as_ref() != Some(&line) {
            self.init.say(ToInit::Console(line.clone()));
            self.said = Some(line);
        }
        wait
    }
}

fn machine(paths: &Paths, uplink: &watch::Receiver<Option<Uplink>>) -> (Ipv4Addr, Inventory) {
    let uplink = uplink.borrow().clone();
    let address = uplink.as_ref().map_or(Ipv4Addr::UNSPECIFIED, |u| u.address.address);
    (address, load::inventory(&paths.state, uplink.map(|u| u.mac).unwrap_or_default()))
}
