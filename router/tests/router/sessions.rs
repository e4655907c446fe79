//! From connect to the last byte.

use crate::{
    client::{Answer, Client, connect, get},
    world::{ANN, World, vm},
};
use model::{
    VmId,
    local::{SessionKind, ToNoded, ToRouter},
    state::UserState,
};
use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

/// Connects a new client to a VM; its 101 has arrived.
pub fn session(world: &World, vm: u32) -> (Client, UnixStream, Answer) {
    let mut client = world.client();
    let answer = client.ask(connect(vm, ANN));
    assert_eq!(answer.status, 101, "{answer:?}");
    (client, world.fake.guest(), answer)
}

/// Both ends hear each other.
#[track_caller]
pub fn talk(client: &mut Client, guest: &mut UnixStream, word: &str) {
    client.send(word);
    let mut heard = vec![0; word.len()];
    guest.read_exact(&mut heard).expect("the guest hears");
    assert_eq!(heard, word.as_bytes());
    guest.write_all(word.to_uppercase().as_bytes()).expect("the guest speaks");
    assert_eq!(client.bytes(word.len()), word.to_uppercase().as_bytes());
}

fn numbered(len: u32) -> Vec<u8> {
    (0..len / 4).flat_map(u32::to_be_bytes).collect()
}

#[test]
fn a_running_vm_is_connected_with_few_records_and_a_slave_key() {
    let world = World::new();
    let (mut client, mut guest, answer) = session(&world, vm::RUNNING);
    assert_eq!(
        answer.progress,
        [
            "Session acquired for VM_ID: 1",
            "Starting X session at VM 1",
            "Waiting for X session to come up on VM 1",
            "Connecting X session for VM_ID: 1",
            "Connection established"
        ]
    );
    assert_eq!(answer.records.len(), 2, "{answer:?}");
    let (status, key) = answer.head.split_once("\r\nX-QVD-Slave-Key: ").expect("the one header");
    assert_eq!(status, "HTTP/1.1 101 Switching Protocols");
    assert!(key.len() == 64 && key.bytes().all(|b| b.is_ascii_alphanumeric()), "{key}");
    let open = world.fake.state().opened[0].clone();
    assert_eq!(open.kind, SessionKind::Nx);
    let params = [("qvd.client.keyboard", "pc/105"), ("qvd.client.os", "linux"), ("qvd.slave.key", key)];
    assert_eq!(open.params, params.map(|(k, v)| (k.to_owned(), v.to_owned())));
    talk(&mut client, &mut guest, "nxproxy");
}

#[test]
fn a_stopped_vm_is_started_with_word_of_it() {
    let world = World::new();
    let (mut client, mut guest, answer) = session(&world, vm::STOPPED);
    assert_eq!(
        answer.progress[..4],
        [
            "Session acquired for VM_ID: 2",
            "Assigning VM 2 to host",
            "Starting virtual machine",
            "Waiting for VM to reach state 'running'"
        ]
    );
    assert!(answer.records.len() <= 8, "{answer:?}");
    talk(&mut client, &mut guest, "nxproxy");
}

#[test]
fn bytes_behind_the_request_reach_the_guest() {
    let world = World::new();
    let mut client = world.client();
    let answer = client.ask(format!("{}NXPROXY-3.5.0", connect(vm::RUNNING, ANN)));
    assert_eq!(answer.status, 101);
    let mut heard = [0; 13];
    world.fake.guest().read_exact(&mut heard).expect("heard");
    assert_eq!(&heard, b"NXPROXY-3.5.0");
}

#[test]
fn list_and_connect_may_share_a_connection() {
    let world = World::new();
    let mut client = world.client();
    assert_eq!(client.ask(get("/qvd/list_of_vm", ANN)).status, 200);
    assert_eq!(client.ask(connect(vm::NOWHERE, ANN)).status, 404);
    assert_eq!(client.ask(connect(vm::RUNNING, ANN)).status, 101);
    talk(&mut client, &mut world.fake.guest(), "hello");
}

#[test]
fn numbered_bytes_pass_both_ways_and_each_end_is_passed_on() {
    let world = World::new();
    let (mut client, mut guest, _) = session(&world, vm::RUNNING);
    let (up, down) = (numbered(4 << 20), numbered(2 << 20));
    let (up_sent, down_sent) = (up.clone(), down.clone());
    let mut to_client = guest.try_clone().expect("cloned");
    let at_guest = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        guest.read_to_end(&mut bytes).expect("the end of the client's side");
        bytes
    });
    client.send(&up_sent);
    client.end_sending();
    assert!(at_guest.join().expect("read") == up, "the client's side ended, and nothing was lost");
    let writer = std::thread::spawn(move || {
        to_client.write_all(&down_sent).expect("the other side goes on");
        to_client.shutdown(Shutdown::Write).expect("and ends");
    });
    let mut at_client = Vec::new();
    while let Some(bytes) = client.record() {
        at_client.extend(bytes);
    }
    writer.join().expect("written");
    assert!(at_client == down);
    world.fake.wait("disconnected", |state| state.sessions.is_empty().then_some(()));
}

#[test]
fn a_client_that_vanishes_ends_the_session_for_the_guest() {
    let world = World::new();
    let (client, mut guest, _) = session(&world, vm::RUNNING);
    drop(client);
    let mut rest = Vec::new();
    guest.read_to_end(&mut rest).expect("the guest sees the end");
}

#[test]
fn states_are_reported_in_order_and_counted() {
    let world = World::new();
    let (client, guest, _) = session(&world, vm::RUNNING);
    drop((client, guest));
    let states = world.fake.wait("three reports", |state| {
        let reports = state.heard.iter().filter_map(|word| match word {
            ToNoded::Session(report) => Some((report.vm, report.state, report.client.clone())),
            _ => None,
        });
        let reports: Vec<_> = reports.collect();
        (reports.len() == 3).then_some(reports)
    });
    let expect = [UserState::Connecting, UserState::Connected, UserState::Disconnected];
    assert_eq!(states, expect.map(|state| (VmId(1), state, "127.0.0.1".to_owned())));
    let counted = world.fake.wait("counted", |state| {
        let counts = state.heard.iter().filter_map(|word| match word {
            ToNoded::Counters(c) => Some((c.nx_attempts, c.nx_ok, c.short_sessions)),
            _ => None,
        });
        let sum = counts.fold((0, 0, 0), |a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2));
        (sum.2 > 0).then_some(sum)
    });
    assert_eq!(counted, (1, 1, 1));
}

#[test]
fn a_busy_guest_is_asked_again() {
    let world = World::new();
    world.fake.state().busy = 1;
    let (mut client, mut guest, _) = session(&world, vm::RUNNING);
    talk(&mut client, &mut guest, "at last");
}

#[test]
fn a_second_client_takes_over() {
    let world = World::new();
    let (mut first, mut first_guest, _) = session(&world, vm::RUNNING);
    talk(&mut first, &mut first_guest, "mine");
    let (mut second, mut second_guest, answer) = session(&world, vm::RUNNING);
    assert_eq!(answer.progress[0], "Aborting contending session for VM_ID: 1");
    assert_eq!(first.record(), None, "the first one has ended");
    talk(&mut second, &mut second_guest, "mine now");
}

#[test]
fn an_abort_ends_a_session_within_a_second() {
    let world = World::new();
    let (mut client, mut guest, _) = session(&world, vm::RUNNING);
    let began = Instant::now();
    world.fake.say(ToRouter::Abort { vm: VmId(vm::RUNNING), session: None, reason: "by order".to_owned() });
    assert_eq!(client.record(), None);
    guest.read_to_end(&mut Vec::new()).expect("the guest sees the end");
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[test]
fn an_abort_while_waiting_is_told_with_its_reason() {
    let world = World::new();
    let mut client = world.client();
    client.send(connect(vm::HANGING, ANN));
    world.fake.wait("acquired", |state| (!state.sessions.is_empty()).then_some(()));
    world.fake.say(ToRouter::Abort { vm: VmId(vm::HANGING), session: None, reason: "by order".to_owned() });
    let answer = client.answer();
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("by order"), "{answer:?}");
}

#[test]
fn a_client_that_leaves_while_waiting_lets_go_of_the_vm() {
    let world = World::new();
    let mut client = world.client();
    client.send(connect(vm::HANGING, ANN));
    world.fake.wait("acquired", |state| (!state.sessions.is_empty()).then_some(()));
    drop(client);
    world.fake.wait("released", |state| state.sessions.is_empty().then_some(()));
}

#[test]
fn a_vm_given_to_a_client_that_left_is_given_back() {
    let world = World::new();
    let (_first, _guest, _) = session(&world, vm::RUNNING);
    // The second one leaves before the store has answered it.
    world.fake.state().slow_takeover = true;
    let mut second = world.client();
    second.send(connect(vm::RUNNING, ANN));
    let newcomer = world.fake.wait("asked", |state| state.acquiring);
    drop(second);
    world.fake.state().slow_takeover = false;
    world.fake.wait("given back", |state| {
        let given_back = |word: &ToNoded| match word {
            ToNoded::Session(r) => r.session == newcomer && r.state == UserState::Disconnected,
            _ => false,
        };
        state.heard.iter().any(given_back).then_some(())
    });
}

#[test]
fn at_the_end_idle_clients_go_at_once_and_sessions_when_time_is_over() {
    let mut world = World::new();
    let mut idle = world.client();
    assert_eq!(idle.ask(get("/qvd/ping", "")).status, 200);
    let (mut client, mut guest, _) = session(&world, vm::RUNNING);
    let began = Instant::now();
    let router = world.stop();
    assert_eq!(idle.record(), None);
    talk(&mut client, &mut guest, "still here");
    assert_eq!(client.record(), None);
    assert!(began.elapsed() >= world.drain);
    world.runtime.block_on(router).expect("the router ended");
    assert!(std::net::TcpStream::connect(world.address).is_err());
}
