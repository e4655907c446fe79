//! What the promises are tried on: a database whose clock they set, and the short words for what they do with it.

use crate::{
    db::{Acquire, Clock, Db, NewImage, Reported, Tx, Wish},
    error::Result,
};
use model::{
    DiId, Digest, HostId, OsfId, UserId, VmId,
    api::{NewHost, NewOsf, NewVm},
    state::{HostState, VmState},
    sync::{Desired, GuestReport, Heartbeat, Hello, Inventory, JoinRequest, PROTO, Refusal},
};
use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// A database and its clock.
pub struct World {
    pub(super) db: Db,
    pub(super) now: Arc<AtomicU64>,
    _dir: tempfile::TempDir,
}

impl World {
    pub(super) fn sqlite() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, now) = (dir.path().join("store.db"), Arc::new(AtomicU64::new(1_800_000_000_000)));
        let clock = Clock::Manual(now.clone());
        Db::create(&path, &clock, |_| Ok(())).expect("a database");
        Self { db: Db::open(&path, clock).expect("opens"), now, _dir: dir }
    }

    pub(super) async fn tx<T: Send + 'static>(&self, work: impl FnOnce(&Tx) -> Result<T> + Send + 'static) -> T {
        self.db.write(work).await.expect("done")
    }

    pub(super) async fn refused<T: Send + std::fmt::Debug + 'static>(
        &self,
        work: impl FnOnce(&Tx) -> Result<T> + Send + 'static,
    ) -> String {
        self.db.write(work).await.expect_err("refused").to_string()
    }

    pub(super) fn pass(&self, seconds: u64) {
        self.now.fetch_add(seconds * 1000, Ordering::SeqCst);
    }

    /// A node that runs.
    pub(super) async fn node(&self, name: &str) -> HostId {
        let name = name.to_owned();
        let id = self
            .tx(move |tx| {
                let id = tx.host_add(&NewHost { name, address: "192.0.2.1".into() })?;
                tx.hello(id, &hello())?;
                Ok(id)
            })
            .await;
        self.beat(id, HostState::Running).await;
        id
    }

    pub(super) async fn beat(&self, id: HostId, state: HostState) {
        self.tx(move |tx| {
            let beat = Heartbeat {
                state,
                reason: String::new(),
                available_mib: 1000,
                cpu_percent: 1.5,
                rss_kib: vec![("noded".into(), 1234)],
                uptime_s: 1,
            };
            tx.heartbeat(id, &beat)
        })
        .await;
    }

    /// A user with an OS flavour that has an image.
    pub(super) async fn flavour(&self) -> (UserId, OsfId, DiId) {
        self.tx(|tx| {
            let user = tx.user_add("ann", None)?;
            let osf = tx.osf_add(&NewOsf {
                name: "desk".into(),
                memory_mib: Some(512),
                use_overlay: None,
                user_storage_mib: Some(100),
            })?;
            let (di, _) = tx.di_add(osf, Some("v1"), &image(1))?;
            Ok((user, osf, di))
        })
        .await
    }

    pub(super) async fn vm(&self, name: &str) -> VmId {
        let new = new_vm(name);
        self.tx(move |tx| tx.vm_add(&new)).await[0]
    }

    pub(super) async fn start(&self, vm: VmId) -> std::result::Result<HostId, Refusal> {
        self.tx(move |tx| {
            let life = tx.life(vm)?.expect("the VM");
            tx.want_run(&life, &mut || 0.0)
        })
        .await
    }

    pub(super) async fn acquire(&self, user: UserId, vm: VmId, session: u64, router: HostId) -> Acquire {
        let wish = Wish { user, vm, session, client: "198.51.100.1".into(), router };
        self.tx(move |tx| tx.acquire(&wish, &mut || 0.0)).await
    }

    pub(super) async fn report(&self, host: HostId, vm: VmId, state: VmState, failed: Option<&str>) -> Reported {
        let failed = failed.map(str::to_owned);
        self.tx(move |tx| {
            let life = tx.life(vm)?.expect("the VM");
            let report = GuestReport { failed, ..report(vm, life.epoch, life.generation, state) };
            tx.guest_report(host, &report, true)
        })
        .await
    }

    pub(super) async fn life(&self, vm: VmId) -> crate::db::Life {
        self.tx(move |tx| tx.life(vm)).await.expect("the VM")
    }

    pub(super) async fn desired(&self, host: HostId) -> Desired {
        self.tx(move |tx| tx.revise(host)).await
    }
}

pub(super) fn hello() -> Hello {
    Hello {
        proto: PROTO,
        version: "0".into(),
        boot_id: "b".into(),
        revision: 0,
        address: Ipv4Addr::new(192, 0, 2, 1),
        inventory: Inventory { memory_mib: 4000, bogomips: 1000.0, ..Inventory::default() },
        clock_ms: 0,
    }
}

pub(super) fn image(n: u8) -> NewImage {
    NewImage { digest: Digest([n; 32]), bytes: 4096, name: "desk.tar.zst".into() }
}

pub(super) fn new_vm(name: &str) -> NewVm {
    NewVm {
        name: name.into(),
        user: Some("ann".into()),
        user_id: None,
        osf: Some("desk".into()),
        osf_id: None,
        ip: None,
        di_tag: None,
        bulk: None,
    }
}

pub(super) fn report(vm: VmId, epoch: u64, generation: u64, state: VmState) -> GuestReport {
    GuestReport {
        vm,
        epoch,
        generation,
        state,
        phase: String::new(),
        since_ms: 1,
        di: None,
        failed: None,
        start_ms: None,
    }
}

pub(super) fn join_request(name: &str, token: bool) -> JoinRequest {
    JoinRequest {
        proto: PROTO,
        csr: Vec::new(),
        token: token.then(|| "unused here".into()),
        name: name.into(),
        address: Ipv4Addr::new(192, 0, 2, 7),
        inventory: Inventory::default(),
    }
}
