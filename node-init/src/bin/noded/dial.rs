//! A TLS connection to the store's node listener.

use crate::wire::Wire;
use model::{seed::StoreAddress, sync::STORE_NAME};
use rustix::net::sockopt;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::{io, sync::Arc, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A connection to the store.
pub type StoreWire = Wire<TlsStream<TcpStream>>;

/// Seconds for resolving, connecting and the handshake together.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes unacknowledged for so long end the connection: a network that swallows everything is noticed
/// in this time, not after the kernel's quarter of an hour.
const UNACKED_MS: u32 = 20_000;

/// Why the store cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No connection.
    #[error("Cannot connect to the store at {address}")]
    Connect {
        /// As in the seed.
        address: StoreAddress,
        /// Why.
        source: io::Error,
    },
    /// No TLS session.
    #[error("Cannot agree on TLS with the store at {address}")]
    Tls {
        /// As in the seed.
        address: StoreAddress,
        /// Why.
        source: io::Error,
    },
}

/// Connects and shakes hands; the server must show a certificate for [`STORE_NAME`].
pub async fn dial(address: &StoreAddress, config: ClientConfig) -> Result<StoreWire, DialError> {
    Ok(Wire::new(connect(address, config).await?))
}

/// The same, for those who speak something other than frames.
pub async fn connect(address: &StoreAddress, config: ClientConfig) -> Result<TlsStream<TcpStream>, DialError> {
    let connect = |source| DialError::Connect { address: address.clone(), source };
    let tcp = timeout(PATIENCE, TcpStream::connect((address.host.as_str(), address.port)));
    let tcp = tcp.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(connect)?;
    watch_over(&tcp).map_err(connect)?;
    let name = ServerName::try_from(STORE_NAME).unwrap_or_else(|_| unreachable!("{STORE_NAME} is a DNS name"));
    let tls = timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, tcp));
    let tls = tls.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    tls.map_err(|source| DialError::Tls { address: address.clone(), source })
}

fn watch_over(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    sockopt::set_tcp_user_timeout(tcp, UNACKED_MS)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, Duration::from_secs(10))?;
    sockopt::set_tcp_keepintvl(tcp, Duration::from_secs(5))?;
    Ok(sockopt::set_tcp_keepcnt(tcp, 2)?)
}
