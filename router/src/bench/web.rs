//! What a browser's session costs, beside HAProxy doing the same in the same run.
//!
//! Both end TLS 1.3 and pass bytes to and from a unix socket, each on one thread; ours also frames and
//! unmasks. What counts is bytes for each second of processor time, because the client's and the guest's
//! ends share the machine. HAProxy needs a certificate in a file, which `openssl` makes.

use super::{Ends, Kept, drain, pump};
use crate::{RouterError, listen, tls, web, ws::Socket};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

/// A tick of `/proc/PID/stat` is this long on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// Measures and prints.
pub(super) async fn run(time: Duration) -> Result<(), RouterError> {
    let (own, viewer) = web::weight();
    println!("page weight     {:>10.1} kB     ({:.1} kB with the viewer)", kb(own), kb(own + viewer));
    let folder = scratch().map_err(RouterError::Bench)?;
    let measured = compare(&folder, time).await;
    let _left_to_the_system = std::fs::remove_dir_all(&folder);
    measured.map_err(RouterError::Bench)
}

fn kb(bytes: usize) -> f64 {
    bytes as f64 / 1000.0
}

fn scratch() -> io::Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("router-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

async fn compare(folder: &Path, time: Duration) -> io::Result<()> {
    let pem = folder.join("both.pem");
    if !certificate(folder, &pem)? {
        println!("browser relay   not measured: openssl is not installed");
        return Ok(());
    }
    let haproxy = Haproxy::start(folder, &pem)?;
    if haproxy.is_none() {
        println!("HAProxy         not measured: haproxy is not installed");
    }
    for (name, up) in [("guest to browser", false), ("browser to guest", true)] {
        let bench = Bench { folder, pem: &pem, time, up };
        let ours = bench.ours().await?;
        let theirs = match &haproxy {
            Some(haproxy) => Some(bench.theirs(haproxy).await?),
            None => None,
        };
        let ratio = theirs.map_or(String::new(), |t| format!("  HAProxy {t:.0}, ratio {:.2}", ours / t));
        println!("{name} {ours:>9.0} MiB for each second of one core{ratio}");
    }
    Ok(())
}

fn certificate(folder: &Path, both: &Path) -> io::Result<bool> {
    let (key, cert) = (folder.join("key.pem"), folder.join("cert.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"])
        .args(["-subj", "/CN=bench", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .stderr(Stdio::null())
        .status();
    if !made.is_ok_and(|status| status.success()) {
        return Ok(false);
    }
    std::fs::write(both, [std::fs::read(&cert)?, std::fs::read(&key)?].concat())?;
    Ok(true)
}

struct Bench<'a> {
    folder: &'a Path,
    pem: &'a Path,
    time: Duration,
    up: bool,
}

impl Bench<'_> {
    /// MiB for each second of processor time through our relay.
    async fn ours(&self) -> io::Result<f64> {
        let (address, told) = tokio::sync::oneshot::channel();
        let (pem, guest) = (std::fs::read(self.pem)?, self.guest());
        let listener = UnixListener::bind(&guest)?;
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(one_session(&pem, &guest, address))
        });
        let address = told.await.map_err(io::Error::other)?;
        let bytes = self.drive(address, listener).await?;
        let busy = thread.join().map_err(|_| io::Error::other("The relay failed"))??;
        Ok(rate(bytes, busy))
    }

    async fn theirs(&self, haproxy: &Haproxy) -> io::Result<f64> {
        let before = busy(&format!("/proc/{}/stat", haproxy.child.id()))?;
        let listener = UnixListener::bind(self.guest())?;
        let bytes = self.drive(haproxy.address, listener).await?;
        Ok(rate(bytes, busy(&format!("/proc/{}/stat", haproxy.child.id()))? - before))
    }

    fn guest(&self) -> PathBuf {
        let path = self.folder.join("guest");
        let _was_not_there = std::fs::remove_file(&path);
        path
    }

    /// Bytes that passed from end to end.
    async fn drive(&self, address: SocketAddr, guest: UnixListener) -> io::Result<u64> {
        let accept = async { Ok::<_, io::Error>(guest.accept().await?.0) };
        let (client, guest) = tokio::try_join!(connect(address), accept)?;
        if self.up {
            let (sent, got) = tokio::join!(frames(client, self.time), drain(guest));
            // Whoever closes first may reset the other; what arrived counts.
            sent.and(got)
        } else {
            let (sent, got) = tokio::join!(pump(guest, self.time), drain(client));
            sent.and(got)
        }
    }
}

fn rate(bytes: u64, busy: Duration) -> f64 {
    bytes as f64 / busy.as_secs_f64().max(0.001) / f64::from(1 << 20)
}

/// Accepts one connection, relays it to its end, and tells the processor time of this thread.
async fn one_session(
    pem: &[u8],
    guest: &Path,
    address: tokio::sync::oneshot::Sender<SocketAddr>,
) -> io::Result<Duration> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(io::Error::other)?;
    let config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .and_then(|b| b.with_no_client_auth().with_single_cert(chain, key))
        .map_err(io::Error::other)?;
    let acceptor = TlsAcceptor::from(Arc::new(tls::for_clients(config)));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let _waited_for = address.send(listener.local_addr()?);
    let (tcp, _) = listener.accept().await?;
    listen::tune(&tcp, listen::Silence::CLIENT);
    let mut socket = Socket::new(acceptor.accept(tcp).await?);
    let mut guest = UnixStream::connect(guest).await?;
    let before = busy("/proc/thread-self/stat")?;
    let _end = socket.relay(&mut guest, || {}).await;
    let spent = busy("/proc/thread-self/stat")? - before;
    socket.close(1000, "").await;
    Ok(spent)
}

/// Processor time so far.
fn busy(path: &str) -> io::Result<Duration> {
    let stat = std::fs::read_to_string(path)?;
    // The name in parentheses may hold blanks; the 12th and 13th word behind it are user and system time.
    let words = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u64 = words.skip(11).take(2).filter_map(|w| w.parse::<u64>().ok()).sum();
    Ok(TICK * u32::try_from(ticks).unwrap_or(u32::MAX))
}

async fn connect(address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(super::anything_goes().map_err(io::Error::other)?);
    let tcp = TcpStream::connect(address).await?;
    listen::tune(&tcp, listen::Silence::CLIENT);
    connector.connect(ServerName::from(address.ip()), tcp).await
}

/// Sends masked frames, as a browser does, and then ends. How many bytes.
async fn frames(mut to: TlsStream<TcpStream>, time: Duration) -> io::Result<u64> {
    const PAYLOAD: u16 = 60_000;
    let [high, low] = PAYLOAD.to_be_bytes();
    let frame = [&[0x82, 0xfe, high, low, 1, 2, 3, 4][..], &vec![7; usize::from(PAYLOAD)]].concat();
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < time {
        to.write_all(&frame).await?;
        sent += frame.len() as u64;
    }
    to.shutdown().await?;
    // The other side ends when it has passed on everything.
    let mut rest = [0; 4096];
    while to.read(&mut rest).await? > 0 {}
    Ok(sent)
}

/// HAProxy on one thread, from TLS to a unix socket.
struct Haproxy {
    child: Child,
    address: SocketAddr,
}

impl Haproxy {
    /// None when it is not installed.
    fn start(folder: &Path, pem: &Path) -> io::Result<Option<Self>> {
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = folder.join("haproxy.cfg");
        let (pem, guest) = (pem.display(), folder.join("guest"));
        let text = format!(
            "global\n nbthread 1\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             listen bench\n bind {address} ssl crt {pem} ssl-min-ver TLSv1.3\n server guest unix@{}\n",
            guest.display()
        );
        std::fs::write(&config, text)?;
        let paths = ["/usr/sbin/haproxy", "/usr/bin/haproxy", "/usr/local/sbin/haproxy"];
        let Some(program) = paths.into_iter().find(|p| Path::new(p).is_file()) else { return Ok(None) };
        let child = Command::new(program)
            .args(["-db", "-f"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let haproxy = Self { child, address };
        let began = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            if began.elapsed() > Duration::from_secs(10) {
                return Err(io::Error::other("HAProxy does not listen"));
            }
            std::thread::yield_now();
        }
        Ok(Some(haproxy))
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Ends {
    /// KiB of resident memory for each idle browser session; see [`Ends::idle`].
    pub(super) async fn idle_browser(&self, count: u64, kept: &mut Kept) -> Result<f64, RouterError> {
        self.grow(count, kept, async |router, mut guest| {
            let _end = Socket::new(router).relay(&mut guest, || {}).await;
        })
        .await
    }
}
