//! The channel to a guest's agent (VMA): one unix socket per guest, in a directory that the guest sees
//! read-only. The agent connects, once for control and once for each session; a daemon that starts
//! again binds the socket anew in the same directory, and the agent connects again.
//!
//! One task per guest ([`link`]) owns the socket and its connections. Inputs: connections, frames,
//! commands of [`Agent`], a ping every so often. Outputs: [`Seen`], answers to commands.

mod greet;
mod link;

use crate::guests::params::Params;
use model::local::{OpenError, SessionKind};
use std::{
    fs::{self, Permissions},
    io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::Path,
    time::Duration,
};
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot, watch},
};
use vma_proto::Session;

/// What the agent has said so far, as levels: nothing is lost however late one looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Hellos heard.
    pub hellos: u64,
    /// Frames heard, Hellos among them.
    pub frames: u64,
    /// A control connection is there now.
    pub connected: bool,
    /// The guest goes down by its own will.
    pub going_down: bool,
    /// State of the X session, as last told.
    pub session: Session,
}

/// How the channel behaves.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// Between two pings.
    pub ping: Duration,
    /// Until a session must listen, from the request or from the agent's last sign of progress.
    pub open: Duration,
}

/// Handle to a guest's channel. The channel ends with its last handle.
#[derive(Clone, Debug)]
pub struct Agent {
    commands: mpsc::Sender<Command>,
    seen: watch::Receiver<Seen>,
}

enum Command {
    Open { kind: SessionKind, params: Box<Params>, reply: Reply },
    PowerOff,
}

type Reply = oneshot::Sender<Result<(OwnedFd, bool), OpenError>>;

impl Agent {
    /// Listens at `socket` for the agent of a guest whose root is `root` on the node.
    pub fn listen(socket: &Path, root: u32, manners: Manners) -> io::Result<Self> {
        match fs::remove_file(socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        // Root of the guest is root of the node as the view maps it; the guest's users are others.
        fs::set_permissions(socket, Permissions::from_mode(0o600))?;
        let (commands, inbox) = mpsc::channel(16);
        let nothing = Seen { hellos: 0, frames: 0, connected: false, going_down: false, session: Session::Stopped };
        let (told, seen) = watch::channel(nothing);
        tokio::spawn(link::Link::new(listener, root, manners, told).run(inbox));
        Ok(Self { commands, seen })
    }

    /// What the agent has said.
    pub fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.clone()
    }

    /// Opens a session. The descriptor is its byte stream (non-blocking); the flag says whether an
    /// earlier session was resumed.
    pub async fn open(&self, kind: SessionKind, params: Params) -> Result<(OwnedFd, bool), OpenError> {
        let gone = || OpenError::Failed("the virtual machine is going down".into());
        let (reply, answer) = oneshot::channel();
        let params = Box::new(params);
        self.commands.send(Command::Open { kind, params, reply }).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Asks the guest to shut down; false when no agent is connected who could hear it.
    pub fn power_off(&self) -> bool {
        self.seen.borrow().connected && self.commands.try_send(Command::PowerOff).is_ok()
    }
}

#[cfg(test)]
mod tests;
