//! Waiting for descriptors, with time limits that signals do not stretch.

use crate::{Error, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// What to wait for on a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Something to read, or the end.
    Read,
    /// Room to write.
    Write,
    /// An exceptional condition: a change of a cgroup's event file.
    Priority,
}

/// Waits until a descriptor is readable; false when the time is over. No time limit: waits for ever.
pub fn readable(fd: BorrowedFd<'_>, within: Option<Duration>) -> Result<bool> {
    Ok(wait(&[(fd, Interest::Read)], within)?[0])
}

/// Waits until one of the descriptors is ready (or broken) and says which are; all false when the time is over.
pub fn wait(fds: &[(BorrowedFd<'_>, Interest)], within: Option<Duration>) -> Result<Vec<bool>> {
    let until = within.map(|d| Instant::now() + d);
    let mut set: Vec<PollFd<'_>> = fds.iter().map(|&(fd, i)| PollFd::new(fd, flags(i))).collect();
    loop {
        let left = until.map(|u| u.saturating_duration_since(Instant::now()));
        match nix::poll::poll(&mut set, timeout(left)) {
            Ok(0) if left.is_some_and(|l| !l.is_zero()) => {}
            Ok(_) => return Ok(set.iter().map(|p| p.any().unwrap_or(true)).collect()),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::of("wait for", "descriptors")(e)),
        }
    }
}

fn flags(interest: Interest) -> PollFlags {
    match interest {
        Interest::Read => PollFlags::POLLIN,
        Interest::Write => PollFlags::POLLOUT,
        Interest::Priority => PollFlags::POLLPRI,
    }
}

/// Rounded up to whole milliseconds, so that a wait does not end early and spin.
fn timeout(left: Option<Duration>) -> PollTimeout {
    match left {
        None => PollTimeout::NONE,
        Some(d) => PollTimeout::try_from(d.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn a_wait_ends_by_data_or_by_time() {
        let (r, mut w) = std::io::pipe().expect("pipe");
        assert!(!readable(r.as_fd(), Some(Duration::from_millis(5))).expect("time is over"));
        w.write_all(b"x").expect("written");
        assert!(readable(r.as_fd(), None).expect("data"));
        let both = wait(&[(r.as_fd(), Interest::Read), (w.as_fd(), Interest::Write)], None).expect("both");
        assert_eq!(both, [true, true]);
    }
}
