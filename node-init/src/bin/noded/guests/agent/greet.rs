//! The first word of a connection to a guest's socket: control, or one session.

use std::{io, time::Duration};
use tokio::{io::AsyncReadExt, net::UnixStream, time::timeout};
use vma_proto::{Decoder, FromVma, Session, Ticket};

/// A guest gets so long for its first frame.
const PATIENCE: Duration = Duration::from_secs(5);
/// No first frame is longer; a peer that sends more is no agent.
const LONGEST: usize = 64;

/// What a connection turned out to be.
#[derive(Debug)]
pub enum Greeted {
    /// The agent's control connection.
    Control {
        /// Behind its Hello.
        stream: UnixStream,
        /// State of the session when it said Hello.
        session: Session,
    },
    /// A session connection; what follows are its raw bytes.
    Session {
        /// Behind its only frame, byte-exactly.
        stream: UnixStream,
        /// The request that it answers.
        ticket: Ticket,
    },
}

/// Why a connection was closed.
#[derive(Debug, thiserror::Error)]
pub enum Rude {
    /// The peer is not root of the guest: a user of it, who has no business here.
    #[error("A process of uid {found} connected, expected root of the guest ({expected})")]
    Uid {
        /// The peer's, on the node.
        found: u32,
        /// Of the guest's root.
        expected: u32,
    },
    /// Its first frame is not one, or not a first one.
    #[error("The first frame is not an agent's")]
    Frame,
    /// The connection broke, or nothing came in time.
    #[error("The connection broke before its first frame")]
    Io(#[from] io::Error),
}

/// Reads the first frame of a connection from the guest whose root is `root` on the node.
pub async fn greet(mut stream: UnixStream, root: u32) -> Result<Greeted, Rude> {
    let found = stream.peer_cred()?.uid();
    if found != root {
        return Err(Rude::Uid { found, expected: root });
    }
    let first =
        timeout(PATIENCE, first_frame(&mut stream)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
    match first? {
        FromVma::Hello { session, .. } => Ok(Greeted::Control { stream, session }),
        FromVma::Session(ticket) => Ok(Greeted::Session { stream, ticket }),
        _ => Err(Rude::Frame),
    }
}

/// Byte by byte, as what is behind the frame may be a session's bytes, which belong to the router.
async fn first_frame(stream: &mut UnixStream) -> Result<FromVma, Rude> {
    let mut decoder = Decoder::default();
    for _ in 0..LONGEST {
        let byte = [stream.read_u8().await?];
        if let (_, Some(frame)) = decoder.push(&byte) {
            return frame.map_err(|_| Rude::Frame);
        }
    }
    Err(Rude::Frame)
}
