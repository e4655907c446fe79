//! Whether the machine has a TPM 2.0. What the kernel was told of by the firmware is waited for, and nothing else.

use super::{Tpm, TpmError};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};
use sys::uevent::{Received, Socket};

/// The kernel's resource manager; there is one for a TPM 2.0 alone.
const DEVICE: &str = "dev/tpmrm0";
/// Any TPM that a driver has found.
const FOUND: &str = "sys/class/tpm/tpm0";
/// By which the firmware announces a TPM 2.0.
const ANNOUNCED: &str = "sys/firmware/acpi/tables/TPM2";
/// How long a driver may take for a TPM that was announced. Its drivers are in the kernel, and have begun before PID 1.
const LIMIT: Duration = Duration::from_secs(4);

/// Why there is no TPM 2.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    /// Nothing tells of one.
    #[error("neither the firmware nor a driver tells of one")]
    None,
    /// Too old.
    #[error("there is a TPM 1.2 alone")]
    Old,
    /// Announced, but it did not come.
    #[error("the firmware tells of one, and no driver had found it after {} s", LIMIT.as_secs())]
    Late,
}

/// Finds and opens it.
pub fn find() -> Result<Tpm<File>, TpmError> {
    let root = Path::new("/");
    // The socket is opened first, so that nothing falls between.
    let until = Instant::now() + LIMIT;
    let socket = Socket::open().ok();
    let wait = || {
        let left = until.saturating_duration_since(Instant::now());
        socket.as_ref().is_some_and(|socket| !left.is_zero() && changed(socket, left))
    };
    look(root, wait)?;
    let device = File::options().read(true).write(true).open(root.join(DEVICE));
    device.map(Tpm::new).map_err(|source| TpmError::Device { action: "open", source })
}

/// Waits for a change of any device; false when the time is over.
fn changed(socket: &Socket, left: Duration) -> bool {
    let ready = sys::poll::readable(socket.as_fd(), Some(left)).unwrap_or(false);
    // All that came is one change.
    while ready && !matches!(socket.recv(), Ok(Received::Nothing) | Err(_)) {}
    ready
}

/// Looks again after each change, while something is to be waited for.
fn look(root: &Path, mut wait: impl FnMut() -> bool) -> Result<(), Absent> {
    let there = |path: &str| root.join(path).exists();
    loop {
        match (there(DEVICE), there(FOUND), there(ANNOUNCED)) {
            (true, ..) => return Ok(()),
            (false, true, false) => return Err(Absent::Old),
            (false, false, false) => return Err(Absent::None),
            (false, _, true) if wait() => {}
            (false, _, true) => return Err(Absent::Late),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(there: &[&str], comes: &[&str], expect: Result<(), Absent>, waits: u32) {
        let root = tempfile::tempdir().expect("a folder");
        let make = |paths: &[&str]| {
            for path in paths {
                std::fs::create_dir_all(root.path().join(path)).expect("made");
            }
        };
        make(there);
        let mut waited = 0;
        let found = look(root.path(), || {
            make(comes);
            waited += 1;
            waited < 3
        });
        assert_eq!((found, waited), (expect, waits), "{there:?}");
    }

    #[test]
    fn only_what_was_announced_is_waited_for() {
        check(&[], &[], Err(Absent::None), 0);
        check(&[FOUND], &[], Err(Absent::Old), 0);
        check(&[DEVICE, FOUND, ANNOUNCED], &[], Ok(()), 0);
        check(&[ANNOUNCED], &[FOUND, DEVICE], Ok(()), 1);
        check(&[ANNOUNCED], &[], Err(Absent::Late), 3);
    }

    #[test]
    fn no_tpm_is_known_within_five_seconds() {
        assert!(LIMIT < Duration::from_secs(5));
    }
}
