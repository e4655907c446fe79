//! Pages, logins and WebSockets as hostile clients see them.

use crate::{
    visitor::{Socket, log_in, login_request, masked, origin, post},
    world::{Setup, World, vm},
};
use model::{
    UserId, VmId,
    local::{SessionKind, ToRouter},
    state::VmState,
};
use serde_json::Value;
use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

#[test]
fn a_desktop_in_a_browser_carries_bytes_both_ways() {
    let world = World::new();
    let ann = log_in(&world, "ann", "secret");
    let (mut socket, mut guest) = ann.desktop(&world, vm::RUNNING);
    let open = world.fake.state().opened[0].clone();
    assert_eq!(open.kind, SessionKind::Vnc);
    let params: Vec<_> = open.params.iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(
        params,
        ["qvd.client.os=browser", "qvd.client.link=lan", "qvd.client.geometry=800x600", "qvd.client.keyboard=pc105/es"]
    );
    guest.write_all(b"RFB 003.008\n").expect("the server speaks first");
    let hello = std::iter::from_fn(|| socket.frame()).find(|(opcode, _)| *opcode == 2).expect("bytes");
    assert_eq!(hello.1, b"RFB 003.008\n");
    socket.client.send(masked(0x02, b"RFB 0"));
    socket.client.send(masked(0x89, b"between"));
    socket.client.send(masked(0x80, b"03.008\n"));
    let mut heard = [0; 12];
    guest.read_exact(&mut heard).expect("heard");
    assert_eq!(&heard, b"RFB 003.008\n");
    let pong = std::iter::from_fn(|| socket.frame()).find(|(opcode, _)| *opcode == 10).expect("a pong");
    assert_eq!(pong.1, b"between");
    drop(guest);
    assert_eq!(socket.close_code(), 1000);
    world.fake.wait("disconnected", |state| state.sessions.is_empty().then_some(()));
}

#[test]
fn a_page_is_small_strict_and_kept_by_the_browser() {
    let world = World::new();
    let page = world.client().ask("GET / HTTP/1.1\r\nHost: x\r\nAccept-Language: es\r\n\r\n");
    assert!(
        page.status == 200 && page.body.contains("lang=\"es\"") && page.body.contains("Iniciar sesión"),
        "{page:?}"
    );
    for header in
        ["Content-Security-Policy: default-src 'none'; script-src 'self'", "Strict-Transport-Security", "nosniff"]
    {
        assert!(page.head.contains(header), "{page:?}");
    }
    let tag = page.head.lines().find_map(|l| l.strip_prefix("ETag: ")).expect("a tag");
    let again = format!("GET / HTTP/1.1\r\nHost: x\r\nAccept-Language: es\r\nIf-None-Match: {tag}\r\n\r\n");
    assert_eq!(world.client().ask(again).status, 304);
    let style = page.body.split("href=\"").find(|p| p.contains("style.css")).expect("a style").split('"').next();
    let style = world.client().ask(format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", style.expect("an address")));
    assert!(style.status == 200 && style.head.contains("immutable"), "{style:?}");
    let switch = world.client().ask("GET /web/lang?to=es HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(switch.status == 302 && switch.head.contains("lang=es"), "{switch:?}");
    assert_eq!(world.client().ask("GET /web/s/none.js HTTP/1.1\r\nHost: x\r\n\r\n").status, 404);
}

#[test]
fn a_login_is_needed_and_a_wrong_one_is_slowed_down() {
    let world = World::new();
    for path in ["/web/session", "/web/desktops", "/web/files/list?id=1"] {
        let answer = world.client().ask(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(answer.status == 401 && answer.body.contains("R103"), "{answer:?}");
        let forged = format!("GET {path} HTTP/1.1\r\nHost: x\r\nCookie: __Host-roost={}\r\n\r\n", "ab".repeat(32));
        assert_eq!(world.client().ask(forged).status, 401);
    }
    for _ in 0..5 {
        let answer = world.client().ask(login_request(&world, "ann", "wrong"));
        assert!(answer.status == 401 && answer.body.contains("R101"), "{answer:?}");
    }
    let slow = world.client().ask(login_request(&world, "ann", "secret"));
    assert!(slow.status == 429 && slow.body.contains("R102") && slow.head.contains("Retry-After: "), "{slow:?}");
    log_in(&world, "bob", "hunter2");
}

#[test]
fn a_request_that_another_site_makes_the_browser_send_is_refused() {
    let world = World::new();
    let ann = log_in(&world, "ann", "secret");
    let good = post(&world, "/web/desktops/1/stop", &ann.headers(), "{}");
    let ours = format!("Origin: https://{}", world.address);
    for forged in [
        good.replace(&ours, "Origin: https://evil.example"),
        good.replace(&ours, "Origin: null"),
        good.replace(&format!("{ours}\r\n"), ""),
        good.replace(&ann.token, &"0".repeat(64)),
        good.replace(&format!("X-Roost-Token: {}\r\n", ann.token), ""),
        good.replace(&ours, &format!("{ours}\r\nSec-Fetch-Site: cross-site")),
    ] {
        let answer = world.client().ask(&forged);
        assert!(answer.status == 403 && answer.body.contains("R104"), "{forged} {answer:?}");
    }
    assert_eq!(world.fake.state().vms[&VmId(1)].state, VmState::Running, "nothing was done");
    assert_eq!(world.client().ask(&good).status, 204);
    let login = login_request(&world, "ann", "secret").replace(&ours, "Origin: https://evil.example");
    assert_eq!(world.client().ask(login).status, 403);
}

#[test]
fn a_ticket_opens_one_socket_of_its_own_login_from_our_own_page() {
    let world = World::new();
    let (ann, bob) = (log_in(&world, "ann", "secret"), log_in(&world, "bob", "hunter2"));
    let ticket = ann.ticket(&world, vm::RUNNING);
    let evil = ann.upgrade(&world, &ticket).replace("Origin: https://", "Origin: https://evil.");
    for refused in [evil, bob.upgrade(&world, &ticket), ann.upgrade(&world, ""), ann.upgrade(&world, &"0".repeat(64))] {
        let answer = world.client().ask(refused);
        assert!(answer.status == 403 && answer.body.contains("R104"), "{answer:?}");
    }
    let mut client = world.client();
    assert_eq!(client.ask(ann.upgrade(&world, &ticket)).status, 101);
    assert_eq!(world.client().ask(ann.upgrade(&world, &ticket)).status, 403, "it was used");
    assert!(world.client().ask(ann.upgrade(&world, "").replace("websocket", "QVD/1.0")).status == 400);
}

#[test]
fn what_forbids_a_desktop_is_told_with_its_code() {
    let world = World::new();
    let ann = log_in(&world, "ann", "secret");
    for (vm, code) in [(vm::NOWHERE, "R201"), (vm::BOBS, "R202"), (vm::BLOCKED, "R203"), (vm::FAILING, "R207")] {
        let mut socket = ann.socket(&world, vm);
        let fault = std::iter::from_fn(|| socket.frame()).find(|(_, p)| String::from_utf8_lossy(p).contains("fault"));
        let text = String::from_utf8(fault.expect("a fault").1).expect("text");
        assert!(text.contains(code), "{vm}: {text}");
        assert_eq!(socket.close_code(), 4004);
    }
    world.fake.configure(|c| c.blocked = true);
    world.until("/qvd/ping", "", 503, "blocked");
    let answer = ann.post(&world, "/web/desktops/1/ticket");
    assert!(answer.status == 503 && answer.body.contains("R302"), "{answer:?}");
    let list = ann.get(&world, "/web/desktops");
    assert!(list.status == 200 && list.body.contains("R302"), "{list:?}");
}

#[test]
fn a_desktop_ends_within_a_second_when_it_is_revoked_and_the_browser_hears_why() {
    let world = World::new();
    let ann = log_in(&world, "ann", "secret");
    let (mut first, mut first_guest) = ann.desktop(&world, vm::RUNNING);
    let (mut second, second_guest) = ann.desktop(&world, vm::RUNNING);
    assert_eq!(first.close_code(), 4001, "taken over");
    first_guest.read_to_end(&mut Vec::new()).expect("the guest sees the end");
    let began = Instant::now();
    world.fake.say(ToRouter::Abort { vm: VmId(vm::RUNNING), session: None, reason: "by order".to_owned() });
    assert_eq!(second.close_code(), 4002);
    drop(second_guest);
    let (mut third, _guest) = ann.desktop(&world, vm::RUNNING);
    assert_eq!(ann.post(&world, "/web/logout").status, 204);
    assert_eq!(third.close_code(), 4003);
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(ann.get(&world, "/web/session").status, 401);
}

#[test]
fn a_page_that_takes_its_own_desktop_over_twice_is_not_told_that_somebody_else_did() {
    let world = World::new();
    let ann = log_in(&world, "ann", "secret");
    let mut first = ann.socket(&world, vm::RUNNING);
    let session = first.until_open();
    let again = || {
        let body = format!("{{\"after\":\"{session}\"}}");
        world.client().ask(post(&world, "/web/desktops/1/ticket", &ann.headers(), &body))
    };
    // The network went, and the page asks while its old connection still stands here; the new one takes that over
    // and is lost before the page hears its number.
    assert_eq!(again().status, 200);
    let (second, _guest) = ann.desktop(&world, vm::RUNNING);
    assert_eq!(first.close_code(), 4001);
    drop(second);
    assert_eq!(again().status, 200);
}

#[test]
fn a_page_that_broke_off_as_its_desktop_was_taken_does_not_take_it_back_by_itself() {
    let world = World::new();
    let ann = log_in(&world, "ann", "secret");
    let mut first = ann.socket(&world, vm::RUNNING);
    let session = first.until_open();
    let (_second, _guest) = ann.desktop(&world, vm::RUNNING);
    drop(first);
    let again = || {
        let body = format!("{{\"after\":\"{session}\"}}");
        world.client().ask(post(&world, "/web/desktops/1/ticket", &ann.headers(), &body))
    };
    let told = again();
    assert!(told.status == 409 && told.body.contains("R211"), "{told:?}");
    assert_eq!(again().status, 200, "told once: now it is the user who asks");
}

#[test]
fn logging_out_everywhere_ends_every_login_of_the_user_and_no_other() {
    let world = World::new();
    let all = [log_in(&world, "ann", "secret"), log_in(&world, "ann", "secret")];
    let bob = log_in(&world, "bob", "hunter2");
    let (mut socket, _guest) = all[1].desktop(&world, vm::RUNNING);
    let request = post(&world, "/web/logout", &all[0].headers(), "{\"everywhere\":true}");
    assert_eq!(world.client().ask(request).status, 204);
    assert_eq!(socket.close_code(), 4003);
    for ann in &all {
        assert_eq!(ann.get(&world, "/web/session").status, 401);
    }
    assert_eq!(world.fake.state().ended, [UserId(1)], "the store tells the other nodes");
    world.fake.configure(|c| c.store_online = false);
    let ann = log_in(&world, "ann", "secret");
    let told = world.client().ask(post(&world, "/web/logout", &ann.headers(), "{\"everywhere\":true}"));
    assert!(told.status == 200 && told.body.contains("onlyHere"), "{told:?}");
    assert_eq!(ann.get(&world, "/web/session").status, 401);
    assert_eq!(bob.get(&world, "/web/session").status, 200);
}

#[test]
fn the_logins_of_a_user_who_was_deleted_end_within_a_second_with_their_desktops() {
    let world = World::new();
    let (ann, bob) = (log_in(&world, "ann", "secret"), log_in(&world, "bob", "hunter2"));
    let (mut socket, _guest) = ann.desktop(&world, vm::RUNNING);
    let began = Instant::now();
    world.fake.say(ToRouter::EndLogins(UserId(1)));
    assert_eq!(socket.close_code(), 4003);
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(ann.get(&world, "/web/session").status, 401);
    assert_eq!(bob.get(&world, "/web/session").status, 200);
}

#[test]
fn an_idle_login_ends_and_refreshing_a_page_is_no_use() {
    let config = vec![("l7r.web.idle", "1")];
    let world = World::with(&crate::world::Ca::new(), Setup { config, ..Setup::default() });
    let began = Instant::now();
    let ann = log_in(&world, "ann", "secret");
    while ann.get(&world, "/web/desktops?poll").status == 200 {
        assert!(began.elapsed() < Duration::from_secs(10), "it never ends");
    }
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[test]
fn frames_that_break_the_protocol_end_only_their_own_connection() {
    let world = World::new();
    let (ann, bob) = (log_in(&world, "ann", "secret"), log_in(&world, "bob", "hunter2"));
    let (mut healthy, mut healthy_guest) = bob.desktop(&world, vm::BOBS);
    for (bytes, code) in [
        (vec![0x82, 0x01, b'x'], 1002),
        (vec![0x82, 0xff, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1009),
        (masked(0x81, b"text"), 1003),
        (masked(0x00, b"a"), 1002),
        (masked(0xf2, b"a"), 1002),
        (vec![0x89, 0xfe, 0, 126, 0, 0, 0, 0], 1002),
    ] {
        let (mut socket, _guest) = ann.desktop(&world, vm::RUNNING);
        socket.client.send(&bytes);
        assert_eq!(socket.close_code(), code, "{bytes:02x?}");
    }
    let (mut flooded, mut guest) = ann.desktop(&world, vm::RUNNING);
    for _ in 0..2000 {
        flooded.client.send(masked(0x89, &[7; 125]).repeat(10));
    }
    flooded.send(2, b"still here");
    let mut heard = [0; 10];
    guest.read_exact(&mut heard).expect("heard");
    healthy.send(2, b"unharmed");
    healthy_guest.read_exact(&mut heard[..8]).expect("heard");
    assert_eq!(&heard[..8], b"unharmed");
}

#[test]
fn a_message_in_endless_fragments_is_passed_on_as_it_comes() {
    let world = World::new();
    let ann = log_in(&world, "ann", "secret");
    let (mut socket, mut guest) = ann.desktop(&world, vm::RUNNING);
    socket.client.send(masked(0x02, b"begun"));
    for _ in 0..200 {
        // Empty fragments, of which one write holds a thousand, and a byte.
        socket.client.send([masked(0x00, b"").repeat(1000), masked(0x00, b".")].concat());
    }
    socket.client.send(masked(0x80, b"ended"));
    let mut heard = [0; 210];
    guest.read_exact(&mut heard).expect("heard");
    assert!(heard.starts_with(b"begun..") && heard.ends_with(b"..ended"));
    let mut ahead = world.client();
    let upgrade = ann.upgrade(&world, &ann.ticket(&world, vm::RUNNING));
    ahead.send([upgrade.as_bytes(), &masked(0x82, b"ahead")].concat());
    assert_eq!(ahead.answer().status, 101);
    let mut ahead = Socket::over(ahead);
    assert_eq!(ahead.close_code(), 1002, "no browser speaks before it has the answer");
}

#[test]
fn a_transfer_beyond_the_agents_limit_is_told_to_wait() {
    let world = World::new();
    let ann = log_in(&world, "ann", "secret");
    let (_socket, _guest) = ann.desktop(&world, vm::RUNNING);
    world.fake.state().busy = 1;
    let busy = ann.get(&world, "/web/files/list?id=1&folder=");
    assert!(busy.status == 429 && busy.body.contains("R406"), "{busy:?}");
}

#[test]
fn a_guest_that_floods_waits_for_a_browser_that_does_not_read() {
    let world = World::new();
    let ann = log_in(&world, "ann", "secret");
    let (mut socket, guest) = ann.desktop(&world, vm::RUNNING);
    guest.set_nonblocking(true).expect("set");
    let (mut sent, mut silent) = (0usize, Instant::now());
    while silent.elapsed() < Duration::from_millis(300) {
        match (&guest).write(&[7; 65536]) {
            Ok(n) => (sent, silent) = (sent + n, Instant::now()),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(e) => panic!("{e}"),
        }
        assert!(sent < 64 << 20, "the router reads on and on");
    }
    drop(guest);
    let mut got = 0;
    while let Some((opcode, payload)) = socket.frame() {
        got += if opcode == 2 { payload.len() } else { 0 };
        if opcode == 8 {
            break;
        }
    }
    assert_eq!(got, sent, "and nothing was lost");
}

#[test]
fn a_desktop_is_started_and_stopped_from_its_card() {
    let world = World::new();
    let ann = log_in(&world, "ann", "secret");
    let list: Value = serde_json::from_str(&ann.get(&world, "/web/desktops").body).expect("JSON");
    let card =
        |id: u32| list["desktops"].as_array().expect("cards").iter().find(|c| c["id"] == id).expect("there").clone();
    assert_eq!((&card(3)["blocked"], &card(2)["state"]), (&true.into(), &"stopped".into()));
    assert!(list["desktops"].as_array().expect("cards").iter().all(|c| c["id"] != vm::BOBS));
    assert_eq!(ann.post(&world, "/web/desktops/2/start").status, 204);
    world.fake.wait("wanted and let go", |state| {
        let wanted = state.vms[&VmId(2)].want == model::state::Want::Run;
        (wanted && state.sessions.is_empty()).then_some(())
    });
    assert_eq!(ann.post(&world, "/web/desktops/1/stop").status, 204);
    assert_eq!(ann.post(&world, "/web/desktops/4/stop").status, 403);
    assert_eq!(ann.post(&world, "/web/desktops/99/start").status, 404);
    assert_eq!(ann.post(&world, "/web/desktops/x/start").status, 404);
    assert_eq!(ann.post(&world, "/web/desktops/6/stop").status, 409);
}

#[test]
fn a_restart_is_one_request_that_waits_for_the_stop() {
    let world = World::new();
    let ann = log_in(&world, "ann", "secret");
    assert_eq!(ann.post(&world, "/web/desktops/1/restart").status, 204);
    let state = world.fake.state();
    let vm = &state.vms[&VmId(vm::RUNNING)];
    assert_eq!((vm.state, vm.want), (VmState::Stopped, model::state::Want::Run), "it was stopped, and is to run again");
    drop(state);
    assert_eq!(ann.post(&world, "/web/desktops/4/restart").status, 403);
    assert_eq!(ann.post(&world, "/web/desktops/6/restart").status, 409);
}

#[test]
fn files_need_an_open_desktop_and_legal_names() {
    let world = World::new();
    let ann = log_in(&world, "ann", "secret");
    let list = "/web/files/list?id=1";
    assert!(ann.get(&world, list).body.contains("R409"), "no desktop, no files");
    let (_socket, _guest) = ann.desktop(&world, vm::RUNNING);
    let other = log_in(&world, "ann", "secret");
    assert!(other.get(&world, list).body.contains("R409"), "another login's desktop");
    for path in ["..%2Fx", "%2Fetc", "a%2F..%2Fb", "a%00b", "a%2F%2Fb"] {
        let answer = ann.get(&world, &format!("/web/files/get?id=1&file={path}"));
        assert!(answer.status == 422 && answer.body.contains("R403"), "{path} {answer:?}");
    }
    let put = |query: &str, length: u64| {
        let (origin, headers) = (origin(&world), ann.headers());
        format!(
            "PUT /web/files/put?id=1&upload={}&{query} HTTP/1.1\r\n{origin}{headers}Content-Length: {length}\r\n\r\n",
            "ab".repeat(16)
        )
    };
    let too_large = put("name=a&offset=0&total=99999999999", 99_999_999_999);
    for (request, code) in [
        (too_large, "R407"),
        (put("name=..&offset=0&total=5", 5), "R403"),
        (put("name=a&offset=2&total=5", 5), "R106"),
        (put("name=a&offset=18446744073709551615&total=5", 5), "R106"),
    ] {
        let answer = world.client().ask(&request);
        assert!(answer.body.contains(code), "{request} {answer:?}");
    }
}
