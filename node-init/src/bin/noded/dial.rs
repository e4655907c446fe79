//! A TLS connection to the store's node listener.

use crate::{clock, wire::Wire};
use model::{seed::StoreAddress, sync::STORE_NAME};
use rustix::net::sockopt;
use rustls::{CertificateError, ClientConfig};
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
    /// The store's certificate is good at some other time than this node takes it to be.
    #[error(
        "The certificate of the store at {address} is not valid on {today}, which is today by this node's clock: set the \
         clock, by the firmware's setup or a time server"
    )]
    Clock {
        /// As in the seed.
        address: StoreAddress,
        /// The date here, UTC.
        today: String,
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
    tls.map_err(|source| {
        let address = address.clone();
        match source.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(error) if is_about_time(error) => DialError::Clock { address, today: clock::today() },
            _ => DialError::Tls { address, source },
        }
    })
}

/// The cluster's certificates outlive it (none ends before 2046, and all began before this was written), so that a date is
/// wrong here and not there.
fn is_about_time(error: &rustls::Error) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    use rustls::Error::InvalidCertificate;
    matches!(error, InvalidCertificate(Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }))
}

fn watch_over(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    sockopt::set_tcp_user_timeout(tcp, UNACKED_MS)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, Duration::from_secs(10))?;
    sockopt::set_tcp_keepintvl(tcp, Duration::from_secs(5))?;
    Ok(sockopt::set_tcp_keepcnt(tcp, 2)?)
}
