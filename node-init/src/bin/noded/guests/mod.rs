//! Guests of this node: what the store wants of them is made so, and told.
//!
//! ```text
//! want() --> manager (plan) --wish, one per guest--> task (life: step) --> engine: images, storage, network, LXC
//!                 ^                                    |  ^
//!                 +---------- reports -----------------+  +-- agent (one socket per guest) <-- open()
//! ```
//!
//! | task | owns | in | out |
//! |---|---|---|---|
//! | [`manager`] | which guests have a task | wanted state, closing, reports | wishes |
//! | [`task`], one per guest | the guest's life, its deadline | its wish, agent, end of LXC | report, record |
//! | `agent`, one per guest | its socket and connections | frames, commands | what was said |
//! | [`probe`] | a guest of the node's own, on trial | whether this version is on trial | whether a guest could be started |
//!
//! Everything is a level, so this daemon may end at any time: guests live in their own cgroups and are
//! found again by their records ([`record`]).

mod agent;
mod engine;
mod failure;
mod images;
mod life;
mod lxc;
mod lxc_config;
mod manager;
mod params;
mod plan;
pub mod probe;
mod record;
mod slots;
mod task;
#[cfg(test)]
mod tests;

use crate::{
    identity::{Member, NodeKey},
    network::Network,
    paths::Paths,
};
use agent::Agent;
use engine::Engine;
use images::{Images, Repository};
use lxc_config::OwnInit;
use model::{
    VmId,
    grant::Grant,
    key::Config,
    local::{Open, OpenError, OpenInfo},
    seed::StoreAddress,
    state::VmState,
    sync::{GuestReport, GuestSpec},
};
use plan::Closing;
use slots::Slots;
use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// What guests need of the rest of the daemon.
pub struct Deps {
    /// Where files are.
    pub paths: Paths,
    /// The network: admit a guest before its port exists.
    pub network: Network,
    /// The store's node listener; the image repository is on the same host.
    pub store: StoreAddress,
    /// This node's membership, once it has joined: for TLS to the image repository (`tls::client`).
    pub member: watch::Receiver<Option<Arc<Member>>>,
    /// The node's key, for the same.
    pub key: Arc<NodeKey>,
    /// Whether this version is on trial, once that is known.
    pub trial: watch::Receiver<Option<bool>>,
    /// This program, as a probe guest's init.
    pub program: PathBuf,
}

/// What is known of every guest here.
pub type Reports = BTreeMap<VmId, GuestReport>;

/// All that is wanted.
#[derive(Clone, Debug)]
struct Wanted {
    guests: Vec<GuestSpec>,
    config: Arc<Config>,
}

/// Handle to the guests' tasks.
#[derive(Clone)]
pub struct Guests {
    wanted: Arc<watch::Sender<Option<Wanted>>>,
    closing: Arc<watch::Sender<Closing>>,
    reports: watch::Sender<Reports>,
    able: watch::Sender<Result<(), String>>,
    proven: watch::Sender<Result<(), String>>,
    agents: Agents,
}

type Agents = Arc<Mutex<BTreeMap<VmId, Agent>>>;

/// What the tasks of guests share.
struct Shared {
    engine: Arc<Engine>,
    /// Start slots.
    slots: Slots,
    /// The init of its guests, when that is not their images' own.
    init: Option<OwnInit>,
    reports: watch::Sender<Reports>,
    agents: Agents,
}

impl Shared {
    fn agents(&self) -> MutexGuard<'_, BTreeMap<VmId, Agent>> {
        lock(&self.agents)
    }
}

/// Between two attempts to take hold of what guests need.
const RETRY: Duration = Duration::from_secs(5);

impl Guests {
    /// Starts the tasks; guests that run already are adopted.
    pub fn start(deps: Deps) -> Self {
        let guests = Self {
            wanted: Arc::default(),
            closing: Arc::default(),
            reports: watch::Sender::default(),
            able: watch::Sender::new(Err("Guests are being looked for".into())),
            proven: watch::Sender::new(Err("It is being looked up whether this version is on trial".into())),
            agents: Arc::default(),
        };
        tokio::spawn(guests.clone().run(deps));
        guests
    }

    /// All that is wanted; replaces what was wanted before.
    pub fn want(&self, guests: Vec<GuestSpec>, config: Config) {
        self.wanted.send_replace(Some(Wanted { guests, config: Arc::new(config) }));
    }

    /// Reports of all guests known here, the latest of each.
    pub fn reports(&self) -> watch::Receiver<Reports> {
        self.reports.subscribe()
    }

    /// Opens a session; the grant is verified already, and is for this node and the guest of `open`. The
    /// descriptor is the session's byte stream, in non-blocking mode.
    pub async fn open(&self, grant: &Grant, open: Open) -> Result<(OwnedFd, OpenInfo), OpenError> {
        let state = self.reports.borrow().get(&grant.vm).map_or(VmState::Stopped, |report| report.state);
        let agent = lock(&self.agents).get(&grant.vm).cloned();
        let Some(agent) = agent.filter(|_| state == VmState::Running) else {
            return Err(OpenError::NotRunning(state));
        };
        let params = params::merge(&open.params, grant).map_err(|e| OpenError::Failed(e.to_string()))?;
        let (descriptor, resumed) = agent.open(open.kind, params).await?;
        Ok((descriptor, OpenInfo { resumed }))
    }

    /// Stops all guests, in order at first, by force when `within` is almost over; none is started from now on.
    pub async fn shutdown(&self, within: Duration) {
        // What is left to the killed is what cleaning up takes.
        let in_order = within.mul_f64(0.75);
        self.closing.send_replace(Closing::InOrder);
        if timeout(in_order, self.all_stopped()).await.is_err() {
            tracing::warn!("Guests did not shut down in time: they are killed");
            self.closing.send_replace(Closing::Now);
            if timeout(within - in_order, self.all_stopped()).await.is_err() {
                tracing::error!("Guests could not be stopped; the node goes down with them");
            }
        }
    }

    /// Whether guests can be started here; the error says in words for an administrator why not.
    pub fn able(&self) -> watch::Receiver<Result<(), String>> {
        self.able.subscribe()
    }

    /// Whether a version on trial has started a guest, which any other need not; the error says why not.
    pub fn proven(&self) -> watch::Receiver<Result<(), String>> {
        self.proven.subscribe()
    }

    fn tell_able(&self, able: Result<(), String>) {
        self.able.send_modify(|told| *told = able);
    }

    async fn all_stopped(&self) {
        let stopped = |reports: &Reports| reports.values().all(|report| report.state == VmState::Stopped);
        // The sender is this handle's own.
        self.reports.subscribe().wait_for(stopped).await.ok();
    }

    /// Takes hold of what guests need, as soon as it is there, and manages them from then on.
    async fn run(self, deps: Deps) {
        let repository = Repository { store: deps.store, member: deps.member, key: deps.key };
        let (trial, program, bridge) = (deps.trial, deps.program, deps.network.bridge());
        let engine = loop {
            let images = |dir| Images::new(dir, repository.clone());
            match Engine::open(&deps.paths, deps.network.clone(), images) {
                Ok(engine) => break Arc::new(engine),
                Err(reason) => {
                    tracing::error!(error = %reason, "Guests cannot be started here");
                    self.tell_able(Err(reason));
                }
            }
            sleep(RETRY).await;
        };
        let (reports, agents) = (self.reports.clone(), self.agents.clone());
        let shared = Arc::new(Shared { engine: engine.clone(), slots: Slots::new(1), init: None, reports, agents });
        let manager = manager::Manager::adopt(shared, self.wanted.subscribe(), self.closing.subscribe()).await;
        // Behind the guests found, which hold the images that cleaning up would take from them.
        probe::remove_remains(&engine).await;
        let (wanted, closing, proven) = (self.wanted.subscribe(), self.closing.subscribe(), self.proven.clone());
        tokio::spawn(probe::Probe { engine, program, wanted, closing, trial, bridge, proven }.run());
        // Not before the guests found are in the reports: the store takes what is missing there for gone.
        self.tell_able(Ok(()));
        manager.run().await;
    }
}

fn lock(agents: &Agents) -> MutexGuard<'_, BTreeMap<VmId, Agent>> {
    agents.lock().unwrap_or_else(PoisonError::into_inner)
}
