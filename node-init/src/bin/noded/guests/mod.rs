//! Guests of this node (skeleton: the handle that the rest of the daemon uses).

use crate::{identity::Member, network::Network, paths::Paths};
use model::{
    VmId,
    grant::Grant,
    key::Config,
    local::{Open, OpenError, OpenInfo},
    seed::StoreAddress,
    state::VmState,
    sync::{GuestReport, GuestSpec},
};
use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Arc, time::Duration};
use tokio::sync::watch;

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
}

/// What is known of every guest here.
pub type Reports = BTreeMap<VmId, GuestReport>;

/// Handle to the guests' tasks.
#[derive(Clone)]
pub struct Guests {
    reports: watch::Sender<Reports>,
    able: watch::Sender<Result<(), String>>,
}

impl Guests {
    /// Starts the tasks; guests that run already are adopted.
    pub fn start(_deps: Deps) -> Self {
        Self { reports: watch::Sender::default(), able: watch::Sender::new(Err("Guests are not built in yet".into())) }
    }

    /// All that is wanted; replaces what was wanted before.
    pub fn want(&self, _guests: Vec<GuestSpec>, _config: Config) {}

    /// Reports of all guests known here, the latest of each.
    pub fn reports(&self) -> watch::Receiver<Reports> {
        self.reports.subscribe()
    }

    /// Opens a session; the grant is verified already, and is for this node and the guest of `open`.
    pub async fn open(&self, _grant: &Grant, _open: Open) -> Result<(OwnedFd, OpenInfo), OpenError> {
        Err(OpenError::NotRunning(VmState::Stopped))
    }

    /// Stops all guests, in order at first, by force when `within` is over; none is started from now on.
    pub async fn shutdown(&self, _within: Duration) {}

    /// Whether guests can be started here; the error says in words for an administrator why not.
    pub fn able(&self) -> watch::Receiver<Result<(), String>> {
        self.able.subscribe()
    }
}
