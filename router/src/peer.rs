//! Sessions between nodes: a router dials the router of the guest's node on 8444.
//!
//! ```text
//! dialling router                              guest's router
//!   TLS 1.3, node certificates both ways
//!   Open (grant, session) ------------------->   asks its own noded
//!   <------------------------------- Opened
//!   the session's bytes, both ways
//! ```
//! One connection is one try of one session: after a refusal it ends, and the dialling side comes
//! again. The session belongs to the dialling router, which reports it; this side only relays.

use crate::{
    RouterError,
    drain::Guard,
    error::chain,
    frames, listen, relay,
    router::Router,
    session::{self, NotOpened},
    tls,
};
use model::{
    HostId,
    local::{Open, OpenError, OpenInfo, Opened},
};
use std::{io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Reaching the other router, and its first frame, may each take this long.
const REACH_LIMIT: Duration = Duration::from_secs(10);
/// The other router's answer may take this long; its own patience with `noded` is shorter.
const ANSWER_LIMIT: Duration = Duration::from_secs(140);

/// Asks another node's router for a session with a guest there.
pub async fn open_there(
    router: &Router,
    host: HostId,
    address: SocketAddr,
    open: &Open,
) -> Result<(TlsStream<TcpStream>, OpenInfo), NotOpened> {
    let failed = |source| RouterError::Peer { host, address, source };
    let reached = timeout(REACH_LIMIT, reach(router, host, address)).await;
    let mut stream = reached.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
    let answered = timeout(ANSWER_LIMIT, ask(&mut stream, open)).await;
    let opened = answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
    Ok((stream, opened?))
}

async fn reach(router: &Router, host: HostId, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let peers = router.peers.borrow().clone();
    let peers = peers.ok_or_else(|| io::Error::other("This node has no certificate for other nodes yet"))?;
    let name = tls::node_name(host).map_err(io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    listen::tune(&stream, listen::Silence::NODE);
    TlsConnector::from(peers.client).connect(name, stream).await
}

async fn ask(stream: &mut TlsStream<TcpStream>, open: &Open) -> io::Result<Opened> {
    frames::write(stream, open).await?;
    frames::read(stream).await
}

/// Serves another node's router: one session.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(router: &Router, mut stream: S, guard: &Guard) -> io::Result<()> {
    let open: Open = timeout(REACH_LIMIT, frames::read(&mut stream)).await??;
    let (mut guest, info) = match session::open_here(&router.options.session_socket, &open).await {
        Ok(opened) => opened,
        Err(refused) => return frames::write(&mut stream, &Opened::Err(told(refused))).await,
    };
    frames::write(&mut stream, &Opened::Ok(info)).await?;
    tokio::select! {
        (_, result) = relay::relay(&mut stream, &mut guest, Vec::new()) => result,
        () = guard.cut() => Ok(()),
    }
}

/// That `noded` is away here is for the other router a guest that is busy.
fn told(error: NotOpened) -> OpenError {
    match error {
        NotOpened::Refused(refused) => refused,
        NotOpened::Transport(error) => {
            tracing::warn!(error = %chain(&error), "A session from another node was put off");
            OpenError::Busy("the node daemon of the guest's node is away".to_owned())
        }
    }
}
