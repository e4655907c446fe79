//! The session socket: one connection opens one session.
//!
//! The router sends [`Open`]; the grant is verified, the guests' task makes the agent connect, and the
//! connected descriptor goes to the router with the answer. From then on this daemon is out of the
//! session's way, and may be killed without harm to it.

use super::place;
use crate::{board::Board, clock, grant, guests::Guests, report::chain, wire::Wire};
use model::{
    frame,
    local::{Open, OpenError, OpenInfo, Opened},
    paths,
    state::HostState,
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};
use tokio::{io::Interest, net::UnixStream, time::timeout};

/// The longest request: a grant and the client's parameters.
const FRAME: usize = 64 << 10;
/// How long the router may take to send its request, which it does at once.
const REQUEST: Duration = Duration::from_secs(5);
/// The last word on an opening; the guests' task has shorter limits of its own.
const OPENING: Duration = Duration::from_secs(120);

/// What the session socket works with.
#[derive(Clone)]
pub struct Doorman {
    /// The daemon's knowledge.
    pub board: Arc<Board>,
    /// The guests.
    pub guests: Guests,
}

impl Doorman {
    /// Binds the socket and serves it for ever.
    pub fn start(self, paths: &crate::paths::Paths) -> io::Result<()> {
        let listener = place::bind(&paths.at(paths::SESSION_SOCKET))?;
        place::serve_each(listener, move |stream| self.clone().serve(stream));
        Ok(())
    }

    async fn serve(self, stream: UnixStream) {
        let mut wire = Wire::with_limit(stream, FRAME);
        let open: Open = match timeout(REQUEST, wire.recv()).await {
            Ok(Ok(open)) => open,
            Ok(Err(error)) => return tracing::warn!(error = %chain(&error), "No session request"),
            Err(_) => return tracing::warn!("A session request did not come in time"),
        };
        let (session, stream) = (open.session, wire.into_inner());
        let result = tokio::select! {
            result = timeout(OPENING, self.open(open)) => result.unwrap_or_else(|_| Err(too_long())),
            // The client went away while its guest was busy: the opening is given up.
            () = closed(&stream) => return tracing::info!(session, "The router gave up opening a session"),
        };
        let (opened, fd) = match result {
            Ok((fd, info)) => (Ok(info), Some(fd)),
            Err(refusal) => (Err(refusal), None),
        };
        if let Err(error) = answer(&stream, &opened, fd.as_ref()).await {
            tracing::warn!(error = %chain(&error), session, "A session's answer did not reach the router");
        }
    }

    async fn open(&self, open: Open) -> Result<(OwnedFd, OpenInfo), OpenError> {
        let host = self.board.member.borrow().as_ref().map(|m| m.host);
        let host = host.ok_or_else(|| OpenError::Grant("this node has not joined the cluster".to_owned()))?;
        if self.board.verdict.borrow().state == HostState::Stopping {
            return Err(OpenError::Failed("The node shuts down".to_owned()));
        }
        let key = self.board.grant_key.borrow().clone();
        let grant = grant::verify(&open.grant, &key, host, clock::now_ms() / 1000)
            .map_err(|refused| OpenError::Grant(refused.to_string()))?;
        let (session, guest) = (open.session, grant.vm.0);
        let result = self.guests.open(&grant, open).await;
        match &result {
            Ok((_, info)) => tracing::info!(session, guest, resumed = info.resumed, "Opened a session"),
            Err(error) => tracing::warn!(session, guest, error = %chain(error), "Did not open a session"),
        }
        result
    }
}

fn too_long() -> OpenError {
    OpenError::Failed(format!("The guest did not answer within {} s", OPENING.as_secs()))
}

/// Ends when the peer closes. It has nothing more to say, so readable means closed.
async fn closed(stream: &UnixStream) {
    // An error is as final as an end.
    stream.ready(Interest::READABLE).await.ok();
}

/// Sends the answer, the descriptor attached to its first byte.
async fn answer(stream: &UnixStream, opened: &Opened, fd: Option<&OwnedFd>) -> io::Result<()> {
    let body = frame::encode(opened).map_err(io::Error::other)?;
    let bytes = [&(body.len() as u32).to_be_bytes()[..], &body].concat();
    let sent = stream.async_io(Interest::WRITABLE, || send_with(stream, &bytes, fd)).await?;
    // An answer is far smaller than an empty socket's buffer.
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn send_with(stream: &UnixStream, bytes: &[u8], fd: Option<&OwnedFd>) -> io::Result<usize> {
    let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use std::{
        io::{IoSliceMut, Read, Write},
        os::unix::net::UnixStream as Plain,
    };

    #[tokio::test]
    async fn the_descriptor_comes_with_the_first_byte_of_the_answer() {
        let (ours, theirs) = Plain::pair().expect("pair");
        ours.set_nonblocking(true).expect("non-blocking");
        let ours = UnixStream::from_std(ours).expect("pollable");
        let (mut near, far) = Plain::pair().expect("pair");
        let opened: Opened = Ok(OpenInfo { resumed: true });
        answer(&ours, &opened, Some(&OwnedFd::from(far))).await.expect("answers");

        let mut bytes = [0; 64];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(&theirs, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::empty()).expect("gets");
        let len = u32::from_be_bytes(bytes[..4].try_into().expect("4 bytes")) as usize;
        assert_eq!(frame::decode::<Opened>(&bytes[4..got.bytes]).expect("decodes"), opened);
        assert_eq!(len + 4, got.bytes);
        let fd = control.drain().find_map(|m| match m {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        near.write_all(b"nx").expect("writes");
        let mut text = [0; 2];
        Plain::from(fd.expect("a descriptor")).read_exact(&mut text).expect("reads");
        assert_eq!(&text, b"nx");
    }
}
