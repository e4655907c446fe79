//! Two routers: the guest is on the other node.

use crate::{
    client::connect,
    sessions::talk,
    world::{ANN, Ca, Setup, World, vm},
};
use model::{HostId, VmId};
use std::{
    io::Read,
    net::{SocketAddr, TcpListener},
};

/// Node 1, where clients come, and node 2, where the guest is.
fn two_nodes(one: &Ca, two: &Ca) -> (World, World) {
    let free = TcpListener::bind("127.0.0.2:0").expect("bound").local_addr().expect("address");
    let elsewhere = Setup { host: HostId(2), peer_listen: free, ..Setup::default() };
    let b = World::with(two, elsewhere);
    let here = SocketAddr::from(([127, 0, 0, 3], 0));
    let a = World::with(one, Setup { peer_listen: here, peer_port: free.port(), ..Setup::default() });
    a.fake.state().vms.get_mut(&VmId(vm::ELSEWHERE)).expect("there").address = [127, 0, 0, 2].into();
    (a, b)
}

#[test]
fn a_guest_of_another_node_is_reached_through_its_router() {
    let ca = Ca::new();
    let (a, b) = two_nodes(&ca, &ca);
    b.fake.state().busy = 1;
    let mut client = a.client();
    let answer = client.ask(format!("{}ahead", connect(vm::ELSEWHERE, ANN)));
    assert_eq!(answer.status, 101, "{answer:?}");
    let mut guest = b.fake.guest();
    let mut ahead = [0; 5];
    guest.read_exact(&mut ahead).expect("heard");
    talk(&mut client, &mut guest, "from afar");
    assert!(b.fake.state().sessions.is_empty(), "the session is the first router's");
    assert_eq!(a.fake.state().sessions.len(), 1);
    client.end_sending();
    guest.read_to_end(&mut Vec::new()).expect("the guest sees the end");
    drop(guest);
    assert_eq!(client.record(), None);
    a.fake.wait("disconnected", |state| state.sessions.is_empty().then_some(()));
}

#[test]
fn the_end_of_one_router_is_seen_at_the_other() {
    let ca = Ca::new();
    let (mut a, b) = two_nodes(&ca, &ca);
    let mut client = a.client();
    assert_eq!(client.ask(connect(vm::ELSEWHERE, ANN)).status, 101);
    let mut guest = b.fake.guest();
    let ended = a.stop();
    a.runtime.block_on(ended).expect("ended");
    guest.read_to_end(&mut Vec::new()).expect("the guest sees the end");
    assert_eq!(client.record(), None);
}

#[test]
fn a_node_of_another_cluster_gets_no_session() {
    let (a, b) = two_nodes(&Ca::new(), &Ca::new());
    let mut client = a.client();
    client.send(connect(vm::ELSEWHERE, ANN));
    a.fake.wait("acquired", |state| (!state.sessions.is_empty()).then_some(()));
    // It keeps trying, since a router may be restarting; the client's patience ends it.
    drop(client);
    a.fake.wait("released", |state| state.sessions.is_empty().then_some(()));
    assert!(b.fake.state().opened.is_empty());
}
