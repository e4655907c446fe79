//! The end of the router: no new connections, idle ones close, sessions go on until they end or their
//! time is over.

use std::time::Duration;
use tokio::{sync::watch, time::timeout};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Draining,
    Cut,
}

/// Why sessions are cut at the end.
pub const REASON: &str = "The node is shutting down";

/// Starts the end, and waits for it.
#[derive(Debug)]
pub struct Drain(watch::Sender<Phase>);

/// Held by each task that the end must wait for.
#[derive(Clone, Debug)]
pub struct Guard(watch::Receiver<Phase>);

impl Drain {
    /// The router runs; the guard is to be cloned for each task.
    pub fn new() -> (Self, Guard) {
        let (sender, receiver) = watch::channel(Phase::Running);
        (Self(sender), Guard(receiver))
    }

    /// Ends everything: in order for `bound`, then at once. Returns when all guards are gone, or did
    /// not go within a second of being cut.
    pub async fn finish(self, bound: Duration) {
        self.0.send_replace(Phase::Draining);
        if timeout(bound, self.0.closed()).await.is_err() {
            self.0.send_replace(Phase::Cut);
            let _stuck_ones_die_with_the_process = timeout(Duration::from_secs(1), self.0.closed()).await;
        }
    }
}

impl Guard {
    /// Resolves when nothing new should begin.
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Resolves when sessions must end.
    pub async fn cut(&self) {
        self.reached(Phase::Cut).await;
    }

    async fn reached(&self, phase: Phase) {
        // This receiver is cloned only while waiting, so that it does not keep the end waiting.
        let mut phases = self.0.clone();
        let _gone_means_over = phases.wait_for(|p| *p >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_waits_for_sessions_and_then_cuts_them() {
        let (drain, guard) = Drain::new();
        let session = tokio::spawn(async move {
            guard.draining().await;
            guard.cut().await;
        });
        drain.finish(Duration::from_millis(20)).await;
        session.await.expect("the session was cut");
    }

    #[tokio::test]
    async fn the_end_is_at_once_when_nothing_runs() {
        let (drain, guard) = Drain::new();
        drop(guard);
        drain.finish(Duration::from_secs(3600)).await;
    }
}
