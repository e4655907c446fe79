//! Many clients at once, most of them idle or hostile, against the router as a program of its own, whose
//! memory and descriptors can be read from outside.

use crate::{
    client::Client,
    fake::Vm,
    visitor::{Visitor, log_in},
    world::{Ca, Setup, World, vm},
};
use model::VmId;
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

/// Connections that are idle: after TLS, and as browsers with an open desktop.
const IDLE: usize = 4_800;
const BROWSERS: u32 = 200;
/// Most that one of them may cost; the bar of an idle browser session is 64 KiB.
const COST_KIB: u64 = 40;
/// Descriptors that this process needs for its own ends.
const DESCRIPTORS: u64 = 12_000;

/// Raises this process's limit, whose usual value is 1,024.
fn many_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum.map_or(Some(DESCRIPTORS), |most| Some(most.min(DESCRIPTORS)));
    setrlimit(Resource::Nofile, limit).expect("set");
    let most = limit.current.unwrap_or(DESCRIPTORS);
    assert!(most >= DESCRIPTORS, "this test opens {DESCRIPTORS} descriptors, and the limit is {most} (ulimit -Hn)");
}

fn program() -> World {
    World::with(&Ca::new(), Setup { program: true, ..Setup::default() })
}

/// A healthy user logs in, sees the cards, opens a desktop and works.
#[track_caller]
fn a_user_works(world: &World) {
    let bob = log_in(world, "bob", "hunter2");
    assert_eq!(bob.get(world, "/web/desktops").status, 200);
    let (mut socket, mut guest) = bob.desktop(world, vm::BOBS);
    socket.send(2, b"unharmed");
    let mut heard = [0; 8];
    guest.read_exact(&mut heard).expect("heard");
    assert_eq!(&heard, b"unharmed");
}

/// Desktops of Ann's, as many as wished.
fn desktops(world: &World, count: u32) {
    let mut state = world.fake.state();
    let usual = state.vms[&VmId(vm::RUNNING)].clone();
    for id in 0..count {
        state.vms.insert(VmId(1000 + id), Vm { name: "many", ..usual.clone() });
    }
}

/// Connects `count` clients, several at a time.
fn idle(world: &World, count: usize) -> Vec<Client> {
    let (address, tls) = (world.address, &world.tls);
    let connect = || (0..count / 4).map(|_| Client::connect(address, tls)).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(connect)).collect();
        all.into_iter().flat_map(|thread| thread.join().expect("connected")).collect()
    })
}

#[track_caller]
fn cheap(world: &World, before: u64, count: u64, what: &str) {
    let grown = world.rss_kib().saturating_sub(before);
    println!("{count} {what} cost {grown} KiB, {:.1} KiB each", grown as f64 / count as f64);
    assert!(grown <= COST_KIB * count, "{grown} KiB for {count} {what}");
}

#[test]
fn five_thousand_idle_connections_cost_little_and_a_healthy_user_is_unaffected() {
    many_descriptors();
    let world = program();
    desktops(&world, BROWSERS);
    a_user_works(&world);
    let (before, at_rest) = (world.rss_kib(), world.descriptors());
    let ann = log_in(&world, "ann", "secret");
    let browsers: Vec<_> = (0..BROWSERS).map(|id| ann.desktop(&world, 1000 + id)).collect();
    cheap(&world, before, BROWSERS.into(), "open desktops");
    let between = world.rss_kib();
    let clients = idle(&world, IDLE);
    cheap(&world, between, IDLE as u64, "idle connections");
    let began = Instant::now();
    a_user_works(&world);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop((clients, browsers));
    world.until_quiet(at_rest);
    a_user_works(&world);
    world.no_fault();
}

#[test]
fn clients_that_stop_in_the_middle_of_anything_harm_nobody_and_leave_nothing() {
    let world = program();
    a_user_works(&world);
    let at_rest = world.descriptors();
    let ann = log_in(&world, "ann", "secret");
    let mut stopped: Vec<Client> = Vec::new();
    let mut stop = |bytes: &[u8]| {
        let mut client = world.client();
        client.send(bytes);
        stopped.push(client);
    };
    for _ in 0..50 {
        let ticket = ann.ticket(&world, vm::RUNNING);
        let upgrade = ann.upgrade(&world, &ticket);
        stop(&upgrade.as_bytes()[..upgrade.len() / 2]);
        stop(format!("POST /web/login HTTP/1.1\r\nHost: {0}\r\nOrigin: https://{0}\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{{", world.address).as_bytes());
        stop(b"GET / HTTP/1.1\r\nX: ");
        stop(b"");
    }
    // Half a handshake, and none.
    let raw: Vec<_> = (0..50).map(|n| half_a_handshake(&world, n)).collect();
    let half_open: Vec<_> = (0..5).map(|_| half_open(&world, &ann)).collect();
    a_user_works(&world);
    drop((stopped, raw, half_open));
    world.until_quiet(at_rest);
    world.no_fault();
}

fn half_a_handshake(world: &World, number: u8) -> TcpStream {
    let mut stream = TcpStream::connect(world.address).expect("connected");
    stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1][..usize::from(number % 9)]).expect("sent");
    stream
}

/// An upgrade of which nothing is read, with the beginning of a frame behind it.
fn half_open(world: &World, visitor: &Visitor) -> Client {
    let mut client = world.client();
    client.send(visitor.upgrade(world, &visitor.ticket(world, vm::HANGING)));
    assert_eq!(client.answer().status, 101);
    client.send([0x82, 0xfe, 0x70]);
    client
}

#[test]
fn one_address_cannot_take_all_the_room() {
    let world = World::new();
    // The room of this world is 100 connections, of which one address may have 75.
    let all: Vec<_> = (0..100).map(|_| TcpStream::connect(world.address).expect("the kernel takes it")).collect();
    let ended = || all.iter().filter(|stream| is_ended(stream)).count();
    let began = Instant::now();
    while ended() < 25 {
        assert!(began.elapsed() < Duration::from_secs(8), "only {} are refused", ended());
    }
    assert_eq!(ended(), 25);
    let mut other = Client::from_address([127, 0, 0, 9], &world);
    assert_eq!(other.ask("GET /qvd/ping HTTP/1.1\r\n\r\n").status, 200);
    drop(all);
    let began = Instant::now();
    while is_refused(&world) {
        assert!(began.elapsed() < Duration::from_secs(20), "its places are not given back");
    }
}

/// Whether a connection is closed at once, which the router does before it looks at a byte.
fn is_refused(world: &World) -> bool {
    let mut probe = TcpStream::connect(world.address).expect("the kernel takes it");
    probe.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
    !matches!(probe.read(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
}

/// Whether the router has closed it, which it does at once or not for some seconds.
fn is_ended(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("set");
    !matches!(stream.read(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
}
