//! A router with a model of `noded`, certificates of one cluster, and clients.

use crate::{
    client::{Answer, Client, get},
    fake::{Boot, Fake, State, Vm},
};
use model::{
    HostId, UserId, VmId,
    key::Config,
    local::{RouterConfig, ToNoded},
    state::{HostState, VmState, Want},
    sync::{NODE_SUFFIX, RouterTls},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use router::Options;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, crypto::ring};
use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle};

pub const ANN: &str = "ann:secret";
pub const BOB: &str = "bob:hunter2";

/// The VMs that every world has.
pub mod vm {
    pub const RUNNING: u32 = 1;
    pub const STOPPED: u32 = 2;
    pub const BLOCKED: u32 = 3;
    pub const BOBS: u32 = 4;
    pub const FAILING: u32 = 5;
    pub const ZOMBIE: u32 = 6;
    pub const HANGING: u32 = 7;
    pub const ELSEWHERE: u32 = 8;
    pub const NOWHERE: u32 = 99;
}

/// A cluster's CA.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        // OpenSSL takes a certificate whose issuer has its own name for self-signed.
        params.distinguished_name.push(DnType::CommonName, "Cluster CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("signed"))
    }

    pub fn issue(&self, names: &[String]) -> RouterTls {
        let key = KeyPair::generate().expect("key");
        let certificate = CertificateParams::new(names.to_vec()).expect("params").signed_by(&key, &self.0);
        RouterTls { chain: certificate.expect("signed").pem(), key: key.serialize_pem() }
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A client's configuration that trusts this CA.
    pub fn client(&self, version: &'static SupportedProtocolVersion, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("added");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(&[version]).expect("version");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|a| a.to_vec()).collect();
        Arc::new(config)
    }
}

/// One node: router and model.
pub struct World {
    pub runtime: Runtime,
    pub fake: Fake,
    pub address: SocketAddr,
    pub tls: Arc<ClientConfig>,
    pub drain: Duration,
    stop: Option<oneshot::Sender<()>>,
    router: Option<JoinHandle<()>>,
    child: Option<Child>,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

/// How a world differs from the usual.
pub struct Setup {
    pub host: HostId,
    pub peer_listen: SocketAddr,
    pub peer_port: u16,
    pub drain: Duration,
    pub config: Vec<(&'static str, &'static str)>,
    /// The router is a program of its own, not a part of the test.
    pub program: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let peer_listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let (drain, config) = (Duration::from_secs(1), Vec::new());
        Self { host: HostId(1), peer_listen, peer_port: 1, drain, config, program: false }
    }
}

impl World {
    pub fn new() -> Self {
        Self::with(&Ca::new(), Setup::default())
    }

    pub fn with(ca: &Ca, setup: Setup) -> Self {
        let runtime = Runtime::new().expect("runtime");
        let dir = tempfile::tempdir().expect("dir");
        let drain = setup.drain;
        let fake = Fake::start(dir.path(), runtime.handle(), state(ca, &setup));
        let log = dir.path().join("log");
        let (stop, router, child) = match setup.program {
            true => (None, None, Some(program(&fake, &setup, &log))),
            false => {
                let (stop, router) = inside(&runtime, &fake, &setup);
                (Some(stop), Some(router), None)
            }
        };
        let address = listening(&fake);
        let tls = ca.client(&rustls::version::TLS13, &[b"h2", b"http/1.1"]);
        Self { runtime, fake, address, tls, drain, stop, router, child, log, _dir: dir }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address, &self.tls)
    }

    /// Asks on a new connection.
    pub fn get(&self, path: &str, login: &str) -> Answer {
        self.client().ask(get(path, login))
    }

    /// Asks until the answer's status and body are as wished.
    #[track_caller]
    pub fn until(&self, path: &str, login: &str, status: u16, body: &str) {
        let began = std::time::Instant::now();
        loop {
            let answer = self.get(path, login);
            if answer.status == status && answer.body.contains(body) {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "still {answer:?}");
        }
    }

    /// Orders the router to end, as SIGTERM does.
    pub fn stop(&mut self) -> JoinHandle<()> {
        self.stop.take().expect("stopped once").send(()).expect("the router runs");
        self.router.take().expect("stopped once")
    }
}

/// The router as a part of the test.
fn inside(runtime: &Runtime, fake: &Fake, setup: &Setup) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let options = Options {
        noded: fake.router_socket(),
        session_socket: fake.session_socket(),
        peer_listen: setup.peer_listen,
        peer_port: setup.peer_port,
        drain: setup.drain,
        max_connections: 100,
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let router = runtime.spawn(async move {
        let stop = async { drop(stopped.await) };
        router::run(options, stop).await.expect("runs");
    });
    (stop, router)
}

/// The router as a program.
fn program(fake: &Fake, setup: &Setup, log: &Path) -> Child {
    let log = std::fs::File::create(log).expect("a log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_router"));
    command.arg("--noded").arg(fake.router_socket()).arg("--session-socket").arg(fake.session_socket());
    command.arg("--peer-listen").arg(setup.peer_listen.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("the router starts")
}

/// What is seen of a router that is a program.
impl World {
    fn proc(&self, file: &str) -> PathBuf {
        let child = self.child.as_ref().expect("the router is a program");
        PathBuf::from(format!("/proc/{}/{file}", child.id()))
    }

    /// Its resident memory.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).expect("it lives");
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a size");
        line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(self.proc("fd")).expect("it lives").count()
    }

    /// Waits until it has given back what clients cost.
    #[track_caller]
    pub fn until_quiet(&self, descriptors: usize) {
        let began = std::time::Instant::now();
        while self.descriptors() > descriptors {
            assert!(began.elapsed() < Duration::from_secs(20), "still {} descriptors", self.descriptors());
            std::thread::yield_now();
        }
    }

    /// No connection ended by a fault in the program.
    #[track_caller]
    pub fn no_fault(&self) {
        let log = std::fs::read_to_string(&self.log).expect("a log");
        assert!(!log.contains("fault in the program"), "{log}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }
}

/// Where the router listens, as it reports.
pub fn listening(fake: &Fake) -> SocketAddr {
    fake.wait("listening", |state| {
        let last = state.heard.iter().rev().find_map(|word| match word {
            ToNoded::Listening(Ok(address)) => Some(address.clone()),
            _ => None,
        });
        last.map(|address| address.parse().expect("an address"))
    })
}

fn state(ca: &Ca, setup: &Setup) -> State {
    let keys = [("l7r.address", "127.0.0.1"), ("l7r.port", "0")];
    let keys = keys.iter().chain(&setup.config).map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let config = RouterConfig {
        host: Some(setup.host),
        state: HostState::Running,
        blocked: false,
        store_online: true,
        config: Config(keys.collect()),
        tls: ca.issue(&["127.0.0.1".to_owned()]),
        peer_tls: ca.issue(&[format!("{}{NODE_SUFFIX}", setup.host)]),
        ca: ca.pem(),
    };
    State {
        config,
        users: [(("ann", "secret"), UserId(1)), (("bob", "hunter2"), UserId(2))].into(),
        vms: vms(setup.host),
        codes: ["123456", "654321"].into(),
        heard: Vec::new(),
        opened: Vec::new(),
        busy: 0,
        sessions: HashMap::new(),
        slow_takeover: false,
        acquiring: None,
        ended: Vec::new(),
    }
}

fn vms(host: HostId) -> HashMap<VmId, Vm> {
    let usual = Vm {
        owner: UserId(1),
        name: "vm",
        state: VmState::Running,
        want: Want::Run,
        blocked: false,
        failed: None,
        boot: Boot::Works,
        note: None,
        phase: "",
        host,
        address: Ipv4Addr::LOCALHOST,
    };
    let stopped = Vm { state: VmState::Stopped, want: Want::Stop, ..usual.clone() };
    let all = [
        (vm::RUNNING, Vm { name: "run", ..usual.clone() }),
        (vm::STOPPED, stopped.clone()),
        (vm::BLOCKED, Vm { blocked: true, ..usual.clone() }),
        (vm::BOBS, Vm { owner: UserId(2), ..usual.clone() }),
        (vm::FAILING, Vm { boot: Boot::Fails("the image is broken"), ..stopped.clone() }),
        (vm::ZOMBIE, Vm { state: VmState::Zombie, ..usual.clone() }),
        (vm::HANGING, Vm { boot: Boot::Hangs, ..stopped }),
        (vm::ELSEWHERE, Vm { host: HostId(2), ..usual }),
    ];
    all.into_iter().map(|(id, vm)| (VmId(id), vm)).collect()
}
