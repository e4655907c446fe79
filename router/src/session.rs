//! Opens the way to a guest: on this node through `noded`'s session socket, which hands over a
//! connected descriptor; on another node through its router.

use crate::{RouterError, frames, peer, router::Router};
use model::{
    HostId,
    local::{Open, OpenError, OpenInfo, Opened},
    state::VmState,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::Path,
    time::Duration,
};
use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
    time::{sleep, timeout},
};
use tokio_rustls::client::TlsStream;

/// A guest that is busy is asked this often (QVD: `internal.l7r.retry.x_start` and the first try).
const TRIES: u32 = 21;
/// Pause between two tries.
const PAUSE: Duration = Duration::from_secs(1);
/// One try may take this long: the agent may be making a user's home. `noded` gives up before.
const TRY_LIMIT: Duration = Duration::from_secs(130);

/// The way to a guest. What `noded` hands over is any connected stream socket; only reads, writes and
/// shutdowns are done on it, which are the same for all.
pub enum Guest {
    /// On this node.
    Here(UnixStream),
    /// On another.
    There(Box<TlsStream<TcpStream>>),
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum NotOpened {
    /// The guest's node, or its agent, says no.
    #[error(transparent)]
    Refused(#[from] OpenError),
    /// The other side cannot be reached, or went away before it answered.
    #[error(transparent)]
    Transport(#[from] RouterError),
}

impl NotOpened {
    /// Whether it may be otherwise in a second: the agent suspends another session, or `noded` restarts.
    fn passes(&self) -> bool {
        match self {
            Self::Refused(e) => matches!(e, OpenError::Busy(_) | OpenError::NotRunning(VmState::Starting)),
            Self::Transport(_) => true,
        }
    }
}

/// Where a guest is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its node.
    pub host: HostId,
    /// Address of that node's router.
    pub address: IpAddr,
}

/// Opens a session, patiently while the guest is busy.
pub async fn open(router: &Router, place: Place, open: &Open) -> Result<(Guest, OpenInfo), NotOpened> {
    let mut tries = 1;
    loop {
        match try_open(router, place, open).await {
            Err(error) if error.passes() && tries < TRIES => {
                tracing::debug!(tries, error = %error, "The session is not open yet");
                tries += 1;
                sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}

/// Opens a session, or a connection beside one; one try.
pub async fn try_open(router: &Router, place: Place, open: &Open) -> Result<(Guest, OpenInfo), NotOpened> {
    if router.host() == Some(place.host) {
        let (stream, info) = open_here(&router.options.session_socket, open).await?;
        return Ok((Guest::Here(stream), info));
    }
    let address = SocketAddr::new(place.address, router.options.peer_port);
    let (stream, info) = peer::open_there(router, place.host, address, open).await?;
    Ok((Guest::There(Box::new(stream)), info))
}

/// Opens a session with a guest of this node.
pub async fn open_here(socket: &Path, open: &Open) -> Result<(UnixStream, OpenInfo), NotOpened> {
    let failed = |source| RouterError::Noded { path: socket.to_owned(), source };
    let asked = timeout(TRY_LIMIT, ask(socket, open)).await;
    let (opened, descriptor) = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
    let info = opened?;
    let descriptor = descriptor.ok_or_else(|| failed(io::Error::other("No descriptor came with the session")))?;
    Ok((connected(descriptor).map_err(failed)?, info))
}

async fn ask(socket: &Path, open: &Open) -> io::Result<(Opened, Option<OwnedFd>)> {
    let mut stream = UnixStream::connect(socket).await?;
    frames::write(&mut stream, open).await?;
    let (mut bytes, mut descriptor) = (Vec::new(), None);
    loop {
        stream.readable().await?;
        match stream.try_io(Interest::READABLE, || receive(&stream, &mut bytes)) {
            Ok(got) => descriptor = got.or(descriptor),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(e),
        }
        if let Some(opened) = complete(&bytes)? {
            return Ok((opened, descriptor));
        }
    }
}

/// Receives once; a descriptor may come with the bytes.
fn receive(stream: &UnixStream, bytes: &mut Vec<u8>) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [0; 4096];
    let got = recvmsg(stream, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.extend_from_slice(&buffer[..got.bytes]);
    let rights = control.drain().filter_map(|m| match m {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok(rights.flatten().last())
}

/// The frame, once it is whole.
fn complete(bytes: &[u8]) -> io::Result<Option<Opened>> {
    let Some((prefix, body)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = frames::length(*prefix)?;
    if body.len() < length { Ok(None) } else { frames::unpack(&body[..length]).map(Some) }
}

fn connected(descriptor: OwnedFd) -> io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(descriptor);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}
