//! The machine's own devices that PID 1 minds: power buttons and the watchdog, as they appear.

use crate::fail::chain;
use crate::watchdog;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;
use sys::input::PowerButton;
use sys::uevent::{Received, Socket};
use sys::watchdog::Watchdog;

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
    /// Listens, and looks at what is there. The boot may have armed the watchdog already.
    pub fn open(watchdog: Option<Watchdog>) -> Self {
        let events = Socket::open().inspect_err(|e| tracing::error!(error = %chain(e), "Devices are not watched")).ok();
        let mut hardware = Self { events, buttons: Vec::new(), watchdog };
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
            self.watchdog = watchdog::arm();
        }
    }

    /// How often to feed.
    pub fn feed_every(&self) -> Duration {
        watchdog::feed_every(self.watchdog.as_ref())
    }

    /// Feeds the watchdog, if there is one.
    pub fn feed(&mut self) {
        watchdog::feed(self.watchdog.as_mut());
    }
}
