//! How far a fetch is.

use std::time::Duration;
use tokio::time::Instant;

/// Between two words of it: each is a frame to the store, and a row that it writes.
const EVERY: Duration = Duration::from_secs(1);

/// Counts what has come, and tells it now and then.
pub struct Tally<T> {
    done: u64,
    all: u64,
    due: Instant,
    tell: T,
}

impl<T: FnMut(String)> Tally<T> {
    /// Of so many bytes; `tell` is told how far it is in words.
    pub fn new(all: u64, tell: T) -> Self {
        Self { done: 0, all, due: Instant::now(), tell }
    }

    /// So many bytes more are here.
    pub fn add(&mut self, bytes: u64) {
        self.done += bytes;
        let now = Instant::now();
        if now >= self.due || self.done >= self.all {
            self.due = now + EVERY;
            (self.tell)(format!("{:.1} of {:.1} MB", self.done as f64 / 1e6, self.all as f64 / 1e6));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_tells_how_far_it_is_about_once_a_second_and_at_the_end() {
        let mut told = Vec::new();
        let mut tally = Tally::new(10_000_000, |words| told.push(words));
        for _ in 0..20 {
            tally.add(500_000);
            tokio::time::advance(Duration::from_millis(250)).await;
        }
        let expect = ["0.5", "2.5", "4.5", "6.5", "8.5", "10.0"].map(|done| format!("{done} of 10.0 MB"));
        assert_eq!(told, expect);
    }
}
