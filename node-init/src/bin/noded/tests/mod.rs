//! The core against a store's side of the protocol and a router's, over real TLS and real sockets.

mod member;
mod routing;
mod store;

use crate::{
    board::Board,
    guests::Reports,
    identity::{Member, NodeKey},
    init::Init,
    network::Uplink,
    paths::Paths,
    sync::{Cluster, Keeper, Store},
};
use model::{
    init::ToInit,
    key::Config,
    seed::{Seed, StoreSeed},
    sync::{Desired, RouterTls},
};
use std::{sync::Arc, time::Duration};
use tokio::{net::UnixStream, sync::watch, task::JoinHandle, time::timeout};

/// A node's core with its guests played by the test.
struct Node {
    paths: Paths,
    board: Arc<Board>,
    key: Arc<NodeKey>,
    store: Store,
    guests: watch::Sender<Reports>,
    able: watch::Sender<Result<(), String>>,
    channel: UnixStream,
    cluster: JoinHandle<()>,
    _dir: Arc<tempfile::TempDir>,
}

impl Node {
    /// A machine's first boot.
    fn boot(seed: StoreSeed) -> Self {
        Self::boot_on(Arc::new(tempfile::tempdir().expect("temp dir")), seed)
    }

    /// A boot on a STATE of an earlier one.
    fn boot_on(dir: Arc<tempfile::TempDir>, seed: StoreSeed) -> Self {
        let paths = Paths { state: dir.path().join("state"), run: dir.path().join("run") };
        crate::files::make_dir(&paths.run, 0o755).expect("run");
        let (ours, theirs) = sys::seqpacket::pair().expect("pair");
        let channel = UnixStream::from_std(std::os::fd::OwnedFd::from(theirs).into()).expect("pollable");
        let (init, _heard) = Init::start(Some(ours.into())).expect("init");
        let key = Arc::new(NodeKey::load_or_make(&paths).expect("key"));
        let board = Arc::new(Board::default());
        let ca = seed.ca.expect("a seed with its CA");
        let keeper = Keeper::open(&paths, ca);
        let member = Member::load(&paths).expect("membership").filter(|m| m.cluster() == ca);
        crate::recall(&board, member, &keeper);
        let (store, talk) = Store::new();
        let guests = watch::Sender::new(Reports::default());
        let able = watch::Sender::new(Ok(()));
        let address = "192.0.2.7/24".parse().expect("address");
        let (link, mac) = ("eth0".into(), "52:54:00:00:00:07".into());
        let (_, uplink) = watch::channel(Some(Uplink { link, mac, address, dns: vec![], ntp: vec![] }));
        let cluster = Cluster {
            paths: paths.clone(),
            seed: Seed { store: seed, node: None, network: None, state: None },
            ca,
            key: key.clone(),
            board: board.clone(),
            init,
            keeper,
            guests: guests.subscribe(),
            able: able.subscribe(),
            uplink,
            talk,
            said: None,
        };
        let cluster = tokio::spawn(cluster.run());
        Self { paths, board, key, store, guests, able, channel, cluster, _dir: dir }
    }

    /// Pulls the plug; what is on STATE stays.
    fn cut_power(self) -> Arc<tempfile::TempDir> {
        self.cluster.abort();
        self._dir
    }

    /// The next line on the console.
    async fn console(&self) -> String {
        let mut packet = [0; sys::seqpacket::MAX_PACKET];
        loop {
            self.channel.readable().await.expect("readable");
            let Ok(len) = self.channel.try_read(&mut packet) else { continue };
            if let Ok(ToInit::Console(line)) = model::frame::decode(&packet[..len]) {
                return line;
            }
        }
    }
}

fn desired(revision: u64) -> Desired {
    let router_tls = RouterTls { chain: "chain".into(), key: "key".into() };
    Desired { revision, blocked: false, config: Config::default(), router_tls, guests: vec![], update: None }
}

/// Bounds a test that waits for something that never comes.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), work).await.expect("happens within 30 s")
}

/// Waits until a value on the board is as wanted.
async fn see<T>(value: &watch::Sender<T>, wanted: impl FnMut(&T) -> bool) {
    soon(value.subscribe().wait_for(wanted)).await.map(drop).expect("the board lives");
}
