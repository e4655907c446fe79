//! `clone3`, as a fork that yields a pidfd.

use crate::{Error, Result};
use nix::errno::Errno;
use nix::libc;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

// From linux/sched.h; libc has none of them for musl at this width.
const CLONE_PIDFD: u64 = 0x1000;
/// A user namespace of its own.
pub const CLONE_NEWUSER: u64 = 0x1000_0000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of the fork runs.
pub enum Forked {
    /// The new process, with its caller's memory copied and no other thread.
    Child,
    /// The caller.
    Parent {
        /// The new process.
        pid: i32,
        /// A handle to it.
        pidfd: OwnedFd,
    },
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks, with caught signals back at their defaults in the child.
///
/// # Safety
/// Other threads do not exist in the child and may have held any lock, the allocator's included: until exec or
/// `_exit` it may only make raw system calls on memory prepared before.
pub unsafe fn fork(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Forked> {
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: flags | CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: args is a live clone_args of the size told, its pidfd points to a live int, and without CLONE_VM and
    // with a null stack the child goes on in its own copy of this stack.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match Errno::result(pid) {
        Ok(0) => Ok(Forked::Child),
        Ok(pid) => {
            // SAFETY: the kernel has just put a new descriptor there, which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent { pid: pid as i32, pidfd })
        }
        Err(e) => Err(Error::of("create", "a process")(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clone_args_has_the_kernels_size() {
        // CLONE_ARGS_SIZE_VER2 of linux/sched.h.
        assert_eq!(size_of::<CloneArgs>(), 88);
    }
}
