//! The router as a whole: what all connections share, and its life.

use crate::{
    RouterError,
    counters::Counters,
    crowd::Crowd,
    drain::Drain,
    known::Known,
    listen,
    noded::{Link, Noded, Shared},
    table::Table,
    tls,
    web::Web,
};
use model::{HostId, key::Config, local::RouterConfig};
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::{Semaphore, watch};

/// What the command line decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// `noded`'s control socket.
    pub noded: PathBuf,
    /// `noded`'s session socket.
    pub session_socket: PathBuf,
    /// Where other nodes' routers are awaited.
    pub peer_listen: SocketAddr,
    /// Port on which other nodes' routers are dialled.
    pub peer_port: u16,
    /// How long sessions may go on after the order to end.
    pub drain: Duration,
    /// Most connections at a time; more wait in the kernel's queue.
    pub max_connections: usize,
}

/// What all connections share.
pub struct Router {
    /// The command line.
    pub options: Options,
    /// The way to `noded`.
    pub noded: Noded,
    /// Sessions and guests.
    pub table: Arc<Table>,
    /// What users may do without the store.
    pub known: Arc<Known>,
    /// What pages for browsers share.
    pub web: Arc<Web>,
    /// Counts for the store.
    pub counters: Arc<Counters>,
    /// TLS between routers; none before the node has joined.
    pub peers: watch::Receiver<Option<tls::Peers>>,
    /// Room for connections.
    pub room: Arc<Semaphore>,
    /// Who has how much of it.
    pub crowd: Crowd,
}

impl Router {
    /// The configuration as last received; none in the first moment of the program.
    pub fn node(&self) -> Option<Arc<RouterConfig>> {
        self.noded.configuration().borrow().clone()
    }

    /// The cluster's configuration keys.
    pub fn config(&self) -> Config {
        self.node().map(|n| n.config.clone()).unwrap_or_default()
    }

    /// This node.
    pub fn host(&self) -> Option<HostId> {
        self.node()?.host
    }
}

/// Runs a router until `stop` resolves and its sessions have ended, or had to.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> Result<(), RouterError> {
    let (table, counters) = (Arc::new(Table::default()), Arc::new(Counters::default()));
    let (known, web) = (Arc::new(Known::new()?), Arc::new(Web::new()?));
    let shared = Shared { table: table.clone(), counters: counters.clone(), known: known.clone(), web: web.clone() };
    let (link, noded) = Link::new(options.noded.clone(), shared);
    let (peers_sender, peers) = watch::channel(None);
    let room = Arc::new(Semaphore::new(options.max_connections));
    let crowd = Crowd::new(options.max_connections);
    let bound = options.drain;
    let router = Arc::new(Router { options, noded, table, known, web, counters, peers, room, crowd });
    let (drain, guard) = Drain::new();

    tokio::spawn(link.run());
    tokio::spawn(listen::public(router.clone(), guard.clone()));
    tokio::spawn(listen::peers(router.clone(), peers_sender, guard));

    stop.await;
    tracing::info!("The router ends; sessions may go on for {} s", bound.as_secs());
    drain.finish(bound).await;
    router.noded.flush(Duration::from_millis(500)).await;
    Ok(())
}

#[cfg(test)]
impl Router {
    /// One without `noded`, for what needs only a router's shared things.
    pub(crate) fn for_tests() -> Self {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let nowhere = PathBuf::from("/nowhere");
        let options = Options {
            noded: nowhere.clone(),
            session_socket: nowhere.clone(),
            peer_listen: anywhere,
            peer_port: 0,
            drain: Duration::ZERO,
            max_connections: 1,
        };
        let (table, counters) = (Arc::<Table>::default(), Arc::<Counters>::default());
        let (known, web) = (Arc::new(Known::new().expect("random")), Arc::new(Web::new().expect("random")));
        let shared =
            Shared { table: table.clone(), counters: counters.clone(), known: known.clone(), web: web.clone() };
        let (_, noded) = Link::new(nowhere, shared);
        let (peers, room) = (watch::channel(None).1, Arc::new(Semaphore::new(1)));
        Self { options, noded, table, known, web, counters, peers, room, crowd: Crowd::new(1) }
    }
}
