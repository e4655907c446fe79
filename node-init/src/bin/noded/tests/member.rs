//! Joining, being a member, and the store's absence.

use super::{Node, desired, see, soon, store::FakeStore};
use crate::identity::Member;
use model::{
    UserId, VmId,
    boot::BootEnd,
    recovery::Escrow,
    state::{UserState, VmState},
    sync::{Call, GuestReport, Refusal, Reply, SessionReport, ToNode, ToStore},
};
use node_init::boots::{About, Boots};

/// Joins a fresh node.
pub(super) async fn joined(store: &FakeStore, node: &Node) {
    let mut peer = soon(store.accept()).await;
    assert!(!peer.has_certificate);
    let ToStore::Join(request) = soon(peer.recv()).await else { panic!("Join comes first") };
    assert_eq!(request.token.as_deref(), Some("t0ken"));
    assert_eq!(request.address.to_string(), "192.0.2.7");
    peer.send(&ToNode::Joined(store.joined(request.csr))).await;
    see(&node.board.member, Option::is_some).await;
}

fn guest(vm: u32) -> GuestReport {
    GuestReport {
        vm: VmId(vm),
        epoch: 1,
        generation: 1,
        state: VmState::Running,
        phase: String::new(),
        since_ms: 0,
        di: None,
        failed: None,
        start_ms: None,
    }
}

/// For calls; the store that is away is noticed sooner.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(20);

#[tokio::test]
async fn a_fresh_node_joins_is_welcomed_and_keeps_what_is_wanted() {
    let store = FakeStore::start().await;
    let node = Node::boot(store.seed(Some("t0ken")));
    node.guests.send_modify(|g| drop(g.insert(VmId(4), guest(4))));
    node.board.sessions.send_modify(|s| s.settled = true);
    joined(&store, &node).await;
    let (mut peer, hello) = soon(store.let_in()).await;
    assert_eq!((hello.revision, hello.inventory.mac.as_str()), (0, "52:54:00:00:00:07"));

    let mut told = vec![];
    while told.last() != Some(&ToStore::ReportsComplete) {
        told.push(soon(peer.recv()).await);
    }
    assert!(told.contains(&ToStore::Guest(guest(4))), "{told:?}");
    peer.send(&ToNode::Desired(Box::new(desired(5)))).await;
    see(&node.board.desired, |d| d.as_ref().is_some_and(|d| d.revision == 5)).await;
    soon(peer.until(|w| matches!(w, ToStore::Heartbeat(_)).then_some(()))).await;

    // The same machine after a power cut, with the store away: all is known from the ledger.
    let grant_key = node.board.grant_key.borrow().clone();
    let dir = node.cut_power();
    let again = Node::boot_on(dir, store.seed(None));
    assert_eq!(again.board.desired.borrow().as_ref().map(|d| d.revision), Some(5));
    assert_eq!(*again.board.grant_key.borrow(), grant_key);
    assert_eq!(Member::load(&again.paths).expect("reads").expect("is kept").host.0, 7);
    let (_, hello) = soon(store.let_in()).await;
    assert_eq!(hello.revision, 5);
}

#[tokio::test]
async fn a_store_that_goes_away_is_found_again_and_told_all_anew() {
    let mut store = FakeStore::start().await;
    let node = Node::boot(store.seed(Some("t0ken")));
    node.board.sessions.send_modify(|s| s.settled = true);
    joined(&store, &node).await;
    let (peer, _) = soon(store.let_in()).await;
    see(&node.board.online, |online| *online).await;

    store.away();
    drop(peer);
    see(&node.board.online, |online| !online).await;
    let reply = soon(node.store.call(Call::List { user: UserId(1) }, LIMIT)).await;
    assert_eq!(reply, Reply::Refused(Refusal::StoreAway));
    node.guests.send_modify(|g| drop(g.insert(VmId(9), guest(9))));

    store.back().await;
    let (mut peer, _) = soon(store.let_in()).await;
    soon(peer.until(|w| (w == ToStore::Guest(guest(9))).then_some(()))).await;
    assert!(*node.board.welcomed.borrow());
}

#[tokio::test]
async fn a_boot_is_told_over_each_link_until_the_store_has_it() {
    let store = FakeStore::start().await;
    let node = Node::boot(store.seed(Some("t0ken")));
    let about = About { boot: "crashed".to_owned(), ..About::default() };
    Boots::at(node.paths.at(model::paths::BOOTS)).begin(about).expect("begins");
    joined(&store, &node).await;
    let told = |word| if let ToStore::Boot(report) = word { Some((report.boot, report.end)) } else { None };
    for _ in 0..2 {
        let (mut peer, _) = soon(store.let_in()).await;
        assert_eq!(soon(peer.until(told)).await, ("crashed".to_owned(), BootEnd::Cut));
    }
    let (mut peer, _) = soon(store.let_in()).await;
    soon(peer.until(told)).await;
    peer.send(&ToNode::BootKept("crashed".to_owned())).await;
    let kept = async {
        while !Boots::at(node.paths.at(model::paths::BOOTS)).all()[0].is_told() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    soon(kept).await;
}

#[tokio::test]
async fn calls_get_their_own_answers_in_any_order() {
    let store = FakeStore::start().await;
    let node = Node::boot(store.seed(Some("t0ken")));
    joined(&store, &node).await;
    let (mut peer, _) = soon(store.let_in()).await;
    see(&node.board.online, |online| *online).await;
    let ask = |user| {
        let store = node.store.clone();
        tokio::spawn(async move { store.call(Call::List { user: UserId(user) }, LIMIT).await })
    };
    let (a, b) = (ask(1), ask(2));
    let mut calls = vec![];
    while calls.len() < 2 {
        calls.push(soon(peer.until(|w| if let ToStore::Call(n, call) = w { Some((n, call)) } else { None })).await);
    }
    for (number, call) in calls.into_iter().rev() {
        let Call::List { user } = call else { panic!("{call:?}") };
        let refusal = Refusal::Other(user.to_string());
        peer.send(&ToNode::Reply(number, Reply::Refused(refusal))).await;
    }
    for (asked, user) in [(a, "1"), (b, "2")] {
        assert_eq!(soon(asked).await.expect("asks"), Reply::Refused(Refusal::Other(user.into())));
    }
}

#[tokio::test]
async fn sessions_are_complete_only_once_the_router_has_spoken() {
    let store = FakeStore::start().await;
    let node = Node::boot(store.seed(Some("t0ken")));
    joined(&store, &node).await;
    let (mut peer, _) = soon(store.let_in()).await;
    soon(peer.until(|w| matches!(w, ToStore::Heartbeat(_)).then_some(()))).await;
    let session =
        SessionReport { vm: VmId(1), user: UserId(1), state: UserState::Connected, client: "c".into(), session: 3 };
    node.board.sessions.send_modify(|s| {
        s.live.insert(3, session.clone());
        s.settled = true;
    });
    assert_eq!(soon(peer.recv()).await, ToStore::Session(session));
    assert_eq!(soon(peer.recv()).await, ToStore::ReportsComplete);
}

#[tokio::test]
async fn guests_are_complete_only_once_those_that_run_are_found() {
    let store = FakeStore::start().await;
    let node = Node::boot(store.seed(Some("t0ken")));
    node.board.sessions.send_modify(|s| s.settled = true);
    node.able.send_replace(Err("Guests are being looked for".into())).expect("was able");
    joined(&store, &node).await;
    let (mut peer, _) = soon(store.let_in()).await;
    soon(peer.until(|w| matches!(w, ToStore::Heartbeat(_)).then_some(()))).await;
    node.guests.send_modify(|g| drop(g.insert(VmId(4), guest(4))));
    node.able.send_replace(Ok(())).expect_err("was not");
    assert_eq!(soon(peer.recv()).await, ToStore::Guest(guest(4)));
    assert_eq!(soon(peer.recv()).await, ToStore::ReportsComplete);
}

#[tokio::test]
async fn a_store_of_another_cluster_gets_nothing_and_the_console_says_why() {
    let (ours, theirs) = (FakeStore::start().await, FakeStore::start().await);
    let mut seed = theirs.seed(Some("t0ken"));
    seed.ca = Some(ours.fingerprint());
    let node = Node::boot(seed);
    let refused = tokio::spawn(async move { theirs.accept().await });
    let line = soon(node.console()).await;
    assert!(line.contains(&format!("The cluster's CA is {}, but the server shows", ours.fingerprint())), "{line}");
    assert!(line.contains("Correct the seed's store.ca"), "{line}");
    assert!(!refused.is_finished(), "no handshake ended well, so no token was sent");
}

#[tokio::test]
async fn a_refused_token_is_told_on_the_console() {
    let store = FakeStore::start().await;
    let node = Node::boot(store.seed(Some("used")));
    let mut peer = soon(store.accept()).await;
    soon(peer.recv()).await;
    peer.send(&ToNode::Refused("the join token was used on 2026-11-20 by node1".into())).await;
    let line = soon(node.console()).await;
    assert!(line.contains("was used on 2026-11-20 by node1. Put a fresh token into the seed"), "{line}");
}

#[tokio::test]
async fn a_node_that_must_be_approved_shows_its_key_and_asks_again_with_the_same() {
    let store = FakeStore::start().await;
    let node = Node::boot(store.seed(None));
    let mut requests = vec![];
    for _ in 0..2 {
        let mut peer = soon(store.accept()).await;
        let ToStore::Join(request) = soon(peer.recv()).await else { panic!("Join comes first") };
        requests.push(request.csr.clone());
        let answer = if requests.len() < 2 { ToNode::JoinPending } else { ToNode::Joined(store.joined(request.csr)) };
        peer.send(&answer).await;
    }
    let line = soon(node.console()).await;
    assert!(line.contains(&node.key.fingerprint().to_string()), "{line}");
    see(&node.board.member, Option::is_some).await;
}

#[tokio::test]
async fn a_certificate_of_another_ca_or_for_another_key_is_not_kept() {
    let (store, other) = (FakeStore::start().await, FakeStore::start().await);
    let node = Node::boot(store.seed(None));
    let mut peer = soon(store.accept()).await;
    let ToStore::Join(request) = soon(peer.recv()).await else { panic!("Join comes first") };
    peer.send(&ToNode::Joined(other.joined(request.csr))).await;
    let line = soon(node.console()).await;
    assert!(line.contains("its CA is not that of this node's cluster"), "{line}");
    assert_eq!(Member::load(&node.paths).expect("reads"), None);
}

#[tokio::test]
async fn the_recovery_key_is_offered_at_each_link_until_the_store_has_it() {
    let store = FakeStore::start().await;
    let node = Node::boot(store.seed(Some("t0ken")));
    let path = node.paths.at(model::paths::RECOVERY);
    let key = "99998-99999-9999A-9999B-9999C-9999D-9999E".parse().expect("a key");
    let escrow = Escrow { volume: "v".into(), key };
    std::fs::write(&path, serde_json::to_vec(&escrow).expect("text")).expect("written");
    joined(&store, &node).await;
    let offered = |word| matches!(word, ToStore::Escrow(offered) if offered == escrow).then_some(());
    let (mut peer, _) = soon(store.let_in()).await;
    soon(peer.until(offered)).await;
    drop(peer);
    let (mut peer, _) = soon(store.let_in()).await;
    soon(peer.until(offered)).await;
    peer.send(&ToNode::Escrowed("v".into())).await;
    let text = || std::fs::read_to_string(&path).expect("there");
    soon(async {
        while !text().contains(r#""by":"#) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}
