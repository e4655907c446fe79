//! Each answer of each endpoint.

use crate::{
    client::{connect, get},
    world::{ANN, BOB, World, vm},
};
use model::{
    UserId,
    key::Config,
    local::{ToNoded, ToRouter},
    state::HostState,
    sync::Counters,
};

#[test]
fn a_client_of_qvd_puts_the_one_time_code_behind_the_password_and_may_say_it_on_its_next_connection() {
    let world = World::new();
    let needed = world.get("/qvd/list_of_vm", "eve:apple");
    assert!(needed.status == 401 && needed.body.contains("put it behind the password"), "{needed:?}");
    assert_eq!(world.get("/qvd/list_of_vm", "eve:apple123456").status, 200);
    let answer = world.client().ask(connect(vm::RUNNING, "eve:apple123456"));
    assert_eq!(answer.status, 101, "the C client connects anew: {answer:?}");
    let wrong = world.get("/qvd/list_of_vm", "eve:apple111111");
    assert!(wrong.status == 401 && wrong.body.contains("was used before"), "{wrong:?}");
    world.fake.say(ToRouter::EndLogins(UserId(1)));
    world.until("/qvd/list_of_vm", "eve:apple123456", 401, "was used before");
}

#[track_caller]
fn check(world: &World, path: &str, login: &str, status: u16, body: &str) {
    let answer = world.get(path, login);
    assert_eq!(answer.status, status, "{path}: {answer:?}");
    assert!(answer.body.contains(body), "{path}: {answer:?}");
}

#[test]
fn each_endpoint_answers_what_qvd_promises() {
    let world = World::new();
    check(&world, "/qvd/ping", "", 200, "I am alive!\r\n");
    check(&world, "/", "", 200, "QVD client");
    check(&world, "/qvd/ping/", "", 404, "404 Not Found");
    check(&world, "/qvd/nothing", ANN, 404, "404 Not Found");
    check(&world, "/qvd/list_of_vm?file_name=", BOB, 200, "\"id\": 4,");
    check(&world, "/qvd/list_of_vm", "", 401, "401 Unauthorized");
    check(&world, "/qvd/list_of_vm", "ann:wrong", 401, "401 Unauthorized");
    check(&world, "/qvd/list_of_vm", "ann:slow down", 401, "wait 30 s");
    check(&world, "/qvd/stop_vm", "", 401, "");
    check(&world, "/qvd/stop_vm", ANN, 422, "parameter id is missing");
    check(&world, "/qvd/stop_vm?id=99", ANN, 404, "does not exist");
    check(&world, "/qvd/stop_vm?id=4", ANN, 403, "You are not allowed to access requested virtual machine");
    check(&world, "/qvd/stop_vm?id=6", ANN, 503, "unstoppable state (zombie)");
    check(&world, "/qvd/connect_to_vm?id=1", "", 401, "");
    check(&world, "/qvd/connect_to_vm?id=1", ANN, 426, "QVD/1.0");
    let refused = world.get("/qvd/list_of_vm", "ann:wrong");
    assert!(refused.head.contains("\r\nWWW-Authenticate: Basic realm=\"QVD\"\r\n"), "{refused:?}");
    let ping = world.client().ask("GET /qvd/ping HTTP/1.1\n\n");
    assert_eq!(ping.body.len(), 13);
    let post = world.client().ask("POST /qvd/ping HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(post.status, 404);
}

#[test]
fn connect_is_refused_with_the_right_status() {
    let world = World::new();
    for (id, status, body) in [
        (vm::NOWHERE, 404, "The requested virtual machine does not exist"),
        (vm::BLOCKED, 403, "The requested virtual machine is offline for maintenance"),
        (vm::BOBS, 403, "You are not allowed to access requested virtual machine"),
        (vm::FAILING, 503, "The requested virtual machine is not available: the image is broken, retry later"),
    ] {
        let answer = world.client().ask(connect(id, ANN));
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{answer:?}");
    }
    let head = connect(vm::RUNNING, ANN);
    let bad = world.client().ask(head.replace("id=1", "id=1&qvd.vm.user.name=root"));
    assert_eq!((bad.status, bad.body.as_str()), (403, "Invalid parameters qvd.vm.user.name"));
    let missing = world.client().ask(head.replace("id=1&", ""));
    assert_eq!((missing.status, missing.body.as_str()), (422, "parameter id is missing"));
}

#[test]
fn a_vm_that_never_runs_is_given_up_and_released() {
    let world = World::new();
    world.fake.configure(|c| drop(c.config.0.insert("internal.l7r.timeout.vm_start".to_owned(), "0.2".to_owned())));
    world.until("/qvd/ping", "", 200, "");
    let answer = world.client().ask(connect(vm::HANGING, ANN));
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("did not reach state 'running' within"), "{answer:?}");
    world.fake.wait("released", |state| state.sessions.is_empty().then_some(()));
}

#[test]
fn the_nodes_state_is_told_in_qvds_order() {
    let world = World::new();
    world.fake.configure(|c| c.state = HostState::Stopping);
    world.until("/qvd/ping", "", 503, "Server is stopping");
    check(&world, "/qvd/list_of_vm", ANN, 503, "Server is stopping");
    check(&world, "/qvd/list_of_vm", "ann:wrong", 401, "");
    check(&world, "/qvd/connect_to_vm", ANN, 426, "");
    world.fake.configure(|c| c.blocked = true);
    world.until("/qvd/ping", "", 503, "Server is blocked");
    for path in ["list_of_vm", "connect_to_vm", "stop_vm"] {
        check(&world, &format!("/qvd/{path}"), ANN, 503, "Server is blocked");
        check(&world, &format!("/qvd/{path}"), "ann:wrong", 401, "");
    }
    world.fake.configure(|c| c.host = None);
    world.until("/qvd/ping", "", 503, "Host is not registered in the database");
    check(&world, "/qvd/list_of_vm", "", 503, "Host is not registered in the database");
}

#[test]
fn a_machine_is_stopped_with_word_of_it() {
    let world = World::new();
    let answer = world.get("/qvd/stop_vm?id=1", ANN);
    assert_eq!((answer.status, answer.body.as_str()), (200, "Machine stopped\r\n"));
    assert_eq!(answer.progress, ["Stopping virtual machine", "Waiting for VM to reach state 'stopped'"]);
    let again = world.get("/qvd/stop_vm?id=1", ANN);
    assert_eq!((again.status, again.progress.len()), (200, 0), "already stopped: at once");
    let blocked = world.get("/qvd/stop_vm?id=3", ANN);
    assert_eq!(blocked.status, 200, "maintenance does not hinder a stop");
}

#[test]
fn one_connection_serves_many_requests_and_asks_for_the_login_once() {
    let world = World::new();
    let mut client = world.client();
    for _ in 0..3 {
        assert_eq!(client.ask(get("/qvd/list_of_vm", ANN)).status, 200);
    }
    assert_eq!(client.ask(get("/qvd/list_of_vm", "ann:wrong")).status, 401, "other credentials are checked");
    assert_eq!(client.ask(get("/qvd/list_of_vm", ANN)).status, 200);
    let expect = Counters { http_requests: 5, auth_attempts: 2, auth_ok: 1, ..Counters::default() };
    let sum = |state: &crate::fake::State| {
        let mut sum = Counters::default();
        for word in &state.heard {
            if let ToNoded::Counters(c) = word {
                sum.http_requests += c.http_requests;
                sum.auth_attempts += c.auth_attempts;
                sum.auth_ok += c.auth_ok;
            }
        }
        sum
    };
    world.fake.wait("counted", |state| (sum(state) == expect).then_some(()));
}

#[test]
fn the_port_follows_the_configuration_and_a_bad_one_is_reported() {
    let world = World::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let taken = free.local_addr().expect("address").port().to_string();
    let port = |port: &str| {
        let port = port.to_owned();
        move |c: &mut model::local::RouterConfig| {
            c.config = Config(c.config.0.clone().into_iter().chain([("l7r.port".to_owned(), port)]).collect())
        }
    };
    world.fake.configure(port(&taken));
    let reason = world.fake.wait("reported", |state| {
        state.heard.iter().find_map(|word| match word {
            ToNoded::Listening(Err(reason)) => Some(reason.clone()),
            _ => None,
        })
    });
    assert!(reason.starts_with(&format!("Cannot listen on 127.0.0.1:{taken}: ")), "{reason}");
    check(&world, "/qvd/ping", "", 200, "");
    drop(free);
    world.fake.wait("moved", |state| {
        let last = state.heard.iter().rev().find(|w| matches!(w, ToNoded::Listening(_)));
        (last == Some(&ToNoded::Listening(Ok(format!("127.0.0.1:{taken}"))))).then_some(())
    });
    let moved = format!("127.0.0.1:{taken}").parse().expect("address");
    assert_eq!(crate::client::Client::connect(moved, &world.tls).ask(get("/qvd/ping", "")).status, 200);
    assert!(std::net::TcpStream::connect(world.address).is_err(), "the old port is closed");
}
