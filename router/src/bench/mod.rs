//! `router bench`: how fast bytes pass through, and what an idle connection costs.
//!
//! Client, router side and guest run in this process over loopback TCP with TLS and a socket pair, as in
//! service. TLS uses raw public keys, so that no certificate has to be made.

mod web;

use crate::{RouterError, listen, relay, tls};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, ring::sign::any_supported_type, verify_tls13_signature_with_raw_key},
    server::AlwaysResolvesServerRawPublicKeys,
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// What to measure.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Seconds for each direction.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Idle connections for the measure of memory.
    #[arg(long, default_value_t = 500)]
    idle: u64,
}

/// Measures and prints.
pub async fn run(args: Args) -> Result<(), RouterError> {
    tokio::task::LocalSet::new().run_until(measure(args)).await
}

async fn measure(args: Args) -> Result<(), RouterError> {
    let ends = Ends::new().await?;
    let time = Duration::from_secs(args.seconds);
    println!("handshakes      {:>10.0} /s  (TLS 1.3, both ends, one at a time)", ends.handshakes(time).await?);
    println!("client to guest {:>10.0} MiB/s", ends.throughput(time, true).await?);
    println!("guest to client {:>10.0} MiB/s", ends.throughput(time, false).await?);
    let mut kept = Kept::new();
    let idle = ends.idle(args.idle, &mut kept).await?;
    println!("idle session    {idle:>10.1} KiB    (router's end, with the guest's)");
    let idle = ends.idle_browser(args.idle, &mut kept).await?;
    println!("idle browser    {idle:>10.1} KiB    (the same)");
    drop(kept);
    web::run(time).await
}

/// Both ends of connections to be.
struct Ends {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

type Connected = (client::TlsStream<TcpStream>, server::TlsStream<TcpStream>);

impl Ends {
    async fn new() -> Result<Self, RouterError> {
        let key = key()?;
        let pinned = key.cert[0].clone();
        let wrong = |source| RouterError::Tls { what: "benchmark's key", source };
        let versions = [&rustls::version::TLS13];
        let server = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&versions)
            .map_err(wrong)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::new(key))));
        let mut client = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&versions)
            .map_err(wrong)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned::new(pinned)))
            .with_no_client_auth();
        client.resumption = rustls::client::Resumption::disabled();
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(RouterError::Bench)?;
        let acceptor = TlsAcceptor::from(Arc::new(tls::for_clients(server)));
        Ok(Self { listener, acceptor, connector: TlsConnector::from(Arc::new(client)) })
    }

    async fn connect(&self) -> Result<Connected, RouterError> {
        self.try_connect().await.map_err(RouterError::Bench)
    }

    async fn try_connect(&self) -> io::Result<Connected> {
        let address = self.listener.local_addr()?;
        let dial = async {
            let tcp = TcpStream::connect(address).await?;
            listen::tune(&tcp, listen::Silence::CLIENT);
            self.connector.connect(ServerName::from(address.ip()), tcp).await
        };
        let answer = async {
            let (tcp, _) = self.listener.accept().await?;
            listen::tune(&tcp, listen::Silence::CLIENT);
            self.acceptor.accept(tcp).await
        };
        tokio::try_join!(dial, answer)
    }

    async fn handshakes(&self, time: Duration) -> Result<f64, RouterError> {
        let (began, mut count) = (Instant::now(), 0u32);
        while began.elapsed() < time {
            drop(self.connect().await?);
            count += 1;
        }
        Ok(f64::from(count) / began.elapsed().as_secs_f64())
    }

    /// MiB a second through the relay.
    async fn throughput(&self, time: Duration, up: bool) -> Result<f64, RouterError> {
        let (client, mut router) = self.connect().await?;
        let (mut to_guest, guest) = UnixStream::pair().map_err(RouterError::Bench)?;
        let relay = tokio::spawn(async move { relay::relay(&mut router, &mut to_guest, Vec::new()).await.0 });
        let began = Instant::now();
        let sent = match up {
            true => tokio::join!(pump(client, time), drain(guest)),
            false => tokio::join!(pump(guest, time), drain(client)),
        };
        sent.0.map_err(RouterError::Bench)?;
        let bytes = sent.1.map_err(RouterError::Bench)?;
        let seconds = began.elapsed().as_secs_f64();
        relay.abort();
        Ok(bytes as f64 / seconds / f64::from(1 << 20))
    }

    /// KiB of resident memory for each idle session, measured as growth with the clients' ends
    /// measured apart and taken off.
    async fn idle(&self, count: u64, kept: &mut Kept) -> Result<f64, RouterError> {
        self.grow(count, kept, async |mut router, mut guest| {
            let _end = relay::relay(&mut router, &mut guest, Vec::new()).await;
        })
        .await
    }

    async fn grow<F>(&self, count: u64, kept: &mut Kept, session: F) -> Result<f64, RouterError>
    where
        F: AsyncFn(server::TlsStream<TcpStream>, UnixStream) + Clone + 'static,
    {
        let before = rss_kib().map_err(RouterError::Bench)?;
        for _ in 0..count {
            let (client, router) = self.connect().await?;
            let (to_guest, guest) = UnixStream::pair().map_err(RouterError::Bench)?;
            let session = session.clone();
            let task = tokio::task::spawn_local(async move { session(router, to_guest).await });
            kept.push((client, task, guest));
        }
        let both = rss_kib().map_err(RouterError::Bench)?;
        // A client's end of rustls keeps about as much as a server's: half is the router's.
        Ok((both - before) / 2.0 / count.max(1) as f64)
    }
}

/// Idle sessions, which stay until all was measured: memory given back would be used again for the next.
type Kept = Vec<(client::TlsStream<TcpStream>, tokio::task::JoinHandle<()>, UnixStream)>;

async fn pump(mut to: impl tokio::io::AsyncWrite + Unpin, time: Duration) -> io::Result<()> {
    let (began, block) = (Instant::now(), vec![7; 64 * 1024]);
    while began.elapsed() < time {
        to.write_all(&block).await?;
    }
    to.shutdown().await
}

async fn drain(mut from: impl tokio::io::AsyncRead + Unpin) -> io::Result<u64> {
    let (mut block, mut total) = (vec![0; 64 * 1024], 0);
    loop {
        match from.read(&mut block).await? {
            0 => return Ok(total),
            n => total += n as u64,
        }
    }
}

/// Resident memory of this process.
fn rss_kib() -> io::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let number = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok());
    number.ok_or_else(|| io::Error::other("No VmRSS in /proc/self/status"))
}

fn key() -> Result<CertifiedKey, RouterError> {
    let wrong = |source| RouterError::Tls { what: "benchmark's key", source };
    let random = ring::rand::SystemRandom::new();
    let pkcs8 =
        ring::signature::EcdsaKeyPair::generate_pkcs8(&ring::signature::ECDSA_P256_SHA256_ASN1_SIGNING, &random);
    let pkcs8 = pkcs8.map_err(|_| RouterError::Random)?.as_ref().to_vec();
    let key = any_supported_type(&PrivateKeyDer::Pkcs8(pkcs8.into())).map_err(wrong)?;
    let public = key.public_key().ok_or(TlsError::General("The key has no public half".to_owned())).map_err(wrong)?;
    Ok(CertifiedKey::new(vec![CertificateDer::from(public.as_ref().to_vec())], key))
}

/// A client's configuration for measuring servers of this very machine, whatever they show.
fn anything_goes() -> Result<Arc<ClientConfig>, TlsError> {
    let anything = Pinned { key: None, algorithms: tls::provider().signature_verification_algorithms };
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(anything))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Takes the one key that this process made.
#[derive(Debug)]
struct Pinned {
    /// A raw key; none is any certificate.
    key: Option<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    fn new(key: CertificateDer<'static>) -> Self {
        Self { key: Some(key), algorithms: tls::provider().signature_verification_algorithms }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let same = self.key.as_ref().is_none_or(|key| end_entity == key);
        same.then(ServerCertVerified::assertion).ok_or_else(|| TlsError::General("Another key".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("Only TLS 1.3 is measured".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        if self.key.is_none() {
            return rustls::crypto::verify_tls13_signature(message, key, signature, &self.algorithms);
        }
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(key.as_ref()),
            signature,
            &self.algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.key.is_some()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}
