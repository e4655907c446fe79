//! `noded` or the store being away.

use crate::{
    client::{connect, get},
    sessions::{session, talk},
    world::{ANN, BOB, World, listening, vm},
};
use model::{
    VmId,
    local::{ToNoded, ToRouter},
    state::{UserState, VmState},
};

#[test]
fn a_session_outlives_noded_and_the_next_one_hears_of_it() {
    let mut world = World::new();
    let (mut client, mut guest, _) = session(&world, vm::RUNNING);
    for round in 0..3 {
        world.fake.kill();
        talk(&mut client, &mut guest, &format!("round {round}"));
        world.fake.revive();
        let sessions = world.fake.wait("hello", |state| {
            state.heard.iter().find_map(|word| match word {
                ToNoded::Hello { sessions } => Some(sessions.clone()),
                _ => None,
            })
        });
        assert_eq!(sessions.len(), 1);
        assert_eq!((sessions[0].vm, sessions[0].state), (VmId(vm::RUNNING), UserState::Connected));
        assert_eq!(listening(&world.fake), world.address, "the next one hears where the router listens");
        talk(&mut client, &mut guest, "and on");
    }
    world.fake.say(ToRouter::Abort { vm: VmId(vm::RUNNING), session: None, reason: "by order".to_owned() });
    assert_eq!(client.record(), None, "the new one can end it");
}

#[test]
fn a_question_asked_while_noded_restarts_is_answered() {
    let mut world = World::new();
    let mut client = world.client();
    assert_eq!(client.ask(get("/qvd/list_of_vm", ANN)).status, 200);
    client.send(connect(vm::HANGING, ANN));
    world.fake.wait("acquired", |state| (!state.sessions.is_empty()).then_some(()));
    world.fake.kill();
    world.fake.state().vms.get_mut(&VmId(vm::HANGING)).expect("there").state = VmState::Running;
    world.fake.revive();
    let answer = client.answer();
    assert_eq!(answer.status, 101, "{answer:?}");
    talk(&mut client, &mut world.fake.guest(), "awake");
}

/// Ann used her VM once; now the store is away.
fn store_away() -> World {
    let world = World::new();
    assert_eq!(world.get("/qvd/list_of_vm", ANN).status, 200);
    drop(session(&world, vm::RUNNING));
    world.fake.say(ToRouter::Guests(vec![(VmId(vm::RUNNING), VmState::Running)]));
    world.fake.configure(|c| c.store_online = false);
    world.until("/qvd/list_of_vm", BOB, 503, "The cluster's store cannot be reached");
    world
}

#[test]
fn a_known_user_lists_and_reconnects_without_the_store() {
    let world = store_away();
    let list = world.get("/qvd/list_of_vm", ANN);
    assert_eq!(list.status, 200, "{list:?}");
    assert!(list.body.contains("\"name\": \"run\""), "{list:?}");
    let (mut client, mut guest, _) = session(&world, vm::RUNNING);
    talk(&mut client, &mut guest, "offline");
    let (mut second, mut second_guest, answer) = session(&world, vm::RUNNING);
    assert_eq!(answer.progress[0], "Aborting contending session for VM_ID: 1");
    assert_eq!(client.record(), None, "one session at a time, without the store too");
    talk(&mut second, &mut second_guest, "offline too");
}

#[test]
fn a_vm_that_was_last_seen_blocked_stays_so_without_the_store() {
    let world = store_away();
    world.fake.configure(|c| c.store_online = true);
    world.until("/qvd/list_of_vm", BOB, 200, "");
    world.fake.state().vms.get_mut(&VmId(vm::RUNNING)).expect("there").blocked = true;
    assert_eq!(world.get("/qvd/list_of_vm", ANN).status, 200);
    world.fake.configure(|c| c.store_online = false);
    world.until("/qvd/list_of_vm", "bob:wrong", 503, "The cluster's store cannot be reached");
    assert_eq!(world.client().ask(connect(vm::RUNNING, ANN)).status, 403);
}

#[test]
fn without_the_store_nothing_more_is_allowed_than_was_granted() {
    let world = store_away();
    assert_eq!(world.get("/qvd/list_of_vm", "ann:wrong").status, 503);
    for vm in [vm::STOPPED, vm::BOBS, vm::NOWHERE] {
        let answer = world.client().ask(connect(vm, ANN));
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.body.contains("The cluster's store cannot be reached"), "{answer:?}");
    }
    world.fake.say(ToRouter::Guests(vec![(VmId(vm::RUNNING), VmState::Stopped)]));
    world.fake.configure(|c| c.blocked = true);
    world.until("/qvd/ping", "", 503, "blocked");
    world.fake.configure(|c| c.blocked = false);
    world.until("/qvd/ping", "", 200, "");
    assert_eq!(world.client().ask(connect(vm::RUNNING, ANN)).status, 503, "it runs here no more");
}
