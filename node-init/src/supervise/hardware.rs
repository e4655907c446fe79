//! The machine's own devices that PID 1 minds: power buttons and the watchdog, as they appear.

use crate::fail::chain;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use sys::input::PowerButton;
use sys::uevent::{Received, Socket};
use sys::watchdog::Watchdog;

const WATCHDOG: &str = "/dev/watchdog";
/// Twice this is at most a minute, since some timers count down twice before they bite; and a disk that takes its time
/// over a log's line is no hang yet.
const WATCHDOG_S: u32 = 30;
/// From a hang to the machine's reset.
const BITES_WITHIN_S: u32 = 60;
const _: () = assert!(WATCHDOG_S * 2 <= BITES_WITHIN_S);
/// How often it is fed, and PID 1 turns, when nothing asks for more.
const FEED_EVERY: Duration = Duration::from_secs(5);

/// What happened since the last turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Happened {
    /// A power button was pressed.
    pub pressed: bool,
    /// A device came that a module may serve.
    pub appeared: bool,
}

/// What has been found.
pub struct Hardware {
    events: Option<Socket>,
    buttons: Vec<(PathBuf, PowerButton)>,
    watchdog: Option<Watchdog>,
}

impl Hardware {
    /// Listens, and looks at what is there.
    pub fn open() -> Self {
        let events = Socket::open().inspect_err(|e| tracing::error!(error = %chain(e), "Devices are not watched")).ok();
        let mut hardware = Self { events, buttons: Vec::new(), watchdog: None };
        hardware.look();
        hardware
    }

    /// Descriptors to wait for.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.events.iter().map(AsFd::as_fd).chain(self.buttons.iter().map(|(_, b)| b.as_fd()))
    }

    /// Handles what happened.
    pub fn turn(&mut self) -> Happened {
        let mut happened = Happened::default();
        if self.changed(&mut happened) {
            self.look();
        }
        // A button that cannot be read any more is gone.
        self.buttons.retain_mut(|(_, button)| button.pressed().map(|p| happened.pressed |= p).is_ok());
        happened
    }

    /// Whether an event concerns what is kept here. All that wait are taken, however many.
    fn changed(&mut self, happened: &mut Happened) -> bool {
        let mut changed = false;
        while let Some(socket) = &self.events {
            match socket.recv() {
                Ok(Received::Event(e)) => {
                    changed |= e.action == "add" && matches!(e.var("SUBSYSTEM"), Some("input" | "watchdog"));
                    happened.appeared |= e.action == "add" && e.var("MODALIAS").is_some();
                }
                Ok(Received::Lost) => (changed, happened.appeared) = (true, true),
                Ok(Received::Nothing) => break,
                Err(e) => {
                    tracing::error!(error = %chain(&e), "Devices are not watched any more");
                    self.events = None;
                }
            }
        }
        changed
    }

    fn look(&mut self) {
        let inputs = std::fs::read_dir("/dev/input").into_iter().flatten().flatten().map(|e| e.path());
        for path in inputs.filter(|p| p.to_string_lossy().contains("/event")) {
            if !self.buttons.iter().any(|(known, _)| *known == path)
                && let Ok(Some(button)) = PowerButton::open(&path)
            {
                tracing::info!(device = %path.display(), "Power button found");
                self.buttons.push((path, button));
            }
        }
        if self.watchdog.is_none() {
            self.arm();
        }
    }

    fn arm(&mut self) {
        match Watchdog::arm(Path::new(WATCHDOG), WATCHDOG_S) {
            Ok(Some(watchdog)) => {
                let (timeout_s, bites_within_s) = (watchdog.timeout_s(), watchdog.bites_within_s());
                tracing::info!(name = watchdog.name(), timeout_s, bites_within_s, "Watchdog armed");
                if bites_within_s > BITES_WITHIN_S {
                    tracing::warn!(timeout_s, expected_s = WATCHDOG_S, "Watchdog takes no shorter time limit");
                }
                self.watchdog = Some(watchdog);
            }
            Ok(None) => {}
            Err(e) => tracing::error!(error = %chain(&e), "Watchdog not armed"),
        }
    }

    /// How often to feed.
    pub fn feed_every(&self) -> Duration {
        feed_every(self.watchdog.as_ref().map(Watchdog::timeout_s))
    }

    /// Feeds the watchdog, if there is one.
    pub fn feed(&mut self) {
        if let Some(Err(e)) = self.watchdog.as_mut().map(Watchdog::feed) {
            tracing::error!(error = %chain(&e), "Watchdog not fed");
        }
    }
}

/// A few times within the limit, which some hardware has shorter than it was asked for.
fn feed_every(timeout_s: Option<u32>) -> Duration {
    let quarter = timeout_s.map(|s| Duration::from_secs(u64::from(s)) / 4);
    quarter.map_or(FEED_EVERY, |q| q.clamp(Duration::from_millis(250), FEED_EVERY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_fed_several_times_within_its_limit() {
        assert_eq!(feed_every(None), FEED_EVERY);
        assert_eq!(feed_every(Some(WATCHDOG_S)), FEED_EVERY);
        assert_eq!(feed_every(Some(8)), Duration::from_secs(2));
        // A driver that does not know its limit must not make PID 1 spin.
        assert_eq!(feed_every(Some(0)), Duration::from_millis(250));
    }
}
