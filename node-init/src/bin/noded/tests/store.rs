//! A store's side of node sync, spoken by hand: real TLS with a CA of its own, and frames as the test says.

use crate::{identity::fingerprint, wire::Wire};
use model::{
    Digest, HostId,
    seed::StoreSeed,
    sync::{ALPN, Hello, Joined, NODE_SUFFIX, PROTO, STORE_NAME, ToNode, ToStore, Welcome},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// A cluster's store.
pub struct FakeStore {
    pub ca: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    acceptor: TlsAcceptor,
    listener: Option<TcpListener>,
    port: u16,
    grants: Ed25519KeyPair,
}

/// One node's connection.
pub struct Peer {
    pub wire: Wire<TlsStream<TcpStream>>,
    pub has_certificate: bool,
}

impl FakeStore {
    pub async fn start() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).expect("CA").der().clone();
        let issuer = Issuer::new(params, key);
        let acceptor = acceptor(&ca, &issuer);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("address").port();
        let grants = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).expect("32 bytes");
        Self { ca, issuer, acceptor, listener: Some(listener), port, grants }
    }

    /// What a node of this cluster is told.
    pub fn seed(&self, token: Option<&str>) -> StoreSeed {
        let address = format!("127.0.0.1:{}", self.port).parse().expect("address");
        StoreSeed { address, ca: Some(self.fingerprint()), token: token.map(str::to_owned) }
    }

    pub fn fingerprint(&self) -> Digest {
        fingerprint(&self.ca)
    }

    /// Nobody listens any more.
    pub fn away(&mut self) {
        self.listener = None;
    }

    /// Listens again, where it did.
    pub async fn back(&mut self) {
        self.listener = Some(TcpListener::bind(("127.0.0.1", self.port)).await.expect("binds again"));
    }

    /// The next connection that gets through its handshake.
    pub async fn accept(&self) -> Peer {
        let listener = self.listener.as_ref().expect("listens");
        loop {
            let (tcp, _) = listener.accept().await.expect("accepts");
            if let Ok(tls) = self.acceptor.accept(tcp).await {
                let has_certificate = tls.get_ref().1.peer_certificates().is_some();
                return Peer { wire: Wire::new(tls), has_certificate };
            }
        }
    }

    /// What a node gets for its request.
    pub fn joined(&self, csr: Vec<u8>) -> Joined {
        let mut request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr)).expect("a request");
        let names = CertificateParams::new(vec![format!("7{NODE_SUFFIX}")]).expect("a name");
        request.params.subject_alt_names = names.subject_alt_names;
        request.params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = request.signed_by(&self.issuer).expect("signs").der().to_vec();
        Joined { host: HostId(7), name: "node7".into(), certificate, ca: self.ca.to_vec() }
    }

    pub fn welcome(&self) -> ToNode {
        let grant_key = self.grants.public_key().as_ref().to_vec();
        ToNode::Welcome(Welcome { host: HostId(7), name: "node7".into(), clock_ms: crate::clock::now_ms(), grant_key })
    }

    /// Lets a node with a certificate in: its Hello.
    pub async fn let_in(&self) -> (Peer, Hello) {
        let mut peer = self.accept().await;
        assert!(peer.has_certificate, "a member shows its certificate");
        let ToStore::Hello(hello) = peer.recv().await else { panic!("Hello comes first") };
        assert_eq!(hello.proto, PROTO);
        peer.send(&self.welcome()).await;
        (peer, hello)
    }
}

impl Peer {
    pub async fn recv(&mut self) -> ToStore {
        self.wire.recv().await.expect("a frame")
    }

    pub async fn send(&mut self, word: &ToNode) {
        self.wire.send(word).await.expect("sends");
    }

    /// The next word that `wanted` picks; others are passed over.
    pub async fn until<T>(&mut self, mut wanted: impl FnMut(ToStore) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.recv().await) {
                return found;
            }
        }
    }
}

fn acceptor(ca: &CertificateDer<'static>, issuer: &Issuer<'static, KeyPair>) -> TlsAcceptor {
    let key = KeyPair::generate().expect("key");
    let params = CertificateParams::new(vec![STORE_NAME.to_owned()]).expect("name");
    let certificate = params.signed_by(&key, issuer).expect("signs").der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .expect("a verifier");
    let key: PrivateKeyDer = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate, ca.clone()], key)
        .expect("a certificate");
    config.alpn_protocols = vec![ALPN.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}
