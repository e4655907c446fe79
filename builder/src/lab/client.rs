//! A QVD client, as far as the lab needs one: log in, list, connect, and the session's bytes.

use super::LabError;
use base64::{Engine, engine::general_purpose::STANDARD};
use model::Digest;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// SHA-256 of a router's certificate.
pub type Fingerprint = Digest;

/// How long any one answer may take: starting a desktop on an emulated machine is the longest.
const PATIENCE: Duration = Duration::from_secs(300);

/// One row of `/qvd/list_of_vm`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct VmRow {
    /// Its id.
    pub id: u32,
    /// Its state's word.
    pub state: String,
    /// Its name.
    pub name: String,
    /// 1 when in maintenance; a number since the genuine clients demand one.
    pub blocked: u8,
}

/// A user at a router.
pub struct Client {
    runtime: Arc<Runtime>,
    peer: SocketAddr,
    tls: TlsConnector,
    seen: Arc<Mutex<Option<Fingerprint>>>,
    authorization: String,
}

/// What a router said to `connect_to_vm`.
pub enum ConnectAnswer {
    /// 101: the session is open.
    Open {
        /// Texts of the 102s, in order.
        progress: Vec<String>,
        /// The session's bytes.
        session: Box<Session>,
    },
    /// Any other final status.
    Refused {
        /// The status.
        status: u16,
        /// The body.
        body: String,
    },
}

/// The bytes of an open session.
pub struct Session {
    runtime: Arc<Runtime>,
    stream: TlsStream<TcpStream>,
}

impl Client {
    /// A user at the router on 127.0.0.1:`port`. The certificate is taken as it is; see [`Client::fingerprint`].
    pub fn new(port: u16, login: &str, password: &str) -> Result<Self, LabError> {
        let peer = SocketAddr::from(([127, 0, 0, 1], port));
        let failed = |source| LabError::Connection { peer: peer.to_string(), source };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let seen = Arc::new(Mutex::new(None));
        let config = client_config(Arc::clone(&seen)).map_err(|e| failed(io::Error::other(e)))?;
        Ok(Self {
            runtime: Arc::new(runtime.map_err(failed)?),
            peer,
            tls: TlsConnector::from(Arc::new(config)),
            seen,
            authorization: format!("Basic {}", STANDARD.encode(format!("{login}:{password}"))),
        })
    }

    /// Fingerprint of the certificate that the router showed last.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        *self.seen.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// GETs `path` with this user's credentials: final status and body.
    pub fn get(&self, path: &str) -> Result<(u16, String), LabError> {
        let request = format!("GET {path} HTTP/1.1\r\nAuthorization: {}\r\n\r\n", self.authorization);
        self.blocking(async {
            let mut stream = self.open(&request).await?;
            let (_, status, length, early) = read_heads(&mut stream).await?;
            read_body(&mut stream, status, length, early).await
        })
    }

    /// The user's VMs.
    pub fn list(&self) -> Result<Vec<VmRow>, LabError> {
        let (status, body) = self.get("/qvd/list_of_vm")?;
        let rows = (status == 200).then(|| serde_json::from_str(&body).ok()).flatten();
        rows.ok_or_else(|| self.unexpected(status, &body, "200 with a list of machines"))
    }

    /// Asks for a session with a VM; parameters as QVD's clients send them.
    pub fn connect(&self, vm: u32, params: &[(&str, &str)]) -> Result<ConnectAnswer, LabError> {
        let query: String = params.iter().map(|(k, v)| format!("&{k}={}", v.replace('/', "%2F"))).collect();
        let request = format!(
            "GET /qvd/connect_to_vm?id={vm}{query} HTTP/1.1\r\nAuthorization: {}\r\nConnection: Upgrade\r\nUpgrade: QVD/1.0\r\n\r\n",
            self.authorization
        );
        self.blocking(async {
            let mut stream = self.open(&request).await?;
            let (progress, status, length, early) = read_heads(&mut stream).await?;
            if status == 101 {
                return Ok(ConnectAnswer::Open {
                    progress,
                    session: Box::new(Session { runtime: Arc::clone(&self.runtime), stream }),
                });
            }
            let (status, body) = read_body(&mut stream, status, length, early).await?;
            Ok(ConnectAnswer::Refused { status, body })
        })
    }

    /// Like [`Client::connect`], where anything but a session is an error.
    pub fn session(&self, vm: u32, params: &[(&str, &str)]) -> Result<(Vec<String>, Box<Session>), LabError> {
        match self.connect(vm, params)? {
            ConnectAnswer::Open { progress, session } => Ok((progress, session)),
            ConnectAnswer::Refused { status, body } => Err(self.unexpected(status, &body, "101 Switching Protocols")),
        }
    }

    async fn open(&self, request: &str) -> io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.peer).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::from(self.peer.ip());
        let mut stream = self.tls.connect(name, tcp).await?;
        stream.write_all(request.as_bytes()).await?;
        Ok(stream)
    }

    fn blocking<T>(&self, work: impl Future<Output = io::Result<T>>) -> Result<T, LabError> {
        let bounded = async { timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) };
        self.runtime
            .block_on(bounded)
            .map_err(|source| LabError::Connection { peer: format!("the router at {}", self.peer), source })
    }

    fn unexpected(&self, status: u16, body: &str, expected: &str) -> LabError {
        let found = format!("{status} {}", body.trim());
        LabError::Answer { peer: format!("The router at {}", self.peer), found, expected: expected.to_owned() }
    }
}

impl Session {
    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let work = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        self.runtime.block_on(work)
    }

    /// Waits for some bytes, at most `limit` long; empty at the end of the stream.
    pub fn receive(&mut self, limit: Duration) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; 64 << 10];
        // The timer must be made inside the runtime.
        let got = self.runtime.block_on(async { timeout(limit, self.stream.read(&mut bytes)).await })?;
        // A peer that closes without a TLS close_notify ends the stream all the same.
        let len = got.or_else(|e| if e.kind() == io::ErrorKind::UnexpectedEof { Ok(0) } else { Err(e) })?;
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Says the NX greeting and returns the peer's answer.
    pub fn nx_greeting(&mut self) -> io::Result<String> {
        self.send(b"NXPROXY-3.5.0-3.5.99 stream=default,data=default ")?;
        Ok(String::from_utf8_lossy(&self.receive(Duration::from_secs(30))?).into_owned())
    }

    /// Gives the session to the first program that connects to `listener`, in the background.
    pub fn relay_to(self, listener: TcpListener) -> io::Result<()> {
        let Self { runtime, mut stream } = self;
        listener.set_nonblocking(true)?;
        let keep = Arc::clone(&runtime);
        let relay = async move {
            let (mut local, _) = tokio::net::TcpListener::from_std(listener)?.accept().await?;
            tokio::io::copy_bidirectional(&mut local, &mut stream).await
        };
        std::thread::Builder::new().name("session".to_owned()).spawn(move || {
            // Ends with either side; whoever uses the session sees that there.
            let _ended = keep.block_on(relay);
        })?;
        Ok(())
    }
}

/// Reads heads until a final one: texts of the 102s, status, Content-Length, and bytes read beyond.
async fn read_heads(stream: &mut TlsStream<TcpStream>) -> io::Result<(Vec<String>, u16, usize, Vec<u8>)> {
    let (mut progress, mut bytes) = (Vec::new(), Vec::new());
    loop {
        let head = read_head(stream, &mut bytes).await?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status: u16 = status.ok_or_else(|| io::Error::other(format!("no HTTP status in '{head}'")))?;
        let header = |name: &str| {
            let lines = head.lines().filter_map(|l| l.split_once(':'));
            lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned()).next()
        };
        if status == 102 {
            progress.extend(header("X-QVD-VM-Info"));
            continue;
        }
        let length = header("Content-Length").and_then(|l| l.parse().ok()).unwrap_or(0);
        return Ok((progress, status, length, bytes));
    }
}

/// Takes one head off `bytes`, reading more as needed.
async fn read_head(stream: &mut TlsStream<TcpStream>, bytes: &mut Vec<u8>) -> io::Result<String> {
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            let head = std::mem::replace(bytes, rest);
            return Ok(String::from_utf8_lossy(&head).into_owned());
        }
        if stream.read_buf(bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn read_body(
    stream: &mut TlsStream<TcpStream>,
    status: u16,
    length: usize,
    mut body: Vec<u8>,
) -> io::Result<(u16, String)> {
    while body.len() < length && stream.read_buf(&mut body).await? > 0 {}
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

fn client_config(seen: Arc<Mutex<Option<Fingerprint>>>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Remember { provider: Arc::clone(&provider), seen });
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Takes any certificate and remembers its fingerprint, as a user who compares it by eye does.
#[derive(Debug)]
struct Remember {
    provider: Arc<CryptoProvider>,
    seen: Arc<Mutex<Option<Fingerprint>>>,
}

impl ServerCertVerifier for Remember {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let digest = Digest(Sha256::digest(end_entity).into());
        *self.seen.lock().unwrap_or_else(|e| e.into_inner()) = Some(digest);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
