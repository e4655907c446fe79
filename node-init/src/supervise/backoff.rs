//! How long to wait before a service is started again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);
/// A run of this length counts as a success.
const STABLE: Duration = Duration::from_secs(60);

/// Failures in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A run of this length ended: how long to wait now, doubling from 0.1 s to 30 s.
    pub fn ended_after(&mut self, ran: Duration) -> Duration {
        if ran >= STABLE {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        // 0.1 s times 2^9 exceeds the longest wait already.
        FIRST.saturating_mul(1 << (self.failures - 1).min(9)).min(LONGEST)
    }

    /// Ends without a stable run in between.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_limit_and_starts_anew_after_a_stable_run() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..11).map(|_| backoff.ended_after(Duration::ZERO).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        assert_eq!(backoff.failures(), 11);
        assert_eq!(backoff.ended_after(STABLE), FIRST);
        assert_eq!(backoff.failures(), 1);
    }
}
