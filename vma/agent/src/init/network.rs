//! The loopback interface, on which the session's programs listen. LXC brings it up only together with
//! another interface; who brings up the others is the node's business.

use crate::error::{Error, Result};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket};
use std::os::fd::AsRawFd;

/// Brings it up; nothing happens when it is up already.
pub fn loopback_up() -> Result<()> {
    let failed = || Error::call::<nix::errno::Errno>("bring up", "the loopback interface");
    let route = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
        .map_err(failed())?;
    // To the kernel, which is address 0; it answers only failures, and of those LISTEN tells soon enough.
    sendto(route.as_raw_fd(), &up_request(), &NetlinkAddr::new(0, 0), MsgFlags::empty()).map_err(failed())?;
    Ok(())
}

/// `RTM_NEWLINK` for interface 1, which the loopback is in every network namespace: set `IFF_UP`.
fn up_request() -> [u8; 32] {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST: u16 = 1;
    const IFF_UP: u32 = 1;
    let mut message = [0; 32];
    // struct nlmsghdr: length, type, flags, sequence, port; struct ifinfomsg: family, type, index, flags, change.
    message[0..4].copy_from_slice(&32u32.to_ne_bytes());
    message[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
    message[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    message[20..24].copy_from_slice(&1i32.to_ne_bytes());
    message[24..28].copy_from_slice(&IFF_UP.to_ne_bytes());
    message[28..32].copy_from_slice(&IFF_UP.to_ne_bytes());
    message
}
