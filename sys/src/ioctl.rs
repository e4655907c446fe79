//! The one `ioctl`.

use crate::{Error, Result};
use nix::errno::Errno;
use nix::libc;
use std::os::fd::{AsFd, AsRawFd};

/// Makes a request that takes a pointer to a `T` and reads or writes no more than that.
///
/// # Safety
/// The request, on this kind of descriptor, must access only the bytes of a `T`, and whatever the kernel writes there
/// must be a valid `T`.
pub unsafe fn with<T>(fd: impl AsFd, request: u32, arg: &mut T, what: (&'static str, &str)) -> Result<i32> {
    // SAFETY: arg is live and exclusively ours; the rest is this function's contract.
    let r = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as libc::c_int, std::ptr::from_mut(arg)) };
    Errno::result(r).map_err(Error::of(what.0, what.1))
}

/// Makes a request that takes a plain number.
///
/// # Safety
/// The request, on this kind of descriptor, must not take its argument for a pointer.
pub unsafe fn number(fd: impl AsFd, request: u32, arg: u64, what: (&'static str, &str)) -> Result<i32> {
    // SAFETY: by this function's contract no memory is accessed.
    let r = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as libc::c_int, arg) };
    Errno::result(r).map_err(Error::of(what.0, what.1))
}
