//! What the genuine clients count: records, tickets, versions, limits.

use crate::{
    client::{Client, connect, get},
    world::{ANN, Ca, Setup, World, vm},
};
use std::{io::Write, net::TcpStream};

#[test]
fn both_tls_versions_work_without_tickets_and_h2_is_never_chosen() {
    let ca = Ca::new();
    let world = World::with(&ca, Setup::default());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let tls = ca.client(version, &[b"h2", b"http/1.1"]);
        for _ in 0..2 {
            let mut client = Client::connect(world.address, &tls);
            assert_eq!(client.alpn(), Some(&b"http/1.1"[..]));
            let ping = client.ask(get("/qvd/ping", ""));
            assert_eq!(ping.records.len(), 2, "the first record after the handshake is the answer: {ping:?}");
        }
    }
    let mut plain = Client::connect(world.address, &ca.client(&rustls::version::TLS12, &[]));
    assert_eq!(plain.alpn(), None);
    assert_eq!(plain.ask(get("/qvd/ping", "")).status, 200);
}

#[test]
fn every_answer_is_a_record_of_head_and_one_of_body() {
    let world = World::new();
    for request in [
        connect(vm::NOWHERE, ANN),
        connect(vm::FAILING, ANN),
        connect(vm::RUNNING, "ann:wrong"),
        get("/qvd/connect_to_vm?id=1", ANN),
        get("/qvd/list_of_vm", ANN),
        "GET / HTTP/1.0\n\n".to_owned(),
    ] {
        let answer = world.client().ask(request);
        let [.., head, body] = answer.records.as_slice() else { panic!("{answer:?}") };
        assert!(head.ends_with("\r\n\r\n") && head.starts_with("HTTP/1.1 ") && *body == answer.body, "{answer:?}");
    }
}

#[track_caller]
fn last_words(world: &World, request: impl AsRef<[u8]>, status: u16) {
    let mut client = world.client();
    let answer = client.ask(request);
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.head.contains("\r\nConnection: close"), "{answer:?}");
    assert_eq!(client.record(), None, "and the connection ends");
}

#[test]
fn what_is_no_request_gets_an_answer_and_the_end() {
    let world = World::new();
    last_words(&world, "GET / HTTP/1.0\r\n\r\n", 505);
    last_words(&world, "GET / HTTP/2.0\n\n", 505);
    last_words(&world, "nonsense\n\n", 400);
    last_words(&world, b"GET / HTTP/1.1\r\n\xff: x\r\n\r\n", 400);
    last_words(&world, format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(20_000)), 431);
    last_words(&world, format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101)), 431);
    last_words(&world, "GET /qvd/ping HTTP/1.1\r\nContent-Length: 40\r\n\r\n", 200);
    last_words(&world, "GET /qvd/ping HTTP/1.1\r\nConnection: Close\r\n\r\n", 200);
}

#[test]
fn requests_in_one_write_are_answered_in_turn() {
    let world = World::new();
    let mut client = world.client();
    client.send("\r\n\nGET /qvd/ping HTTP/1.1\n\nGET /nothing HTTP/1.1\r\n\r\n");
    let mut seen = String::new();
    for _ in 0..4 {
        seen += &String::from_utf8(client.record().expect("a record")).expect("text");
    }
    assert!(seen.starts_with("HTTP/1.1 200 OK") && seen.contains("alive!\r\nHTTP/1.1 404 Not Found"), "{seen}");
}

#[test]
fn a_connection_that_speaks_no_tls_hurts_nobody() {
    let world = World::new();
    let mut stranger = TcpStream::connect(world.address).expect("connected");
    stranger.write_all(b"GET /qvd/ping HTTP/1.1\r\n\r\n").expect("written");
    let _silent = TcpStream::connect(world.address).expect("connected");
    assert_eq!(world.get("/qvd/ping", "").status, 200);
}
