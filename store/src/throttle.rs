//! Slows down guessing of passwords: who failed often must wait, per login and per client address.
//!
//! Pure but for the map: the caller brings the time. Failures are forgotten after a quiet while.

use std::collections::HashMap;

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Guesses at one login, from anywhere.
    Login(String),
    /// Guesses from one address, at any login.
    Address(String),
}

impl Subject {
    /// Failures that cost nothing: people mistype, and many may share one address.
    fn free(&self) -> u32 {
        match self {
            Self::Login(_) => 5,
            Self::Address(_) => 30,
        }
    }
}

/// Longest wait.
const WAIT_MAX_MS: u64 = 60_000;
/// Without a failure for so long, all are forgotten.
const QUIET_MS: u64 = 15 * 60_000;
/// Subjects remembered; beyond, those that may try at once are dropped first.
const SUBJECTS_MAX: usize = 100_000;

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    failures: u32,
    last_ms: u64,
}

/// Failures of late.
#[derive(Debug, Default)]
pub struct Throttle {
    records: HashMap<Subject, Record>,
}

impl Throttle {
    /// Seconds (rounded up) until any of these may try again; 0: now.
    pub fn wait_s(&self, subjects: &[Subject], now_ms: u64) -> u32 {
        let wait = subjects.iter().filter_map(|s| Some(self.records.get(s)?.wait_ms(s.free(), now_ms))).max();
        u32::try_from(wait.unwrap_or(0).div_ceil(1000)).unwrap_or(u32::MAX)
    }

    /// One of these failed.
    pub fn failed(&mut self, subjects: &[Subject], now_ms: u64) {
        if self.records.len() >= SUBJECTS_MAX {
            self.records.retain(|s, r| r.wait_ms(s.free(), now_ms) > 0);
        }
        for subject in subjects {
            let record = self.records.entry(subject.clone()).or_default();
            if now_ms.saturating_sub(record.last_ms) > QUIET_MS {
                record.failures = 0;
            }
            *record = Record { failures: record.failures.saturating_add(1), last_ms: now_ms };
        }
    }

    /// This login succeeded: its failures are forgotten. An address's are not, or one good account
    /// would buy unlimited guesses at all the others.
    pub fn succeeded(&mut self, login: &str) {
        self.records.remove(&Subject::Login(login.to_owned()));
    }
}

impl Record {
    /// Doubles with each failure beyond the free ones: 1, 2, 4... seconds after the last.
    fn wait_ms(self, free: u32, now_ms: u64) -> u64 {
        let since = now_ms.saturating_sub(self.last_ms);
        if self.failures < free || since > QUIET_MS {
            return 0;
        }
        let wait = 1000u64.checked_shl(self.failures - free).map_or(WAIT_MAX_MS, |ms| ms.min(WAIT_MAX_MS));
        wait.saturating_sub(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> Vec<Subject> {
        vec![Subject::Login("ann".to_owned())]
    }

    #[track_caller]
    fn check(failures: u32, after_ms: u64, expect: u32) {
        let mut throttle = Throttle::default();
        (0..failures).for_each(|_| throttle.failed(&login(), 1_000_000));
        assert_eq!(throttle.wait_s(&login(), 1_000_000 + after_ms), expect, "{failures} failures, {after_ms} ms ago");
    }

    #[test]
    fn some_failures_are_free_and_then_the_wait_doubles_up_to_a_minute() {
        check(0, 0, 0);
        check(4, 0, 0);
        check(5, 0, 1);
        check(5, 1, 1);
        check(5, 1000, 0);
        check(6, 0, 2);
        check(9, 0, 16);
        check(80, 0, 60);
        check(80, QUIET_MS + 1, 0);
    }

    #[test]
    fn success_forgives_the_login_and_not_the_address() {
        let both = [Subject::Login("ann".to_owned()), Subject::Address("192.0.2.1".to_owned())];
        let mut throttle = Throttle::default();
        (0..40).for_each(|_| throttle.failed(&both, 0));
        throttle.succeeded("ann");
        assert_eq!(throttle.wait_s(&login(), 0), 0);
        assert!(throttle.wait_s(&both, 0) > 0);
    }
}
