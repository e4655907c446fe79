//! Counts since the last report to the store.

use model::sync::Counters as Counts;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Counters that all connections share.
#[derive(Debug, Default)]
pub struct Counters {
    /// list, connect and stop requests.
    pub http_requests: Counter,
    /// Logins tried.
    pub auth_attempts: Counter,
    /// Logins that succeeded.
    pub auth_ok: Counter,
    /// Sessions tried.
    pub nx_attempts: Counter,
    /// Sessions opened.
    pub nx_ok: Counter,
    /// Sessions that were short.
    pub short_sessions: Counter,
}

/// One count.
#[derive(Debug, Default)]
pub struct Counter(AtomicU32);

impl Counter {
    /// Adds one.
    pub fn count(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn take(&self) -> u32 {
        self.0.swap(0, Relaxed)
    }

    fn put_back(&self, n: u32) {
        self.0.fetch_add(n, Relaxed);
    }
}

impl Counters {
    /// All counts, which start from zero again; none when all are zero.
    pub fn take(&self) -> Option<Counts> {
        let counts = Counts {
            http_requests: self.http_requests.take(),
            auth_attempts: self.auth_attempts.take(),
            auth_ok: self.auth_ok.take(),
            nx_attempts: self.nx_attempts.take(),
            nx_ok: self.nx_ok.take(),
            short_sessions: self.short_sessions.take(),
        };
        (counts != Counts::default()).then_some(counts)
    }

    /// Counts that could not be sent.
    pub fn put_back(&self, counts: Counts) {
        self.http_requests.put_back(counts.http_requests);
        self.auth_attempts.put_back(counts.auth_attempts);
        self.auth_ok.put_back(counts.auth_ok);
        self.nx_attempts.put_back(counts.nx_attempts);
        self.nx_ok.put_back(counts.nx_ok);
        self.short_sessions.put_back(counts.short_sessions);
    }
}
