//! The router's sockets.

use super::{Node, desired, member::joined, see, soon, store::FakeStore};
use crate::{board::Abort, router::control::Control, wire::Wire};
use model::{
    UserId, VmId,
    local::{ToNoded, ToRouter},
    paths,
    state::UserState,
    sync::{Call, Counters, Refusal, Reply, SessionReport, ToNode, ToStore},
};
use std::sync::Arc;
use tokio::net::UnixStream;

async fn router(node: &Node) -> Wire<UnixStream> {
    let path = node.paths.at(paths::ROUTER_SOCKET);
    if !path.exists() {
        let (board, key, store) = (node.board.clone(), node.key.clone(), node.store.clone());
        Control { board, key, store, guests: node.guests.subscribe(), latest: Arc::default() }
            .start(&node.paths)
            .expect("binds");
    }
    Wire::new(UnixStream::connect(path).await.expect("connects"))
}

fn session(id: u64) -> SessionReport {
    SessionReport { vm: VmId(1), user: UserId(1), state: UserState::Connected, client: "c".into(), session: id }
}

#[tokio::test]
async fn a_router_is_told_its_configuration_now_and_at_each_change() {
    let node = Node::boot(FakeStore::start().await.seed(None));
    let mut wire = router(&node).await;
    let ToRouter::Config(first) = soon(wire.recv()).await.expect("a frame") else { panic!("Config comes first") };
    assert_eq!((first.host, first.tls.key.as_str(), first.store_online), (None, "", false));
    assert!(matches!(soon(wire.recv()).await.expect("a frame"), ToRouter::Guests(g) if g.is_empty()));
    node.board.desired.send_replace(Some(Arc::new(desired(1))));
    let ToRouter::Config(second) = soon(wire.recv()).await.expect("a frame") else { panic!("Config comes again") };
    assert_eq!(second.tls.key, "key");
    let abort = Abort::Session { vm: VmId(3), session: Some(7), reason: "taken over".into() };
    node.board.aborts.send(abort).expect("the router listens");
    let aborted: ToRouter = soon(wire.recv()).await.expect("a frame");
    assert_eq!(aborted, ToRouter::Abort { vm: VmId(3), session: Some(7), reason: "taken over".into() });
    node.board.end_logins(UserId(7));
    let ended: ToRouter = soon(wire.recv()).await.expect("a frame");
    assert_eq!(ended, ToRouter::EndLogins(UserId(7)));
}

#[tokio::test]
async fn logins_that_were_to_end_while_no_router_was_here_end_at_the_next() {
    let node = Node::boot(FakeStore::start().await.seed(None));
    node.board.end_logins(UserId(7));
    let mut wire = router(&node).await;
    assert_eq!(soon(wire.recv::<ToRouter>()).await.expect("a frame"), ToRouter::EndLogins(UserId(7)));
    let mut next = router(&node).await;
    assert!(matches!(soon(next.recv()).await.expect("a frame"), ToRouter::Config(_)), "told once");
}

#[tokio::test]
async fn a_user_who_logs_out_everywhere_does_so_at_every_node() {
    let store = FakeStore::start().await;
    let node = Node::boot(store.seed(Some("t0ken")));
    joined(&store, &node).await;
    let (mut peer, _) = soon(store.let_in()).await;
    see(&node.board.online, |online| *online).await;
    let mut wire = router(&node).await;
    let call = Call::EndLogins { user: UserId(7) };
    wire.send(&ToNoded::Call(42, call.clone())).await.expect("sends");
    let asked = |word| if let ToStore::Call(number, asked) = word { Some((number, asked)) } else { None };
    let (number, asked) = soon(peer.until(asked)).await;
    assert_eq!(asked, call);
    peer.send(&ToNode::EndLogins(UserId(7))).await;
    peer.send(&ToNode::Reply(number, Reply::LoginsEnded)).await;
    let (mut ended, mut replied) = (false, false);
    while !(ended && replied) {
        match soon(wire.recv()).await.expect("a frame") {
            ToRouter::EndLogins(UserId(7)) => ended = true,
            ToRouter::Reply(42, Reply::LoginsEnded) => replied = true,
            ToRouter::Config(_) | ToRouter::Guests(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn sessions_live_as_long_as_their_router() {
    let node = Node::boot(FakeStore::start().await.seed(None));
    let mut wire = router(&node).await;
    wire.send(&ToNoded::Hello { sessions: vec![session(1), session(2)] }).await.expect("sends");
    see(&node.board.sessions, |s| s.settled && s.live.len() == 2).await;
    let over = SessionReport { state: UserState::Disconnected, ..session(1) };
    wire.send(&ToNoded::Session(over)).await.expect("sends");
    see(&node.board.sessions, |s| s.live.keys().eq([&2])).await;
    // Its successor says Hello before the old connection is seen to end.
    let mut next = router(&node).await;
    next.send(&ToNoded::Hello { sessions: vec![session(5)] }).await.expect("sends");
    see(&node.board.sessions, |s| s.live.keys().eq([&5])).await;
    drop(wire);
    // It has been seen to end once the next router's word is.
    next.send(&ToNoded::Session(session(6))).await.expect("sends");
    see(&node.board.sessions, |s| s.live.keys().eq([&5, &6])).await;
    drop(next);
    see(&node.board.sessions, |s| s.live.is_empty()).await;
}

#[tokio::test]
async fn a_call_while_the_store_is_away_is_answered_so() {
    let node = Node::boot(FakeStore::start().await.seed(None));
    let mut wire = router(&node).await;
    wire.send(&ToNoded::Counters(Counters::default())).await.expect("sends");
    wire.send(&ToNoded::Call(42, Call::List { user: UserId(1) })).await.expect("sends");
    let reply = soon(async {
        loop {
            if let ToRouter::Reply(number, reply) = wire.recv().await.expect("a frame") {
                return (number, reply);
            }
        }
    });
    assert_eq!(reply.await, (42, Reply::Refused(Refusal::StoreAway)));
}

#[tokio::test]
async fn garbage_ends_a_routers_connection_and_nothing_else() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let node = Node::boot(FakeStore::start().await.seed(None));
    let mut bad = router(&node).await.into_inner();
    bad.write_all(&[0, 0, 0, 4, 255, 255, 255, 255]).await.expect("writes");
    let mut rest = vec![];
    soon(bad.read_to_end(&mut rest)).await.expect("ends");
    let mut good = router(&node).await;
    assert!(matches!(soon(good.recv()).await.expect("a frame"), ToRouter::Config(_)));
}
