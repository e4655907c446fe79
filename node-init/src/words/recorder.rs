//! The record of this boot, while it runs: a thread between the kernel's log and STATE.

use super::records::Record;
use nix::libc::{EPIPE, O_NONBLOCK};
use node_init::boots::ring::{Ring, SIZES};
use node_init::boots::{About, Boots, End, Entry, How, Hung};
use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sys::poll::Interest;

const KMSG: &str = "/dev/kmsg";
/// The kernel gives one record with each call, never more than this.
const RECORD: usize = 8192;
/// Lines wait so long for more, so that the disk is not written for each: what a power cut costs.
const GATHER: Duration = Duration::from_secs(3);
/// Or until there is so much of them.
const ENOUGH: usize = 32 << 10;
/// PID 1 turns every five seconds at least.
const HANGS: Duration = Duration::from_secs(15);
/// A clock that is set by less moves no begin.
const CLOCK_MOVED_MS: u64 = 2000;

/// When PID 1 turned last.
#[derive(Debug)]
pub struct Pulse(AtomicU64);

impl Default for Pulse {
    fn default() -> Self {
        Self(AtomicU64::new(sys::boottime::now_ms()))
    }
}

impl Pulse {
    /// It turns.
    pub fn beat(&self) {
        self.0.store(sys::boottime::now_ms(), Ordering::Relaxed);
    }

    fn last_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// When the kernel started, by the clock as it is now.
pub fn began_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(now).unwrap_or(u64::MAX).saturating_sub(sys::boottime::now_ms())
}

/// The thread's state.
pub struct Recorder {
    entry: Entry,
    ring: Ring,
    log: File,
    pulse: Arc<Pulse>,
    lines: Lines,
    hung: bool,
    /// The disk's complaint was told.
    failed: bool,
}

impl Recorder {
    /// Begins this boot's record, with the first line of the kernel's log.
    pub fn begin(boots: &Boots, about: About, pulse: Arc<Pulse>) -> io::Result<Self> {
        let log = File::options().read(true).custom_flags(O_NONBLOCK).open(KMSG)?;
        let entry = boots.begin(about)?;
        let ring = Ring::begin(entry.dir(), SIZES)?;
        Ok(Self { entry, ring, log, pulse, lines: Lines::default(), hung: false, failed: false })
    }

    /// Records until PID 1 says how the boot ends, or is heard of no more.
    pub fn run(mut self, told: &Receiver<End>, wake: Option<PipeReader>) {
        loop {
            let more = self.read();
            self.mind_pid_1();
            let end = match told.try_recv() {
                Ok(end) => Some(end),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => Some(self.gave_up()),
            };
            if let Some(end) = end {
                self.read();
                self.flush();
                self.try_to("note the end in", |this| this.entry.note_end(&end));
                return;
            }
            if self.lines.are_due(sys::boottime::now()) {
                self.flush();
            }
            if !more {
                self.wait(wake.as_ref());
            }
        }
    }

    /// Takes what is there, as much as is written at once; whether there may be more.
    fn read(&mut self) -> bool {
        let mut record = [0; RECORD];
        while self.lines.text.len() < ENOUGH {
            match self.log.read(&mut record) {
                Ok(n) if n > 0 => self.lines.take(&String::from_utf8_lossy(&record[..n]), sys::boottime::now()),
                // The kernel has overwritten what was not read in time. The numbers tell how much.
                Err(e) if e.raw_os_error() == Some(EPIPE) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                _ => return false,
            }
        }
        true
    }

    fn flush(&mut self) {
        let text = self.lines.hand_over();
        self.try_to("write", |this| this.ring.write(&text));
        // Its time may have been stepped since it began.
        let began = began_ms();
        if began.abs_diff(self.entry.about.began_ms) > CLOCK_MOVED_MS {
            self.try_to("write", |this| this.entry.began(began));
        }
    }

    /// A record of a hang: what resets the machine then leaves no word.
    fn mind_pid_1(&mut self) {
        let (last, now) = (self.pulse.last_ms(), sys::boottime::now_ms());
        let hangs = Duration::from_millis(now.saturating_sub(last)) > HANGS;
        if hangs != std::mem::replace(&mut self.hung, hangs) {
            let (level, what) = if hangs { (3, "PID 1 does not turn") } else { (4, "PID 1 turns again") };
            crate::kmsg::write(crate::kmsg::open().as_ref(), level, "node-init", what);
            self.try_to("note a hang in", |this| this.entry.note_hung(hangs.then_some(Hung { since_ms: last })));
        }
    }

    /// PID 1 shows its failure page for some seconds, and has told why.
    fn gave_up(&mut self) -> End {
        std::thread::sleep(GATHER);
        self.read();
        let why = self.lines.text.lines().rev().find_map(|line| line.split_once("Cannot boot ").map(|(_, why)| why));
        let why = why.unwrap_or("see the last lines of its log").to_owned();
        End { how: How::GaveUp, why, at_ms: sys::boottime::now_ms() }
    }

    /// A disk that is full or broken costs the record and nothing else.
    fn try_to(&mut self, what: &str, work: impl FnOnce(&mut Self) -> io::Result<()>) {
        let done = work(self);
        if let Err(e) = &done
            && !self.failed
        {
            tracing::warn!(error = %e, "Cannot {what} the record of this boot");
        }
        self.failed = done.is_err();
    }

    fn wait(&self, wake: Option<&PipeReader>) {
        let mut fds = vec![(self.log.as_fd(), Interest::Read)];
        fds.extend(wake.map(|wake| (wake.as_fd(), Interest::Read)));
        let due = self.lines.due.map_or(GATHER, |due| due.saturating_sub(sys::boottime::now()));
        if sys::poll::wait(&fds, Some(due)).is_err() {
            std::thread::sleep(GATHER);
        }
    }
}

/// Lines that are not written yet.
#[derive(Debug, Default)]
struct Lines {
    text: String,
    /// When they are to be written.
    due: Option<Duration>,
    /// Number of the next record.
    next: u64,
}

impl Lines {
    fn take(&mut self, record: &str, now: Duration) {
        let Some(record) = Record::parse(record) else { return };
        let lost = record.number.saturating_sub(self.next);
        self.next = record.number + 1;
        if lost > 0 {
            self.text.push_str(&format!("({lost} lines were lost here)\n"));
        }
        if lost > 0 || record.matters() {
            self.due.get_or_insert(now + GATHER);
        }
        if record.matters() {
            self.text.push_str(&record.line());
        }
    }

    fn are_due(&self, now: Duration) -> bool {
        self.text.len() >= ENOUGH || self.due.is_some_and(|due| now >= due)
    }

    fn hand_over(&mut self) -> String {
        self.due = None;
        std::mem::take(&mut self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn lines_wait_for_more_and_lost_ones_are_counted() {
        let mut lines = Lines::default();
        lines.take("6,0,1000,-;chatter", at(1));
        assert!(!lines.are_due(at(100)));
        lines.take("14,1,2000000,-;noded: one", at(5));
        lines.take("14,4,3000000,-;noded: two", at(6));
        assert!(!lines.are_due(at(7)) && lines.are_due(at(8)));
        let text = "     2.000 noded: one\n(2 lines were lost here)\n     3.000 noded: two\n";
        assert_eq!(lines.hand_over(), text);
        assert!(!lines.are_due(at(9)));
        lines.take(&format!("14,5,0,-;{}", "x".repeat(ENOUGH)), at(9));
        assert!(lines.are_due(at(9)));
    }
}
