//! Node sync: the listener for nodes.
//!
//! TLS 1.3 with the store's certificate; a client certificate of the cluster CA is asked for and may be
//! absent. By ALPN a connection is either node sync (`roost-node/1`: `join.rs` without a certificate,
//! `session.rs` with one) or HTTP for images (`images.rs`, with one). A certificate says which public
//! key the peer holds; whether a node with that key may connect, the database says each time, so a
//! deleted node is shut out at once.
//!
//! Tasks per connection: the session's own loop, a writer, and one task per question of its router.

mod calls;
mod images;
mod join;
mod session;

use crate::{db::Node, error::Result, listen, pki, store::Store};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use model::{
    frame,
    sync::{ALPN, ToNode, ToStore},
};
use rustls::{
    RootCertStore,
    crypto::ring,
    server::{ServerConfig, WebPkiClientVerifier},
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tracing::{debug, info, warn};

/// Connections have so long to end when the store stops.
const GRACE: Duration = Duration::from_secs(5);
/// A peer has so long for its first word.
const FIRST_WORD: Duration = Duration::from_secs(20);
/// A peer takes so long, at most, to accept what it is told.
const SEND: Duration = Duration::from_secs(30);

type Wire = Framed<TlsStream<TcpStream>, LengthDelimitedCodec>;

/// TLS as nodes see it.
pub fn tls(store: &Store) -> Result<Arc<ServerConfig>> {
    use crate::error::Error;
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(store.pki.ca().clone()).map_err(Error::pki("trust the CA"))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(Error::pki("set up client certificates"))?;
    let (chain, key) = store.pki.server()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::pki("set up TLS"))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(Error::pki("use the store's certificate"))?;
    config.alpn_protocols = vec![ALPN.to_vec(), b"http/1.1".to_vec()];
    // A resumed session would carry the client certificate of an earlier one; nodes connect seldom enough.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Serves nodes until `stop`.
pub async fn serve(store: Arc<Store>, listener: TcpListener, tls: Arc<ServerConfig>, stop: watch::Receiver<bool>) {
    let ending = stop.clone();
    let work = move |stream, peer| connection(store.clone(), stream, peer, ending.clone());
    listen::serve(listener, TlsAcceptor::from(tls), stop, GRACE, work).await;
}

async fn connection(store: Arc<Store>, stream: TlsStream<TcpStream>, peer: SocketAddr, stop: watch::Receiver<bool>) {
    let (_, tls) = stream.get_ref();
    let http = tls.alpn_protocol() != Some(ALPN);
    let key = tls.peer_certificates().and_then(|chain| pki::certificate_key_sha256(chain.first()?));
    let node = match key {
        None => None,
        Some(key) => match store.db.read(move |tx| tx.node_by_key(&key.to_string())).await {
            Ok(node) => {
                Some(node.ok_or("This node's certificate is not registered here (any more): it must join again"))
            }
            Err(error) => return warn!(%peer, error = %crate::error::chain(&error), "Cannot look for a node"),
        },
    };
    if http {
        return images::serve(store, stream, peer, node.and_then(|n| n.ok()), stop).await;
    }
    let mut wire = Framed::new(stream, codec());
    match node {
        None => join::serve(&store, &mut wire, peer).await,
        Some(Ok(node)) => session::serve(store, wire, peer, node, stop).await,
        Some(Err(reason)) => refuse(&mut wire, peer, reason).await,
    }
}

fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().length_field_length(4).max_frame_length(frame::MAX).new_codec()
}

/// The first frame of a connection; none if it is late, or none.
async fn first_word(wire: &mut Wire, peer: SocketAddr) -> Option<ToStore> {
    match tokio::time::timeout(FIRST_WORD, wire.next()).await {
        Ok(Some(bytes)) => match read(bytes) {
            Ok(word) => Some(word),
            Err(error) => {
                warn!(%peer, error, "A peer's first word is none");
                None
            }
        },
        Ok(None) => None,
        Err(_) => {
            debug!(%peer, "A peer says nothing");
            None
        }
    }
}

fn read(frame: std::io::Result<BytesMut>) -> std::result::Result<ToStore, String> {
    let bytes = frame.map_err(|e| e.to_string())?;
    frame::decode(&bytes).map_err(|e| crate::error::chain(&e))
}

/// Says no, with the reason, here and there.
async fn refuse(wire: &mut Wire, peer: SocketAddr, reason: &str) {
    info!(%peer, reason, "Node refused");
    send(wire, ToNode::Refused(reason.to_owned())).await;
}

/// Sends a last word and closes in order, so that it arrives.
async fn send(wire: &mut Wire, message: ToNode) {
    let Ok(bytes) = frame::encode(&message) else { return };
    let sending = async {
        wire.send(Bytes::from(bytes)).await?;
        SinkExt::<Bytes>::close(wire).await
    };
    match tokio::time::timeout(SEND, sending).await {
        Ok(Ok(())) => {}
        // The peer went away: nobody is left to be told.
        Ok(Err(error)) => debug!(%error, "A last word did not arrive"),
        Err(_) => debug!("A last word took too long"),
    }
}

/// For log lines and events.
fn name(node: &Node) -> String {
    format!("{} (host {})", node.name, node.id)
}
