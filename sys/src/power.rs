//! The end of the machine's run.

use crate::{Error, Result};
use nix::sys::reboot::{RebootMode, set_cad_enabled};
use std::sync::mpsc;
use std::time::Duration;

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Starts again.
    Reboot,
    /// Power goes off.
    PowerOff,
}

/// Ends at once: nothing is written back, nobody is asked. Returns only if the kernel refuses.
pub fn end(how: End) -> Error {
    let mode = match how {
        End::Reboot => RebootMode::RB_AUTOBOOT,
        End::PowerOff => RebootMode::RB_POWER_OFF,
    };
    let action = if how == End::Reboot { "reboot" } else { "power off" };
    let Err(e) = nix::sys::reboot::reboot(mode);
    Error::of(action, "the machine")(e)
}

/// Writes back what is dirty; false when that takes too long (a dead network file system never ends), and then it goes
/// on behind us.
pub fn sync_within(limit: Duration) -> bool {
    let (done, wait) = mpsc::channel();
    let spawned = std::thread::Builder::new().stack_size(64 * 1024).spawn(move || {
        nix::unistd::sync();
        let _ = done.send(());
    });
    spawned.is_ok() && wait.recv_timeout(limit).is_ok()
}

/// Makes Ctrl-Alt-Del a SIGINT to PID 1 instead of a reboot at once.
pub fn take_ctrl_alt_del() -> Result<()> {
    set_cad_enabled(false).map_err(Error::of("take over", "Ctrl-Alt-Del"))
}
