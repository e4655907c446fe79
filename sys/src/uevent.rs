//! What the kernel says of devices as they come and go.

use crate::{Error, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket, sockopt,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The kernel's own events; group 2 would be those of a device manager.
const KERNEL_GROUP: u32 = 1;
/// A cold start on a large machine says thousands of things before anybody listens.
const BUFFER: usize = 8 * 1024 * 1024;

/// Listens to the kernel.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `add`, `remove`, `change`, `bind`...
    pub action: String,
    /// The device's folder below `/sys`.
    pub path: String,
    /// All variables, in the kernel's order.
    vars: Vec<(String, String)>,
}

/// What a receive found.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// An event.
    Event(Event),
    /// Events were lost: look at everything again.
    Lost,
    /// Nothing at the moment.
    Nothing,
}

impl Socket {
    /// Opens it; from now on nothing is missed without [`Received::Lost`].
    pub fn open() -> Result<Self> {
        let (flags, what) = (SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, "the kernel's event socket");
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkKObjectUEvent)
            .map_err(Error::of("create", what))?;
        // Without the right to force it the default has to do; losses are told.
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &BUFFER);
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP)).map_err(Error::of("bind", what))?;
        Ok(Self(fd))
    }

    /// The next event.
    pub fn recv(&self) -> Result<Received> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match recvfrom::<NetlinkAddr>(self.0.as_raw_fd(), &mut buffer) {
                // Only the kernel has port 0; programs may send to the group too.
                Ok((_, Some(from))) if from.pid() != 0 => {}
                Ok((n, _)) => {
                    if let Some(event) = Event::parse(&buffer[..n]) {
                        return Ok(Received::Event(event));
                    }
                }
                Err(Errno::ENOBUFS) => return Ok(Received::Lost),
                Err(Errno::EAGAIN) => return Ok(Received::Nothing),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(Error::of("receive from", "the kernel's event socket")(e)),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Event {
    /// Reads a packet: `ACTION@PATH`, then `NAME=VALUE`s, each ended by a zero byte.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let mut fields = packet.split(|&b| b == 0).map(String::from_utf8_lossy);
        let head = fields.next()?;
        let (action, path) = head.split_once('@')?;
        let vars = fields.filter_map(|f| f.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()))).collect();
        Some(Self { action: action.to_owned(), path: path.to_owned(), vars })
    }

    /// The value of a variable, such as `MODALIAS`, `SUBSYSTEM` or `DEVNAME`.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.vars.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Variables of a device as its `uevent` file holds them: the same words as in an event.
pub fn parse_file(text: &str) -> Vec<(&str, &str)> {
    text.lines().filter_map(|l| l.split_once('=')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_event_is_read() {
        let packet =
            b"add@/devices/virtual/block/dm-0\0ACTION=add\0SUBSYSTEM=block\0DEVNAME=dm-0\0PARTUUID=a=b\0broken\0";
        let event = Event::parse(packet).expect("reads");
        assert_eq!((event.action.as_str(), event.path.as_str()), ("add", "/devices/virtual/block/dm-0"));
        assert_eq!((event.var("DEVNAME"), event.var("PARTUUID"), event.var("X")), (Some("dm-0"), Some("a=b"), None));
        assert_eq!(Event::parse(b"libudev\0\xfe\xed"), None);
        assert_eq!(parse_file("MAJOR=254\nPARTN=3\nx\n"), [("MAJOR", "254"), ("PARTN", "3")]);
    }

    proptest! {
        #[test]
        fn no_packet_is_a_fault(packet in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Event::parse(&packet);
        }
    }

    #[test]
    fn the_socket_opens_and_has_nothing_yet_or_an_event() {
        let socket = Socket::open().expect("opens");
        assert!(!matches!(socket.recv().expect("asks"), Received::Lost));
    }
}
