//! The two listeners, and the start of each connection.
//!
//! [`public`] follows the configuration: it listens once there is a certificate, moves when address or
//! port change, and takes a new certificate for new connections. What it cannot do it reports, tries
//! again, and meanwhile stays as it was. [`peers`] does the same for other nodes' routers.

use crate::{
    RouterError, crowd::Place, drain::Guard, error::chain, noded::Configuration, peer, router::Router, serve, tls,
};
use futures_util::FutureExt;
use model::{
    key,
    local::{RouterConfig, ToNoded},
    sync::RouterTls,
};
use rustix::net::sockopt;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// A handshake must be over this long after the connection.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Pause before listening is tried again, and after a failed accept (no descriptor is left).
const RETRY: Duration = Duration::from_secs(1);

/// Listens for clients until the router drains.
pub async fn public(router: Arc<Router>, guard: Guard) {
    let mut listener = Public::default();
    let mut configuration = router.noded.configuration();
    loop {
        let change = next_change(&mut configuration, listener.unsettled);
        // Cancel-safe: a watch's changed, a timer, an accept.
        tokio::select! {
            () = guard.draining() => return,
            () = change => {
                let node = configuration.borrow_and_update().clone();
                listener.follow(&router, node.as_deref()).await;
            }
            (tcp, from, permit) = accept(listener.bound.as_ref(), &router) => {
                let Some(place) = router.crowd.enter(from.ip()) else {
                    tracing::debug!(client = %from, "An address has all the connections that it may have");
                    continue;
                };
                if let Some(acceptor) = listener.acceptor.clone() {
                    let (router, guard) = (router.clone(), guard.clone());
                    tokio::spawn(isolated(client(router, guard, acceptor, tcp, from, (permit, place))));
                }
            }
        }
    }
}

/// Resolves when the configuration should be looked at.
async fn next_change(configuration: &mut Configuration, unsettled: bool) {
    tokio::select! {
        changed = configuration.changed() => if changed.is_err() { std::future::pending().await },
        () = sleep(RETRY), if unsettled => {}
    }
}

/// The public listener as it is.
#[derive(Default)]
struct Public {
    tls: RouterTls,
    acceptor: Option<TlsAcceptor>,
    wanted: Option<SocketAddr>,
    bound: Option<TcpListener>,
    unsettled: bool,
    reported: Option<Result<String, String>>,
}

impl Public {
    /// Becomes what the configuration says, as far as possible, and reports.
    async fn follow(&mut self, router: &Router, node: Option<&RouterConfig>) {
        let Some(node) = node.filter(|n| !n.tls.chain.is_empty()) else { return };
        let result = match self.certificate(&node.tls) {
            Ok(()) => self.bind(node).await,
            Err(e) => Err(e),
        };
        self.unsettled = result.is_err();
        let report = result.map_err(|e| chain(&e));
        if self.reported.as_ref() != Some(&report) {
            match &report {
                Ok(address) => tracing::info!(address, "The router listens for clients"),
                Err(error) => tracing::error!(error, "The router cannot listen as configured"),
            }
            router.noded.reports().say(ToNoded::Listening(report.clone()));
            self.reported = Some(report);
        }
    }

    fn certificate(&mut self, tls: &RouterTls) -> Result<(), RouterError> {
        if self.tls != *tls {
            self.acceptor = Some(TlsAcceptor::from(tls::public(tls)?));
            self.tls = tls.clone();
        }
        Ok(())
    }

    async fn bind(&mut self, node: &RouterConfig) -> Result<String, RouterError> {
        let address = address(node)?;
        if self.wanted != Some(address) || self.bound.is_none() {
            // On the same port the old listener would be in the way of the new one.
            if self.wanted.is_some_and(|old| old.port() == address.port()) {
                self.bound = None;
            }
            self.bound = Some(bind(address).await?);
            self.wanted = Some(address);
        }
        let local = self.bound.as_ref().and_then(|b| b.local_addr().ok());
        Ok(local.unwrap_or(address).to_string())
    }
}

fn address(node: &RouterConfig) -> Result<SocketAddr, RouterError> {
    let (address, port) = (node.config.get(&key::L7R_ADDRESS), node.config.get(&key::L7R_PORT));
    let ip = match address.as_str() {
        "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        ip => ip.parse().map_err(|_| RouterError::Address(address))?,
    };
    Ok(SocketAddr::new(ip, port))
}

async fn bind(address: SocketAddr) -> Result<TcpListener, RouterError> {
    TcpListener::bind(address).await.map_err(|source| RouterError::Listen { address, source })
}

/// The next connection, with its room; never, while there is no listener.
async fn accept(listener: Option<&TcpListener>, router: &Router) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        let Ok(permit) = router.room.clone().acquire_owned().await else { return std::future::pending().await };
        match listener.accept().await {
            Ok((tcp, from)) => return (tcp, from, permit),
            Err(error) => {
                tracing::warn!(error = %error, "A connection could not be accepted");
                sleep(RETRY).await;
            }
        }
    }
}

async fn client(
    router: Arc<Router>,
    guard: Guard,
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    from: SocketAddr,
    _room: (OwnedSemaphorePermit, Place),
) {
    tune(&tcp, Silence::CLIENT);
    match timeout(HANDSHAKE_LIMIT, acceptor.accept(tcp)).await {
        // Boxed: a future holds a stream in each place where it is passed on, and this one is large.
        Ok(Ok(stream)) => serve::serve(&router, &guard, Box::new(stream), from.ip()).await,
        Ok(Err(error)) => tracing::debug!(client = %from, error = %error, "A TLS handshake failed"),
        Err(_) => tracing::debug!(client = %from, "A TLS handshake took too long"),
    }
}

/// Listens for other nodes' routers once this node has a certificate, until the router drains.
pub async fn peers(router: Arc<Router>, current: watch::Sender<Option<tls::Peers>>, guard: Guard) {
    let mut configuration = router.noded.configuration();
    let mut identity = (RouterTls::default(), String::new());
    let mut bound = None;
    let mut unsettled = false;
    loop {
        let change = next_change(&mut configuration, unsettled);
        // Cancel-safe: a watch's changed, a timer, an accept.
        tokio::select! {
            () = guard.draining() => return,
            () = change => {
                let node = configuration.borrow_and_update().clone();
                let Some(node) = node.filter(|n| !n.peer_tls.chain.is_empty()) else { continue };
                let followed = follow_peers(&router, &node, &mut identity, &current, &mut bound).await;
                unsettled = followed.is_err();
                if let Err(error) = followed {
                    tracing::error!(error = %chain(&error), "Other nodes' routers cannot reach this one");
                }
            }
            (tcp, from, permit) = accept(bound.as_ref(), &router) => {
                if let Some(peers) = current.borrow().clone() {
                    let (router, guard) = (router.clone(), guard.clone());
                    tokio::spawn(isolated(peer_client(router, guard, peers, tcp, from, permit)));
                }
            }
        }
    }
}

async fn follow_peers(
    router: &Router,
    node: &RouterConfig,
    identity: &mut (RouterTls, String),
    current: &watch::Sender<Option<tls::Peers>>,
    bound: &mut Option<TcpListener>,
) -> Result<(), RouterError> {
    if (&identity.0, &identity.1) != (&node.peer_tls, &node.ca) {
        current.send_replace(Some(tls::Peers::new(&node.peer_tls, &node.ca)?));
        *identity = (node.peer_tls.clone(), node.ca.clone());
    }
    if bound.is_none() {
        *bound = Some(bind(router.options.peer_listen).await?);
    }
    Ok(())
}

async fn peer_client(
    router: Arc<Router>,
    guard: Guard,
    peers: tls::Peers,
    tcp: TcpStream,
    from: SocketAddr,
    _room: OwnedSemaphorePermit,
) {
    tune(&tcp, Silence::NODE);
    let result = match timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(peers.server).accept(tcp)).await {
        Ok(Ok(stream)) => peer::serve(&router, stream, &guard).await,
        Ok(Err(error)) => Err(error),
        Err(late) => Err(late.into()),
    };
    if let Err(error) = result {
        tracing::info!(peer = %from, error = %error, "A session from another node broke");
    }
}

/// A fault of one connection ends that connection.
async fn isolated(connection: impl Future<Output = ()>) {
    if AssertUnwindSafe(connection).catch_unwind().await.is_err() {
        tracing::error!("A connection ended by a fault in the program; the others go on");
    }
}

/// How long the other end of a connection may be silent before it counts as gone.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    idle: Duration,
    between: Duration,
    tries: u32,
}

impl Silence {
    /// A client on any network: gone after two minutes.
    pub const CLIENT: Self = Self { idle: Duration::from_secs(60), between: Duration::from_secs(15), tries: 4 };
    /// Another node, on the cluster's network: gone after 20 s, since a person looks at a frozen screen for so long.
    pub const NODE: Self = Self { idle: Duration::from_secs(8), between: Duration::from_secs(4), tries: 3 };

    fn whole(self) -> Duration {
        self.idle + self.between * self.tries
    }
}

/// Small packets at once, and a peer that is gone without a word noticed. A socket that takes no options
/// still works.
pub fn tune(tcp: &TcpStream, silence: Silence) {
    let set = || -> rustix::io::Result<()> {
        sockopt::set_tcp_nodelay(tcp, true)?;
        sockopt::set_socket_keepalive(tcp, true)?;
        sockopt::set_tcp_keepidle(tcp, silence.idle)?;
        sockopt::set_tcp_keepintvl(tcp, silence.between)?;
        sockopt::set_tcp_keepcnt(tcp, silence.tries)?;
        sockopt::set_tcp_user_timeout(tcp, u32::try_from(silence.whole().as_millis()).unwrap_or(u32::MAX))
    };
    if let Err(error) = set() {
        tracing::debug!(error = %error, "A socket takes no options");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fault_of_one_connection_stays_there() {
        let (drain, guard) = crate::drain::Drain::new();
        tokio::spawn(isolated(async move {
            let _held = guard;
            panic!("a fault made on purpose");
        }))
        .await
        .expect("the task ends in order");
        drain.finish(Duration::from_secs(3600)).await;
    }
}
