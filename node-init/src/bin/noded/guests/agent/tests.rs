//! The channel with an agent made of the real protocol, over a real socket.

use super::*;
use crate::guests::params::merge;
use model::{HostId, UserId, VmId, grant::Grant};
use std::os::unix::net::UnixStream as StdStream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use vma_proto::{Decoder, FromVma, MAX_FRAME, PROTO, Text, ToVma, encode};

struct Peer {
    stream: UnixStream,
    decoder: Decoder,
}

impl Peer {
    async fn connect(socket: &Path, first: FromVma) -> Self {
        let stream = UnixStream::connect(socket).await.expect("connects");
        let mut peer = Self { stream, decoder: Decoder::default() };
        peer.say(first).await;
        peer
    }

    async fn control(socket: &Path) -> Self {
        let version = "test".try_into().expect("short");
        let mut peer = Self::connect(socket, FromVma::Hello { proto: PROTO, version, session: Session::Stopped }).await;
        assert_eq!(peer.hear().await, ToVma::Welcome { proto: PROTO });
        peer
    }

    async fn say(&mut self, frame: FromVma) {
        let mut buffer = [0; MAX_FRAME];
        self.stream.write_all(encode(&frame, &mut buffer).expect("encodes")).await.expect("writes");
    }

    /// The next frame that is no ping; pings are answered.
    async fn hear(&mut self) -> ToVma {
        loop {
            let byte = [self.stream.read_u8().await.expect("reads")];
            match self.decoder.push::<ToVma>(&byte) {
                (_, Some(Ok(ToVma::Ping(n)))) => self.say(FromVma::Pong(n)).await,
                (_, Some(frame)) => return frame.expect("decodes"),
                (_, None) => {}
            }
        }
    }

    async fn hear_open(&mut self) -> vma_proto::Open {
        match self.hear().await {
            ToVma::Open(open) => open,
            other => panic!("expected Open, got {other:?}"),
        }
    }
}

fn channel(open: Duration) -> (tempfile::TempDir, std::path::PathBuf, Agent) {
    let dir = tempfile::tempdir().expect("temp dir");
    let socket = dir.path().join("vma.sock");
    let manners = Manners { ping: Duration::from_millis(50), open };
    let me = nix::unistd::getuid().as_raw();
    let agent = Agent::listen(&socket, me, manners).expect("listens");
    (dir, socket, agent)
}

fn params() -> Params {
    let (user, vm, host) = (UserId(1), VmId(2), HostId(3));
    merge(&[], &Grant { user, vm, host, expires: 0, login: "alice".into(), params: vec![] }).expect("fits")
}

async fn connected(agent: &Agent) {
    agent.seen().wait_for(|seen| seen.connected).await.expect("lives");
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn an_agent_that_answers_pings_is_heard() {
    let (_dir, socket, agent) = channel(LONG);
    let mut peer = Peer::control(&socket).await;
    let listening = tokio::spawn(async move { peer.hear().await });
    agent.seen().wait_for(|seen| seen.hellos == 1 && seen.frames > 2).await.expect("pongs count");
    assert!(agent.power_off());
    assert_eq!(listening.await.expect("ends"), ToVma::PowerOff);
    agent.seen().wait_for(|seen| !seen.connected).await.expect("noticed");
    assert!(!agent.power_off(), "nobody would hear it");
}

#[tokio::test]
async fn a_session_that_is_still_being_suspended_is_asked_for_again_and_any_other_failed() {
    let (_dir, socket, agent) = channel(Duration::from_millis(200));
    let mut peer = Peer::control(&socket).await;
    connected(&agent).await;
    let _silent = tokio::spawn(async move {
        peer.say(FromVma::State(vma_proto::Session::Suspending)).await;
        loop {
            if let ToVma::Open(open) = peer.hear().await
                && open.kind == vma_proto::Kind::Nx
            {
                peer.say(FromVma::State(vma_proto::Session::Starting)).await;
            }
        }
    });
    agent.seen().wait_for(|seen| seen.session == vma_proto::Session::Suspending).await.expect("heard");
    let busy = agent.open(SessionKind::Vnc, params()).await.expect_err("late");
    assert!(matches!(busy, OpenError::Busy(_)), "{busy:?}");
    let failed = agent.open(SessionKind::Nx, params()).await.expect_err("late");
    assert!(matches!(failed, OpenError::Failed(_)), "{failed:?}");
}

#[tokio::test]
async fn a_session_connection_is_handed_over_with_every_byte_behind_its_frame() {
    let (_dir, socket, agent) = channel(LONG);
    let mut peer = Peer::control(&socket).await;
    connected(&agent).await;
    let asked = tokio::spawn({
        let agent = agent.clone();
        async move { agent.open(SessionKind::Nx, params()).await }
    });
    let open = peer.hear_open().await;
    assert_eq!(open.params[0].1.as_str(), "alice");
    let mut session = Peer::connect(&socket, FromVma::Session(open.ticket)).await;
    session.stream.write_all(b"bytes of the session").await.expect("writes");
    peer.say(FromVma::Opened { ticket: open.ticket, resumed: true }).await;

    let (fd, resumed) = asked.await.expect("no panic").expect("opens");
    assert!(resumed);
    let stream = StdStream::from(fd);
    let mut stream = UnixStream::from_std(stream).expect("is a socket");
    let mut bytes = [0; 20];
    stream.read_exact(&mut bytes).await.expect("reads");
    assert_eq!(&bytes, b"bytes of the session");
}

#[tokio::test]
async fn a_refusal_says_whether_to_ask_again() {
    let (_dir, socket, agent) = channel(LONG);
    let ask = |agent: Agent| tokio::spawn(async move { agent.open(SessionKind::Nx, params()).await });
    let busy = agent.open(SessionKind::Nx, params()).await.expect_err("no agent yet");
    assert!(matches!(busy, OpenError::Busy(_)), "{busy:?}");

    let mut peer = Peer::control(&socket).await;
    connected(&agent).await;
    for (retry, expect) in [(true, OpenError::Busy("why".into())), (false, OpenError::Failed("why".into()))] {
        let asked = ask(agent.clone());
        let ticket = peer.hear_open().await.ticket;
        peer.say(FromVma::Refused { ticket, retry, reason: Text::try_from("why").expect("short") }).await;
        assert_eq!(asked.await.expect("no panic").expect_err("refused"), expect);
    }
    let asked = ask(agent.clone());
    peer.hear_open().await;
    drop(peer);
    assert!(matches!(asked.await.expect("no panic"), Err(OpenError::Busy(_))));
}

#[tokio::test]
async fn a_session_that_does_not_come_fails_in_time() {
    let (_dir, socket, agent) = channel(Duration::from_millis(80));
    let mut peer = Peer::control(&socket).await;
    connected(&agent).await;
    let asked = tokio::spawn(async move { agent.open(SessionKind::Nx, params()).await });
    let ticket = peer.hear_open().await.ticket;
    peer.say(FromVma::Opened { ticket, resumed: false }).await;
    let error = asked.await.expect("no panic").expect_err("no connection came");
    assert!(matches!(error, OpenError::Failed(_)), "{error:?}");
}

#[tokio::test]
async fn garbage_and_strangers_are_refused_and_the_agent_is_still_heard() {
    let (_dir, socket, agent) = channel(LONG);
    let mut garbage = UnixStream::connect(&socket).await.expect("connects");
    garbage.write_all(&[9; 100]).await.expect("writes");
    let mut end = Vec::new();
    // Closed by the node, perhaps with a reset as it did not read all.
    assert!(garbage.read_to_end(&mut end).await.map_or(true, |n| n == 0));
    let mut stranger = Peer::connect(&socket, FromVma::Session([7; 16])).await;
    assert!(stranger.stream.read_u8().await.is_err(), "a ticket that nobody gave out");
    let _peer = Peer::control(&socket).await;
    connected(&agent).await;
}

#[tokio::test]
async fn a_peer_of_another_user_is_refused() {
    let dir = tempfile::tempdir().expect("temp dir");
    let socket = dir.path().join("vma.sock");
    let manners = Manners { ping: LONG, open: LONG };
    let _agent = Agent::listen(&socket, 4_000_000, manners).expect("listens");
    let mut peer = UnixStream::connect(&socket).await.expect("connects");
    assert!(peer.read_u8().await.is_err(), "closed before a word");
}
