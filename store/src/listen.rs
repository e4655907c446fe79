//! TLS listeners: accept, handshake within bounds, serve each connection in its own task, drain.

use crate::error::chain;
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::HttpService,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, info, warn};

/// Why a service or a body failed, as hyper takes it.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A peer has so long for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections open at a time on one listener.
const CONNECTIONS: usize = 4096;
/// After an accept that failed (out of descriptors, mostly) the next is tried so much later.
const BREATH: Duration = Duration::from_millis(200);

/// Serves connections until `stop` is true, then gives those at work `grace` to end.
pub async fn serve<F, W>(
    listener: TcpListener,
    tls: TlsAcceptor,
    mut stop: watch::Receiver<bool>,
    grace: Duration,
    work: F,
) where
    F: Fn(TlsStream<TcpStream>, SocketAddr) -> W + Clone + Send + 'static,
    W: Future<Output = ()> + Send,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tasks = JoinSet::new();
    loop {
        // Each branch only waits: dropping one loses no connection (accept is cancel-safe).
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(connection) => connection,
                Err(error) => {
                    warn!(%error, "Cannot accept a connection");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            },
            Some(done) = tasks.join_next(), if !tasks.is_empty() => {
                if let Err(error) = done { warn!(%error, "A connection's task ended badly"); }
                continue;
            }
            () = stopped(&mut stop) => break,
        };
        let Ok(place) = room.clone().try_acquire_owned() else {
            warn!(%peer, "Too many connections: one was refused");
            continue;
        };
        let (handshake, work) = (tls.accept(stream), work.clone());
        tasks.spawn(async move {
            let _place = place;
            match tokio::time::timeout(HANDSHAKE, handshake).await {
                Ok(Ok(stream)) => work(stream, peer).await,
                Ok(Err(error)) if is_refusal(&error) => info!(%peer, %error, "A peer does not trust this store"),
                Ok(Err(error)) => debug!(%peer, %error, "TLS handshake failed"),
                Err(_) => debug!(%peer, "TLS handshake took too long"),
            }
        });
    }
    drain(tasks, grace).await;
}

/// Whether the peer broke off by an alert, as a node does whose seed names another cluster's CA: somebody waits for
/// that node and looks here. Scanners and probes just go away.
fn is_refusal(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(rustls::Error::AlertReceived(_)))
}

/// Speaks HTTP/1.1 on a connection to its end; once the program is to stop, to the end of the request at work.
/// A request's head must come within `head`.
pub async fn http1<S>(
    service: S,
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
    head: Duration,
    mut stop: watch::Receiver<bool>,
) where
    S: HttpService<Incoming>,
    S::Error: Into<Cause>,
    S::ResBody: 'static,
    <S::ResBody as Body>::Error: Into<Cause>,
{
    let mut builder = http1::Builder::new();
    let connection =
        builder.timer(TokioTimer::new()).header_read_timeout(head).serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%peer, error = %chain(&error), "A connection ended early");
    }
}

/// Resolves once the program is to stop.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that whoever could say so is gone, which is the same.
    drop(stop.wait_for(|stop| *stop).await);
}

async fn drain(mut tasks: JoinSet<()>, grace: Duration) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, all).await.is_err() {
        warn!(connections = tasks.len(), "Connections did not end in time and are cut");
        tasks.abort_all();
    }
}
