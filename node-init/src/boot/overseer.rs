//! Watches over the phases: ends the machine's run when one does not end, and feeds the watchdog as long as none is late.
//!
//! A thread of its own. When it hangs as well, or the whole kernel does, nobody feeds the watchdog.

use crate::fail::{Failure, give_up};
use crate::watchdog;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use sys::watchdog::Watchdog;

/// Handle to the thread; it ends with this.
pub struct Overseer {
    words: Sender<Word>,
    thread: Option<JoinHandle<Option<Watchdog>>>,
}

enum Word {
    /// A phase begins, with its time limit.
    Begins(&'static str, Duration),
    /// It has ended.
    Ends,
    /// To be fed.
    Guard(Watchdog),
}

impl Overseer {
    /// Starts it.
    pub fn start() -> Self {
        let (words, heard) = mpsc::channel();
        let watch = move || Watch::default().turn(&heard);
        let thread = std::thread::Builder::new().stack_size(64 * 1024).spawn(watch);
        let thread = thread.inspect_err(|e| tracing::warn!(error = %e, "Phases run without a time limit")).ok();
        Self { words, thread }
    }

    /// A phase begins.
    pub fn begins(&self, phase: &'static str, limit: Duration) {
        self.say(Word::Begins(phase, limit));
    }

    /// The phase has ended.
    pub fn ends(&self) {
        self.say(Word::Ends);
    }

    /// From now on this watchdog is fed.
    pub fn guard(&self, watchdog: Watchdog) {
        self.say(Word::Guard(watchdog));
    }

    /// It ends only with this handle, or with the machine.
    fn say(&self, word: Word) {
        let _ = self.words.send(word);
    }

    /// Ends it, and gives the watchdog back, armed.
    pub fn finish(self) -> Option<Watchdog> {
        drop(self.words);
        self.thread?.join().ok()?
    }
}

#[derive(Default)]
struct Watch {
    current: Option<(&'static str, Duration, Instant)>,
    watchdog: Option<Watchdog>,
}

impl Watch {
    fn turn(mut self, heard: &mpsc::Receiver<Word>) -> Option<Watchdog> {
        loop {
            match heard.recv_timeout(self.patience(Instant::now())) {
                Ok(Word::Begins(phase, limit)) => self.current = Some((phase, limit, Instant::now() + limit)),
                Ok(Word::Ends) => self.current = None,
                Ok(Word::Guard(watchdog)) => self.watchdog = Some(watchdog),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.watchdog,
            }
            if let Some((phase, limit, until)) = self.current
                && until <= Instant::now()
            {
                give_up(&late(phase, limit));
            }
            watchdog::feed(self.watchdog.as_mut());
        }
    }

    fn patience(&self, now: Instant) -> Duration {
        let left = self.current.map(|(_, _, until)| until.saturating_duration_since(now));
        left.unwrap_or(Duration::MAX).min(watchdog::feed_every(self.watchdog.as_ref()))
    }
}

fn late(phase: &'static str, limit: Duration) -> Failure {
    let what = format!("it did not end within {} s", limit.as_secs());
    Failure { phase, what, advice: "See the last lines of the kernel's log: a disk or a driver does not answer." }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_wakes_when_a_phase_is_late_and_else_to_feed() {
        let now = Instant::now();
        let mut watch = Watch::default();
        assert_eq!(watch.patience(now), watchdog::FEED_EVERY);
        watch.current = Some(("a", Duration::from_secs(2), now + Duration::from_secs(2)));
        assert_eq!(watch.patience(now), Duration::from_secs(2));
        assert_eq!(watch.patience(now + Duration::from_secs(3)), Duration::ZERO);
        watch.current = Some(("b", Duration::from_secs(60), now + Duration::from_secs(60)));
        assert_eq!(watch.patience(now), watchdog::FEED_EVERY);
    }

    #[test]
    fn it_ends_with_its_handle() {
        let overseer = Overseer::start();
        overseer.begins("a", Duration::from_secs(60));
        overseer.ends();
        assert!(overseer.finish().is_none());
    }
}
