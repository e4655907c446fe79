//! TLS, in three parts: towards clients, and both sides between routers.
//!
//! Towards clients: TLS 1.2 and 1.3, never a session ticket nor a resumption (a ticket behind the
//! handshake makes the C client give up), ALPN `http/1.1` alone, so that curl never picks HTTP/2.
//! Between routers: TLS 1.3 with certificates of the cluster CA on both sides; a node's certificate
//! carries the name `<host id>.node.roost.internal`, and the dialling side checks that very name.

use crate::RouterError;
use model::{
    HostId,
    sync::{NODE_SUFFIX, RouterTls},
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::sync::Arc;

/// ALPN between routers.
pub const PEER_ALPN: &[u8] = b"roost-session/1";

/// The configuration towards clients.
pub fn public(tls: &RouterTls) -> Result<Arc<ServerConfig>, RouterError> {
    const WHAT: &str = "router's certificate";
    let (chain, key) = identity(tls, WHAT)?;
    let wrong = |source| RouterError::Tls { what: WHAT, source };
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(wrong)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(wrong)?;
    Ok(Arc::new(for_clients(config)))
}

/// What every configuration towards clients has in common.
pub(crate) fn for_clients(mut config: ServerConfig) -> ServerConfig {
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Both sides of connections between routers.
#[derive(Clone)]
pub struct Peers {
    /// For routers that dial in.
    pub server: Arc<ServerConfig>,
    /// For dialling out.
    pub client: Arc<ClientConfig>,
}

impl Peers {
    /// Reads a node's identity and the cluster CA.
    pub fn new(tls: &RouterTls, ca: &str) -> Result<Self, RouterError> {
        Ok(Self { server: peer_server(tls, ca)?, client: peer_client(tls, ca)? })
    }
}

/// The name in a node's certificate.
pub fn node_name(host: HostId) -> Result<ServerName<'static>, rustls_pki_types::InvalidDnsNameError> {
    ServerName::try_from(format!("{host}{NODE_SUFFIX}"))
}

const NODE: &str = "node's certificate";

fn peer_server(tls: &RouterTls, ca: &str) -> Result<Arc<ServerConfig>, RouterError> {
    let (chain, key) = identity(tls, NODE)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider())
        .build()
        .map_err(RouterError::Verifier)?;
    let wrong = |source| RouterError::Tls { what: NODE, source };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(wrong)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(wrong)?;
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![PEER_ALPN.to_vec()];
    Ok(Arc::new(config))
}

fn peer_client(tls: &RouterTls, ca: &str) -> Result<Arc<ClientConfig>, RouterError> {
    let (chain, key) = identity(tls, NODE)?;
    let wrong = |source| RouterError::Tls { what: NODE, source };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(wrong)?
        .with_root_certificates(roots(ca)?)
        .with_client_auth_cert(chain, key)
        .map_err(wrong)?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![PEER_ALPN.to_vec()];
    Ok(Arc::new(config))
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn identity(
    tls: &RouterTls,
    what: &'static str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), RouterError> {
    let key = PrivateKeyDer::from_pem_slice(tls.key.as_bytes());
    Ok((certificates(&tls.chain, what)?, key.map_err(|source| RouterError::Pem { what, source })?))
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, RouterError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(|source| RouterError::Pem { what, source })?;
    if all.is_empty() { Err(RouterError::NoCertificate { what }) } else { Ok(all) }
}

fn roots(ca: &str) -> Result<RootCertStore, RouterError> {
    const WHAT: &str = "cluster CA";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca, WHAT)? {
        roots.add(certificate).map_err(|source| RouterError::Tls { what: WHAT, source })?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_without_its_key_or_without_a_certificate_is_named() {
        let both = RouterTls::default();
        assert!(matches!(public(&both), Err(RouterError::NoCertificate { .. } | RouterError::Pem { .. })));
        let own = rcgen::generate_simple_self_signed(["x".to_owned()]).expect("made");
        let other = rcgen::generate_simple_self_signed(["x".to_owned()]).expect("made");
        let mixed = RouterTls { chain: own.cert.pem(), key: other.signing_key.serialize_pem() };
        let error = public(&mixed).expect_err("the key is another's");
        assert_eq!(error.to_string(), "Cannot use the router's certificate");
    }

    #[test]
    fn clients_get_http_1_1_and_no_tickets() {
        let own = rcgen::generate_simple_self_signed(["x".to_owned()]).expect("made");
        let tls = RouterTls { chain: own.cert.pem(), key: own.signing_key.serialize_pem() };
        let config = public(&tls).expect("usable");
        assert_eq!(config.alpn_protocols, [b"http/1.1".to_vec()]);
        assert_eq!(config.send_tls13_tickets, 0);
        assert!(!config.ticketer.enabled() && !config.session_storage.can_cache());
    }
}
