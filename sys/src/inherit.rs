//! Descriptors that a parent left open for us.

use std::{
    fs, io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    sync::Mutex,
};

/// Descriptors taken already, so that none gets two owners.
static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Takes over a descriptor that was open when this program was executed, and marks it close-on-exec.
/// Legal once per descriptor, and before anything else in the program could have opened that number:
/// call it first in `main`. An error says that it is not open or was taken before.
pub fn take(fd: RawFd) -> io::Result<OwnedFd> {
    let mut taken = TAKEN.lock().unwrap_or_else(|e| e.into_inner());
    if taken.contains(&fd) || fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
        return Err(io::Error::from_raw_os_error(nix::libc::EBADF));
    }
    taken.push(fd);
    // SAFETY: the descriptor is open (checked above), and by the contract above nothing in this
    // program owns it; `TAKEN` keeps this function from making a second owner.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    nix::fcntl::fcntl(&owned, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    Ok(owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn a_descriptor_is_taken_once_and_a_closed_one_never() {
        let raw = fs::File::open("/dev/null").expect("opens").into_raw_fd();
        let owned = take(raw).expect("is open");
        assert!(take(raw).is_err());
        drop(owned);
        assert!(take(9999).is_err());
    }
}
