//! A pair of connected sockets that keep packet boundaries.

use crate::{Error, Result};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Longest packet that is sent or taken.
pub const MAX_PACKET: usize = 16 * 1024;

/// One end. Non-blocking.
#[derive(Debug)]
pub struct Seqpacket(OwnedFd);

/// What a receive found.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A whole packet.
    Packet(Vec<u8>),
    /// Nothing at the moment.
    Nothing,
    /// The other end is closed.
    Closed,
}

/// Makes a connected pair; both ends close on exec.
pub fn pair() -> Result<(Seqpacket, Seqpacket)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
        .map_err(Error::of("create", "a pair of packet sockets"))?;
    Ok((Seqpacket(a), Seqpacket(b)))
}

impl Seqpacket {
    /// Takes over the descriptor with this number, which the parent passed: see [`crate::inherit::take`].
    pub fn inherited(number: RawFd) -> Result<Self> {
        use nix::sys::socket::{getsockopt, sockopt};
        let what = format!("descriptor {number}");
        let fd = crate::inherit::take(number).map_err(Error::of("take over", &what))?;
        match getsockopt(&fd, sockopt::SockType) {
            Ok(SockType::SeqPacket) => {}
            other => {
                return Err(Error::Malformed {
                    object: what,
                    found: format!("{other:?}"),
                    expected: "a packet socket",
                });
            }
        }
        set_nonblocking(&fd)?;
        Ok(Self(fd))
    }

    /// Sends one packet; `Ok(false)` when the other side is too slow and the queue is full.
    pub fn send(&self, packet: &[u8]) -> Result<bool> {
        match send(self.0.as_raw_fd(), packet, MsgFlags::MSG_NOSIGNAL) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::ENOBUFS) => Ok(false),
            Err(e) => Err(Error::of("send", "a packet")(e)),
        }
    }

    /// Takes the next packet, if there is one.
    pub fn recv(&self) -> Result<Received> {
        let mut buffer = vec![0; MAX_PACKET];
        match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
            Ok(0) | Err(Errno::ECONNRESET) => Ok(Received::Closed),
            Ok(n) if n > MAX_PACKET => {
                let object = "packet socket".to_owned();
                Err(Error::Malformed { object, found: format!("{n} bytes"), expected: "at most 16384 bytes" })
            }
            Ok(n) => {
                buffer.truncate(n);
                Ok(Received::Packet(buffer))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Received::Nothing),
            Err(e) => Err(Error::of("receive", "a packet")(e)),
        }
    }
}

fn set_nonblocking(fd: &OwnedFd) -> Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(Error::of("read flags of", "a descriptor"))?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(fd, FcntlArg::F_SETFL(flags)).map_err(Error::of("set flags of", "a descriptor"))?;
    Ok(())
}

impl AsFd for Seqpacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Seqpacket> for OwnedFd {
    fn from(s: Seqpacket) -> Self {
        s.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_keep_their_boundaries_and_the_end_is_seen() {
        let (a, b) = pair().expect("pair");
        assert_eq!(b.recv().expect("empty"), Received::Nothing);
        assert!(a.send(b"one").expect("sent") && a.send(b"two").expect("sent"));
        assert_eq!(b.recv().expect("first"), Received::Packet(b"one".to_vec()));
        assert_eq!(b.recv().expect("second"), Received::Packet(b"two".to_vec()));
        drop(a);
        assert_eq!(b.recv().expect("end"), Received::Closed);
    }

    #[test]
    fn a_full_queue_is_told_and_not_waited_for() {
        let (a, _b) = pair().expect("pair");
        let packet = vec![7; 8192];
        assert!((0..100_000).any(|_| !a.send(&packet).expect("no error")));
    }

    #[test]
    fn only_a_packet_socket_is_taken_over() {
        let file: OwnedFd = tempfile::tempfile().expect("file").into();
        // A number is taken once in a process, and tests of one process share low numbers: use one that none has.
        let raw = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(700)).expect("duplicate");
        let error = Seqpacket::inherited(raw).expect_err("refused").to_string();
        assert!(error.contains("expected a packet socket"), "{error}");
    }
}
