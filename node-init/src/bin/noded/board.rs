//! What is known in the daemon, for all tasks to watch. Each value has one writer.

use crate::{guests::Reports, identity::Member, verdict::Verdict};
use model::{
    UserId, VmId,
    key::Config,
    sync::{Desired, SessionReport},
    update::Versions,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{broadcast, watch};

/// Sessions of this node's router, by their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    /// A router has told its sessions, or none came in time: what is missing here does not exist. Until
    /// then the store is not told that all sessions are reported, else a restart of this daemon
    /// would end sessions that go on in the router.
    pub settled: bool,
    /// Sessions in any state but disconnected.
    pub live: BTreeMap<u64, SessionReport>,
    /// Sessions that ended, until the store was told. It holds a VM for a session from the moment it grants it, which
    /// may be before the session was ever seen live here.
    pub over: BTreeMap<u64, SessionReport>,
}

impl Sessions {
    /// A session ended, as its report says; `online` is whether the store can be told. When it is back it hears of all
    /// that live, so that ends are not kept for it.
    pub fn end(&mut self, report: SessionReport, online: bool) {
        self.live.remove(&report.session);
        if online {
            self.over.insert(report.session, report);
        }
    }
}

/// Most users whose logins are to end at a router that is away.
const UNHEARD: usize = 1024;

/// What must end at the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Abort {
    /// A session.
    Session {
        /// With which VM.
        vm: VmId,
        /// Which; any where absent.
        session: Option<u64>,
        /// Why, for the user.
        reason: String,
    },
    /// All logins of a user.
    Logins(UserId),
}

/// The daemon's knowledge.
#[derive(Debug)]
pub struct Board {
    /// Membership in the cluster; written by the cluster task.
    pub member: watch::Sender<Option<Arc<Member>>>,
    /// What the store wants, or wanted when it was last heard of; written by the cluster task.
    pub desired: watch::Sender<Option<Arc<Desired>>>,
    /// Key that verifies grants, empty before it is known; written by the cluster task.
    pub grant_key: watch::Sender<Vec<u8>>,
    /// Whether the store can be reached now; written by the cluster task.
    pub online: watch::Sender<bool>,
    /// Whether the store has welcomed this node since this daemon started; written by the cluster task.
    pub welcomed: watch::Sender<bool>,
    /// Sessions; written by the router task.
    pub sessions: watch::Sender<Sessions>,
    /// The node's state; written by the verdict task.
    pub verdict: watch::Sender<Verdict>,
    /// The node goes down: no new guests, no new sessions; written by main.
    pub stopping: watch::Sender<bool>,
    /// What the node runs and could run, none before it is known; written by the update task.
    pub versions: watch::Sender<Option<Versions>>,
    /// Whether this boot is a trial, of a version that was never blessed; none before it is known; written by the update
    /// task.
    pub trial: watch::Sender<Option<bool>>,
    /// Sessions and logins to cut; sent by the cluster task.
    pub aborts: broadcast::Sender<Abort>,
    /// Users whose logins were to end while no router was here to hear it; taken by the next.
    pub unheard: Mutex<Vec<UserId>>,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            member: watch::Sender::default(),
            desired: watch::Sender::default(),
            grant_key: watch::Sender::default(),
            online: watch::Sender::default(),
            welcomed: watch::Sender::default(),
            sessions: watch::Sender::default(),
            verdict: watch::Sender::default(),
            versions: watch::Sender::default(),
            trial: watch::Sender::default(),
            stopping: watch::Sender::default(),
            aborts: broadcast::Sender::new(64),
            unheard: Mutex::default(),
        }
    }
}

impl Board {
    /// Ends a user's logins at the router; at the next one, which may have them, when this daemon has begun before its
    /// router has found it.
    pub fn end_logins(&self, user: UserId) {
        let mut unheard = self.unheard.lock().unwrap_or_else(PoisonError::into_inner);
        if self.aborts.send(Abort::Logins(user)).is_err() && unheard.len() < UNHEARD {
            unheard.push(user);
        }
    }

    /// What must end at the router from now on, and whose logins must at once.
    pub fn hear_aborts(&self) -> (broadcast::Receiver<Abort>, Vec<UserId>) {
        let mut unheard = self.unheard.lock().unwrap_or_else(PoisonError::into_inner);
        (self.aborts.subscribe(), std::mem::take(&mut unheard))
    }

    /// The configuration wanted, or the defaults.
    pub fn config(&self) -> Config {
        self.desired.borrow().as_ref().map(|d| d.config.clone()).unwrap_or_default()
    }
}

/// States of this node's guests, for the router.
pub fn guest_states(reports: &Reports) -> Vec<(VmId, model::state::VmState)> {
    reports.values().map(|r| (r.vm, r.state)).collect()
}
