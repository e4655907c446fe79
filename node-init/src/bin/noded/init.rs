//! The channel to `node-init` (descriptor 3, sequenced packets, [`model::init`]).
//!
//! One task owns the descriptor: it sends what the rest of the daemon says, says Alive every
//! [`ALIVE_EVERY_S`] seconds (which proves that the runtime turns, since there is one), and hands on what
//! `node-init` says. Started by hand, the daemon has no such channel: then all is only logged.

use crate::report::chain;
use model::{
    frame,
    init::{ALIVE_EVERY_S, FromInit, NODED_FD, Service, ToInit},
};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::{io, os::fd::OwnedFd, time::Duration};
use sys::seqpacket::{MAX_PACKET, Seqpacket};
use tokio::{
    net::UnixStream,
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
};

/// Says things to `node-init`. Never blocks, never fails: what is said is small and rare.
#[derive(Clone, Debug)]
pub struct Init(UnboundedSender<ToInit>);

impl Init {
    /// Takes the inherited channel, if there is one. Call it first in `main`.
    pub fn inherited() -> Option<OwnedFd> {
        Seqpacket::inherited(NODED_FD).ok().map(OwnedFd::from)
    }

    /// Starts the task. The receiver yields what `node-init` says.
    pub fn start(channel: Option<OwnedFd>) -> io::Result<(Self, UnboundedReceiver<FromInit>)> {
        let (tell, told) = mpsc::unbounded_channel();
        let (hear, heard) = mpsc::unbounded_channel();
        match channel {
            Some(fd) => drop(tokio::spawn(run(pollable(fd)?, told, hear))),
            None => drop(tokio::spawn(log_only(told, hear))),
        }
        Ok((Self(tell), heard))
    }

    /// Says one thing.
    pub fn say(&self, what: ToInit) {
        // The task ends only with the runtime, when nobody listens any more.
        self.0.send(what).ok();
    }

    /// A line for the operator in front of the machine.
    pub fn console(&self, line: &str) {
        self.say(ToInit::Console(line.to_owned()));
    }

    /// The configuration of a service is written: (re)start it.
    pub fn start_service(&self, service: Service) {
        self.say(ToInit::Start(service));
    }

    /// Runs one phase of the boot and enters it into the timeline.
    pub async fn phase<T>(&self, name: &str, work: impl Future<Output = T>) -> T {
        self.say(ToInit::PhaseBegan(name.to_owned()));
        let result = work.await;
        self.say(ToInit::PhaseEnded(name.to_owned()));
        result
    }
}

/// The runtime polls any socket; that it keeps packets apart is between the two ends.
fn pollable(fd: OwnedFd) -> io::Result<UnixStream> {
    UnixStream::from_std(fd.into())
}

async fn log_only(mut told: UnboundedReceiver<ToInit>, hear: UnboundedSender<FromInit>) {
    while let Some(what) = told.recv().await {
        tracing::info!(what = ?what, "Would tell node-init");
    }
    drop(hear);
}

async fn run(channel: UnixStream, mut told: UnboundedReceiver<ToInit>, hear: UnboundedSender<FromInit>) {
    let mut alive = tokio::time::interval(Duration::from_secs(ALIVE_EVERY_S));
    loop {
        // All branches are cancel-safe: a channel receive, a timer, and a readiness wait that takes
        // a packet only when it completes.
        let done = tokio::select! {
            what = told.recv() => match what {
                Some(what) => tell(&channel, &what).await,
                None => return,
            },
            _ = alive.tick() => tell(&channel, &ToInit::Alive).await,
            packet = hear_one(&channel) => packet.map(|word| word.map_or((), |word| drop(hear.send(word)))),
        };
        if let Err(error) = done {
            tracing::error!(error = %chain(&error), "Lost the channel to node-init");
            return log_only(told, hear).await;
        }
    }
}

async fn tell(channel: &UnixStream, what: &ToInit) -> io::Result<()> {
    let bytes = frame::encode(what).map_err(io::Error::other)?;
    // Longer than any console line should be; a packet that node-init would cut says nothing.
    if bytes.len() > MAX_PACKET {
        return Ok(());
    }
    let sent = channel.async_io(tokio::io::Interest::WRITABLE, || Ok(send(channel, &bytes, SendFlags::NOSIGNAL)?));
    sent.await.map(drop)
}

/// One word of `node-init`; none when it cannot be read (of a later version).
async fn hear_one(channel: &UnixStream) -> io::Result<Option<FromInit>> {
    let mut packet = vec![0; MAX_PACKET];
    let read = || Ok(recv(channel, packet.as_mut_slice(), RecvFlags::empty())?.0);
    let len = channel.async_io(tokio::io::Interest::READABLE, read).await?;
    if len == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match frame::decode(&packet[..len]) {
        Ok(word) => Ok(Some(word)),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "Node-init says something that cannot be read");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (OwnedFd, UnixStream) {
        let (a, b) = sys::seqpacket::pair().expect("pair");
        (a.into(), pollable(b.into()).expect("registers"))
    }

    async fn next(peer: &UnixStream) -> ToInit {
        let mut packet = [0; MAX_PACKET];
        let read = || Ok(recv(peer, packet.as_mut_slice(), RecvFlags::empty())?.0);
        let len = peer.async_io(tokio::io::Interest::READABLE, read).await.expect("reads");
        frame::decode(&packet[..len]).expect("decodes")
    }

    #[tokio::test]
    async fn a_phase_is_told_from_begin_to_end_and_shutdown_is_heard() {
        let (ours, theirs) = pair();
        let (init, mut heard) = Init::start(Some(ours)).expect("starts");
        assert_eq!(init.phase("network", async { 7 }).await, 7);
        let mut said = vec![];
        while said.len() < 2 {
            said.extend(Some(next(&theirs).await).filter(|w| *w != ToInit::Alive));
        }
        assert_eq!(said, [ToInit::PhaseBegan("network".into()), ToInit::PhaseEnded("network".into())]);
        let word = frame::encode(&FromInit::Shutdown { within_s: 9 }).expect("encodes");
        send(&theirs, &word, SendFlags::empty()).expect("sends");
        assert_eq!(heard.recv().await, Some(FromInit::Shutdown { within_s: 9 }));
    }

    #[tokio::test(start_paused = true)]
    async fn alive_is_said_while_the_runtime_turns() {
        let (ours, theirs) = pair();
        let (_init, _heard) = Init::start(Some(ours)).expect("starts");
        assert_eq!(next(&theirs).await, ToInit::Alive);
        assert_eq!(next(&theirs).await, ToInit::Alive);
    }
}
