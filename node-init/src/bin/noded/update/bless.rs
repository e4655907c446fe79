//! Blessing: when a boot counts as good, and telling the boot loader.

use super::{UpdateError, blocking, disk::Running};
use crate::{board::Board, init::Init, report::chain, verdict::Verdict};
use image::slot::{self, Slot};
use model::{init::ToInit, key::BLESS_AFTER, state::HostState};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, watch},
    time::sleep,
};

/// Until a disk that refused is asked again.
const AGAIN: Duration = Duration::from_secs(10);

/// What a boot must have reached. The store counts only if the version before could reach it: an update must not be
/// taken back for a store that is down.
fn good(verdict: &Verdict, store_needed: bool) -> bool {
    verdict.ready || (!store_needed && verdict.state == HostState::Running)
}

/// Returns once the node has been good for [`BLESS_AFTER`] without a break.
async fn held(board: &Board, store_needed: bool) {
    let mut verdict = board.verdict.subscribe();
    loop {
        // The board outlives all tasks, and its senders with it.
        if verdict.wait_for(|v| good(v, store_needed)).await.is_err() {
            return std::future::pending().await;
        }
        let after = board.config().get(&BLESS_AFTER);
        let lost = async { verdict.wait_for(|v| !good(v, store_needed)).await.map(drop) };
        // Cancel-safe: both only wait.
        tokio::select! {
            () = sleep(after) => return,
            _ = lost => tracing::warn!("The node was good and is no more: its trial goes on"),
        }
    }
}

/// Whether it was never blessed.
pub fn is_trial(running: &Slot) -> bool {
    running.held().is_some_and(|held| !held.was_blessed())
}

/// The task that blesses this boot.
pub struct Blesser {
    /// The node's state.
    pub board: Arc<Board>,
    /// To `node-init`.
    pub init: Init,
    /// What runs.
    pub running: Arc<Running>,
    /// Held while the ESP is written.
    pub writing: Arc<Mutex<()>>,
    /// The version before could reach the store.
    pub store_needed: bool,
}

impl Blesser {
    /// Runs until the boot loader counts this boot no more. `blessed` hears of it.
    pub async fn run(self, blessed: watch::Sender<()>) {
        loop {
            match self.once().await {
                Ok(()) => {
                    self.init.say(ToInit::Blessed);
                    // Nobody listens any more when the daemon ends.
                    blessed.send_replace(());
                    return;
                }
                Err(error) => tracing::error!(error = %chain(&error), "Cannot bless this boot; trying again"),
            }
            sleep(AGAIN).await;
        }
    }

    async fn once(&self) -> Result<(), UpdateError> {
        let running = self.running.clone();
        let trial = blocking(move || Ok(running.look()?.running_and_idle().map(|(running, _)| is_trial(running))));
        match trial.await? {
            None => return Ok(()),
            // It was good before: the store may be down at any boot.
            Some(false) => held(&self.board, false).await,
            Some(true) => held(&self.board, self.store_needed).await,
        }
        let _turn = self.writing.lock().await;
        let running = self.running.clone();
        blocking(move || bless(&running)).await
    }
}

/// Tells the boot loader that what runs is good.
fn bless(running: &Running) -> Result<(), UpdateError> {
    let mut disk = running.open().map_err(UpdateError::disk(&running.disk))?;
    let slots = running.slots(&mut disk).map_err(UpdateError::Slots)?;
    let Some(plan) = slot::bless(&slots) else { return Ok(()) };
    slot::apply_marks(&plan, &mut disk).map_err(UpdateError::Slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_counts_only_if_it_could_be_reached_before() {
        let verdict = |state, ready| Verdict { state, reason: String::new(), ready };
        for (verdict, store_needed, expect) in [
            (verdict(HostState::Running, true), true, true),
            (verdict(HostState::Running, false), true, false),
            (verdict(HostState::Running, false), false, true),
            (verdict(HostState::Starting, false), false, false),
        ] {
            assert_eq!(good(&verdict, store_needed), expect, "{verdict:?} {store_needed}");
        }
    }
}
