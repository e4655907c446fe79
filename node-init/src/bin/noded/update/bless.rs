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

/// Returns once the node has been good for [`BLESS_AFTER`] without a break; or, if that is enough, when it was good
/// until it was told to go down.
async fn held(board: &Board, store_needed: bool, an_orderly_end_counts: bool) {
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
            _ = lost => {}
        }
        if an_orderly_end_counts && *board.stopping.borrow() {
            return;
        }
        tracing::warn!("The node was good and is no more");
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
            // It was good before: the store may be down at any boot, and some quick reboots are no breakage.
            Some(false) => held(&self.board, false, true).await,
            Some(true) => held(&self.board, self.store_needed, false).await,
        }
        let _turn = self.writing.lock().await;
        let running = self.running.clone();
        blocking(move || bless(&running)).await
    }
}

/// Tells the boot loader that what runs is good.
fn bless(running: &Running) -> Result<(), UpdateError> {
    let mut disk = running.open()?;
    let slots = running.slots(&mut disk)?;
    let Some(plan) = slot::bless(&slots) else { return Ok(()) };
    Ok(slot::apply_marks(&plan, &mut disk)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(board: &Board, state: HostState, ready: bool) {
        board.verdict.send_replace(Verdict { state, reason: String::new(), ready });
    }

    #[tokio::test(start_paused = true)]
    async fn a_boot_must_be_good_without_a_break_and_only_an_old_version_may_end_early() {
        let board = Arc::new(Board::default());
        let waits = |orderly| {
            let board = board.clone();
            tokio::spawn(async move { held(&board, true, orderly).await })
        };
        let (trial, armed) = (waits(false), waits(true));
        judged(&board, HostState::Running, true);
        sleep(Duration::from_secs(59)).await;
        judged(&board, HostState::Starting, false);
        sleep(Duration::from_secs(59)).await;
        judged(&board, HostState::Running, true);
        sleep(Duration::from_secs(59)).await;
        assert!(!trial.is_finished() && !armed.is_finished());
        board.stopping.send_replace(true);
        judged(&board, HostState::Stopping, false);
        sleep(Duration::from_millis(1)).await;
        assert!(!trial.is_finished() && armed.is_finished());
        board.stopping.send_replace(false);
        judged(&board, HostState::Running, true);
        sleep(Duration::from_secs(61)).await;
        assert!(trial.is_finished());
    }

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
