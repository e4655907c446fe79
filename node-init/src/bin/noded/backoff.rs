//! How long to wait before trying again.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// Doubling waits between two bounds, spread by chance so that a cluster's nodes do not come back all at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `least` and never exceeds `most`.
    pub const fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, next: least }
    }

    /// The wait after one more failure.
    pub fn next(&mut self) -> Duration {
        self.step(RandomState::new().build_hasher().finish())
    }

    /// Something worked: the next wait is short again.
    pub fn reset(&mut self) {
        self.next = self.least;
    }

    /// Between half of the wait that is due and all of it.
    fn step(&mut self, chance: u64) -> Duration {
        let due = self.next;
        self.next = (due * 2).min(self.most);
        due / 2 + (due / 2).mul_f64(chance as f64 / u64::MAX as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_stay_between_half_the_due_time_and_the_bound(chances in prop::collection::vec(any::<u64>(), 1..40)) {
            let (least, most) = (Duration::from_millis(200), Duration::from_secs(10));
            let mut backoff = Backoff::new(least, most);
            let mut due = least;
            for chance in chances {
                let wait = backoff.step(chance);
                prop_assert!(wait >= due / 2 && wait <= due, "{wait:?} for {due:?}");
                due = (due * 2).min(most);
            }
            backoff.reset();
            prop_assert!(backoff.step(u64::MAX) <= least);
        }
    }
}
