//! The node's state, judged from what the parts of the daemon say.
//!
//! *Running* means that the node takes guests and users; *ready* means that this boot may be
//! blessed, for which the store must have welcomed the node in this boot (a new version that
//! cannot talk to the store is not a good one). A store that goes away later takes neither back.

use crate::{board::Board, init::Init};
use model::{init::ToInit, state::HostState};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// What the parts say; an error is a reason for an administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The node has a certificate of the cluster.
    pub joined: bool,
    /// The store has welcomed it in this boot.
    pub welcomed: bool,
    /// The uplink.
    pub network: Result<(), String>,
    /// The guests' bridge.
    pub bridge: Result<(), String>,
    /// STATE.
    pub storage: Result<(), String>,
    /// Guests can be started, as far as one can see.
    pub guests: Result<(), String>,
    /// One was, or need not be.
    pub proven: Result<(), String>,
    /// The node goes down.
    pub stopping: bool,
}

/// The judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The node's state.
    pub state: HostState,
    /// Why it is not running.
    pub reason: String,
    /// This boot is good.
    pub ready: bool,
}

impl Default for Verdict {
    fn default() -> Self {
        Self { state: HostState::Starting, reason: "The node daemon starts".to_owned(), ready: false }
    }
}

/// Judges. The first thing that lacks is the reason, in the order in which a boot brings them up.
pub fn judge(facts: &Facts) -> Verdict {
    let starting = |reason: &str| Verdict { state: HostState::Starting, reason: reason.to_owned(), ready: false };
    if facts.stopping {
        return Verdict { state: HostState::Stopping, reason: "The node shuts down".to_owned(), ready: false };
    }
    for part in [&facts.storage, &facts.bridge, &facts.network] {
        if let Err(reason) = part {
            return starting(reason);
        }
    }
    if !facts.joined {
        return starting("The node has not joined the cluster yet");
    }
    for part in [&facts.guests, &facts.proven] {
        if let Err(reason) = part {
            return starting(reason);
        }
    }
    Verdict { state: HostState::Running, reason: String::new(), ready: facts.welcomed }
}

/// What the verdict task watches besides the board.
pub struct Parts {
    /// The uplink.
    pub network: watch::Receiver<Result<(), String>>,
    /// The guests' bridge.
    pub bridge: watch::Receiver<Result<(), String>>,
    /// Guests can be started, as far as one can see.
    pub guests: watch::Receiver<Result<(), String>>,
    /// One was, or need not be.
    pub proven: watch::Receiver<Result<(), String>>,
    /// STATE, as found when the daemon started.
    pub storage: Result<(), String>,
}

/// The verdict task: judges at each change, publishes, and tells `node-init`.
pub async fn run(board: Arc<Board>, mut parts: Parts, init: Init) {
    let mut member = board.member.subscribe();
    let mut welcomed = board.welcomed.subscribe();
    let mut stopping = board.stopping.subscribe();
    loop {
        let verdict = judge(&Facts {
            joined: member.borrow_and_update().is_some(),
            welcomed: *welcomed.borrow_and_update(),
            network: parts.network.borrow_and_update().clone(),
            bridge: parts.bridge.borrow_and_update().clone(),
            storage: parts.storage.clone(),
            guests: parts.guests.borrow_and_update().clone(),
            proven: parts.proven.borrow_and_update().clone(),
            stopping: *stopping.borrow_and_update(),
        });
        publish(&board, verdict, &init);
        // Cancel-safe: a change missed by one branch is seen by the borrows above.
        let alive = tokio::select! {
            r = member.changed() => r.is_ok(),
            r = welcomed.changed() => r.is_ok(),
            r = stopping.changed() => r.is_ok(),
            r = parts.network.changed() => r.is_ok(),
            r = parts.bridge.changed() => r.is_ok(),
            r = parts.guests.changed() => r.is_ok(),
            r = parts.proven.changed() => r.is_ok(),
        };
        if !alive {
            // A part's task is gone: its last word stands. Nothing else wakes this loop then.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

fn publish(board: &Board, verdict: Verdict, init: &Init) {
    let was = board.verdict.borrow().clone();
    if was == verdict {
        return;
    }
    tracing::info!(state = %verdict.state, ready = verdict.ready, reason = %verdict.reason, "The node's state changed");
    match (was.ready, verdict.ready) {
        (false, true) => init.say(ToInit::Ready),
        (true, false) => init.say(ToInit::NotReady(verdict.reason.clone())),
        (false, false) => init.say(ToInit::Lacks(match verdict.state {
            HostState::Running => "the store has not welcomed the node".to_owned(),
            _ => verdict.reason.clone(),
        })),
        (true, true) => {}
    }
    board.verdict.send_replace(verdict);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        let ok = || Ok(());
        Facts {
            joined: true,
            welcomed: true,
            network: ok(),
            bridge: ok(),
            storage: ok(),
            guests: ok(),
            proven: ok(),
            stopping: false,
        }
    }

    #[track_caller]
    fn check(change: impl Fn(&mut Facts), state: HostState, ready: bool, reason: &str) {
        let mut facts = good();
        change(&mut facts);
        assert_eq!(judge(&facts), Verdict { state, ready, reason: reason.to_owned() });
    }

    #[test]
    fn a_node_runs_when_nothing_lacks_and_is_ready_once_welcomed() {
        check(|_| {}, HostState::Running, true, "");
        check(|f| f.welcomed = false, HostState::Running, false, "");
    }

    #[test]
    fn the_first_lack_is_the_reason() {
        check(|f| f.guests = Err("no lxc".into()), HostState::Starting, false, "no lxc");
        check(|f| f.proven = Err("no veth".into()), HostState::Starting, false, "no veth");
        check(
            |f| (f.joined, f.guests) = (false, Err("no lxc".into())),
            HostState::Starting,
            false,
            "The node has not joined the cluster yet",
        );
        check(|f| (f.joined, f.network) = (false, Err("no link".into())), HostState::Starting, false, "no link");
        check(|f| (f.stopping, f.joined) = (true, false), HostState::Stopping, false, "The node shuts down");
    }
}
