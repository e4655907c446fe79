//! What the genuine clients count: records, tickets, versions, limits.

use crate::{
    client::{Client, connect, get},
    world::{ANN, Ca, Setup, World, vm},
};
use std::{
    io::Write,
    net::TcpStream,
    process::{Command, Stdio},
};

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

/// Runs a program of the host; none when it is not installed.
fn run(program: &str, args: &[&str], input: &str) -> Option<String> {
    let mut command = Command::new(program);
    let piped = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match piped.spawn() {
        Ok(child) => child,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: no {program} on this host");
            return None;
        }
        Err(e) => panic!("{program}: {e}"),
    };
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("ran");
    Some(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn curl_and_openssl_get_along_with_it() {
    let ca = Ca::new();
    let world = World::with(&ca, Setup::default());
    let dir = tempfile::tempdir().expect("dir");
    let pem = dir.path().join("ca.pem");
    std::fs::write(&pem, ca.pem()).expect("written");
    let pem = pem.to_str().expect("text");
    let url = |path: &str| format!("https://{}{path}", world.address);
    for version in [["--tls-max", "1.2"], ["--tls-max", "1.3"]] {
        let args = ["-sS", "--http2", version[0], version[1], "--cacert", pem, &url("/qvd/ping"), &url("/qvd/ping")];
        if let Some(output) = run("curl", &args, "") {
            assert_eq!(output, "I am alive!\r\nI am alive!\r\n", "{version:?}");
        }
    }
    let list = ["-sS", "--cacert", pem, "-u", ANN, "-w", " %{http_code} %{http_version}", &url("/qvd/list_of_vm")];
    if let Some(output) = run("curl", &list, "") {
        assert!(output.starts_with("[\n") && output.ends_with("]\n 200 1.1"), "{output}");
    }
    let address = world.address.to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let args = ["s_client", "-connect", &address, "-CAfile", pem, version, "-ign_eof"];
        if let Some(output) = run("openssl", &args, "GET /qvd/ping HTTP/1.1\nConnection: close\n\n") {
            assert!(output.contains("Verify return code: 0 (ok)") && output.contains("I am alive!"), "{output}");
            assert!(!output.contains("New Session Ticket"), "{output}");
        }
    }
}
