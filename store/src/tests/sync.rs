//! Node sync over TLS on loopback.

use super::{
    World,
    http::Admin,
    node::{Link, Machine, joined},
};
use crate::totp;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use model::{
    UserId, VmId,
    api::{Added, BootLog, BootRow, Done, HostRecovery, HostRow, NewToken, Token, TokenKind, Totp, UserRow, VmRow},
    boot::{BootEnd, BootReport},
    filter::Object,
    grant::Grant,
    recovery::Escrow,
    state::{HostState, UserState, VmState, Want},
    sync::{Block, Call, GuestReport, Refusal, Reply, STORE_NAME, Secret, SessionReport, ToNode, ToStore},
};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::json;

fn refused(answer: ToNode) -> String {
    match answer {
        ToNode::Refused(reason) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_nodes_boots_are_kept_and_shown() {
    let world = World::start().await;
    let admin = Admin::new(world.qa());
    let machine = joined(&world, "node1").await;
    let (mut link, ..) = machine.run(&world).await;
    let report = BootReport {
        boot: "b-1".into(),
        version: "1.0".into(),
        began_ms: 1_800_000_000_000,
        lasted_s: 61,
        end: BootEnd::Panic("kernel panic: why".into()),
        panic: "words\n".into(),
        log: "log\n".into(),
    };
    link.say(ToStore::Boot(report)).await;
    while !link.heard.contains(&ToNode::BootKept("b-1".into())) {
        let word = link.hear().await.expect("a word");
        link.heard.push(word);
    }
    let boot = admin.get::<Vec<BootRow>>("/hosts/boots?filter=name=node1").await.remove(0);
    assert_eq!((boot.host.as_str(), boot.end.as_str(), boot.why.as_str()), ("node1", "panic", "kernel panic: why"));
    let log: BootLog = admin.get(&format!("/hosts/boots/{}", boot.id)).await;
    assert_eq!((log.panic.as_str(), log.log.as_str(), log.boot), ("words\n", "log\n", boot));
    assert_eq!(admin.get::<Vec<BootRow>>("/hosts/boots?filter=name=node2").await, []);
}

#[tokio::test]
async fn a_node_joins_by_token_is_welcome_and_told_what_is_wanted() {
    let world = World::start().await;
    let machine = joined(&world, "node1").await;
    let joined = machine.joined.as_ref().expect("joined");
    assert_eq!(crate::pki::sha256(&joined.ca), world.serving().ca_sha256());
    let (_link, welcome, desired) = machine.run(&world).await;
    assert_eq!((welcome.name.as_str(), welcome.host.0), ("node1", 1));
    assert_eq!((desired.revision, desired.guests.len()), (1, 0));
    crate::pki::check_pair(&desired.router_tls).expect("a certificate for its router");
    let hosts: Vec<HostRow> = Admin::new(world.qa()).get("/hosts").await;
    assert_eq!((hosts[0].state, hosts[0].connected, hosts[0].usable_cpu), (HostState::Running, true, 800.0));
    assert!(hosts[0].router_sha256.is_some());
}

#[tokio::test]
async fn used_unknown_and_expired_tokens_are_refused_with_the_reason() {
    let world = World::start().await;
    joined(&world, "node1").await;
    let mut second = Machine::new("node2");
    let used = world.join_token();
    assert!(refused(second.ask(&world, Some(&used)).await).contains("used already"));
    assert!(refused(second.ask(&world, Some("nonsense")).await).contains("not known here"));
    world
        .store()
        .db
        .write(|tx| tx.token_add(TokenKind::Join, &crate::secret::token_sha256("old"), "", Some(1)))
        .await
        .expect("made");
    assert!(refused(second.ask(&world, Some("old")).await).contains("expired at 1970-01-01"));
    let events: Vec<model::api::EventRow> = Admin::new(world.qa()).get("/events").await;
    assert_eq!(events.iter().filter(|e| e.what == "host.refused").count(), 3, "the operator sees them as well");
}

#[tokio::test]
async fn a_node_without_a_token_waits_until_it_is_approved() {
    let world = World::start().await;
    let admin = Admin::new(world.qa());
    let mut machine = Machine::new("pxe-1");
    assert_eq!(machine.ask(&world, None).await, ToNode::JoinPending);
    assert_eq!(machine.ask(&world, None).await, ToNode::JoinPending);
    let hosts: Vec<HostRow> = admin.get("/hosts?filter=approved=0").await;
    assert_eq!(hosts.len(), 1, "asking again is the same node");
    let key = crate::pki::request_key_sha256(&machine.request(None).csr).expect("a key").to_string();
    assert_eq!(hosts[0].key_sha256.as_deref(), Some(key.as_str()));
    let done: Done = admin.post("/hosts/approve?filter=name=pxe-1", &json!(null)).await;
    assert_eq!(done.done, 1);
    assert!(matches!(machine.ask(&world, None).await, ToNode::Joined(_)));
    machine.run(&world).await;
}

#[tokio::test]
async fn a_peer_without_a_certificate_may_only_join() {
    let world = World::start().await;
    let stranger = Machine::new("stranger");
    let mut link = stranger.link(&world).await;
    link.say(ToStore::Hello(stranger.hello())).await;
    assert!(refused(link.hear().await.expect("an answer")).contains("may only join"));
    assert_eq!(link.hear().await, None, "and the connection ends");
    let bad_name = stranger.request(Some("x"));
    let mut link = stranger.link(&world).await;
    link.say(ToStore::Join(model::sync::JoinRequest { name: "../etc".into(), ..bad_name })).await;
    refused(link.hear().await.expect("an answer"));
}

#[tokio::test]
async fn garbage_ends_its_connection_and_nothing_else() {
    let world = World::start().await;
    let machine = joined(&world, "node1").await;
    let (mut good, ..) = machine.run(&world).await;
    for bytes in [vec![], vec![0xff; 100], vec![0; 3]] {
        let mut link = Machine::new("stranger").link(&world).await;
        link.say_bytes(bytes).await;
        assert!(matches!(link.hear().await, None | Some(ToNode::Refused(_))));
    }
    good.beat(HostState::Running).await;
}

#[tokio::test]
async fn a_deleted_node_is_cut_off_and_shut_out() {
    let world = World::start().await;
    let machine = joined(&world, "node1").await;
    let (mut link, ..) = machine.run(&world).await;
    let _: Done = Admin::new(world.qa()).delete("/hosts?filter=name=node1").await;
    while link.hear().await.is_some() {}
    let mut again = machine.link(&world).await;
    again.say(ToStore::Hello(machine.hello())).await;
    assert!(refused(again.hear().await.expect("an answer")).contains("not registered"));
}

#[tokio::test]
async fn a_newer_connection_of_a_node_replaces_the_older() {
    let world = World::start().await;
    let machine = joined(&world, "node1").await;
    let (mut old, ..) = machine.run(&world).await;
    let (mut new, ..) = machine.run(&world).await;
    while old.hear().await.is_some() {}
    new.beat(HostState::Running).await;
    assert!(world.store().hub.connected(model::HostId(1)));
}

/// User `ann` (password `pw`), a flavour with an image, VM 1.
async fn desktop(world: &World) -> Admin {
    let admin = Admin::new(world.qa());
    let _: Added = admin.post("/users", &json!({ "login": "ann", "password": "pw" })).await;
    let osf: Added = admin.post("/osfs", &json!({ "name": "desk", "user_storage_mib": 64 })).await;
    let image = crate::db::NewImage { digest: model::Digest([7; 32]), bytes: 4096, name: "desk.tar".into() };
    world.store().db.write(move |tx| tx.di_add(model::OsfId(osf.id), None, &image)).await.expect("added");
    let _: Added = admin.post("/vms", &json!({ "name": "ann-1", "user": "ann", "osf": "desk" })).await;
    admin
}

fn report(state: VmState, generation: u64) -> GuestReport {
    GuestReport {
        vm: VmId(1),
        epoch: 1,
        generation,
        state,
        phase: "p".into(),
        since_ms: 5,
        di: Some(model::DiId(1)),
        failed: None,
        start_ms: Some(900),
    }
}

fn login(password: &str) -> Call {
    Call::Login { login: " ANN ".into(), password: Secret(password.into()), client: "198.51.100.1".into() }
}

fn acquire(session: u64) -> Call {
    Call::Acquire { user: UserId(1), vm: VmId(1), session, client: "198.51.100.1".into() }
}

fn session(state: UserState, session: u64) -> ToStore {
    ToStore::Session(SessionReport { vm: VmId(1), user: UserId(1), state, client: "c".into(), session })
}

#[tokio::test]
async fn a_login_leads_to_a_running_desktop_and_a_signed_grant() {
    let world = World::start().await;
    let admin = desktop(&world).await;
    let machine = joined(&world, "node1").await;
    let (mut link, welcome, _) = machine.run(&world).await;
    let Reply::LoggedIn(ann) = link.call(login("pw")).await else { panic!("no login") };
    assert_eq!((ann.login.as_str(), ann.user), ("ann", UserId(1)));
    let Reply::Vms(vms) = link.call(Call::List { user: ann.user }).await else { panic!("no list") };
    assert_eq!((vms[0].name.as_str(), vms[0].state), ("ann-1", VmState::Stopped));
    let Reply::Acquired(acquired) = link.call(acquire(5)).await else { panic!("not acquired") };
    assert_eq!((acquired.host, acquired.now.want, acquired.took_over), (welcome.host, Want::Run, false));
    let key = UnparsedPublicKey::new(&ED25519, &welcome.grant_key);
    let signed = model::grant::SignedGrant::signed_bytes(&acquired.grant.body);
    key.verify(&signed, &acquired.grant.signature).expect("signed by the store");
    let grant: Grant = postcard::from_bytes(&acquired.grant.body).expect("a grant");
    assert_eq!((grant.vm, grant.host, grant.login.as_str()), (VmId(1), welcome.host, "ann"));
    assert!(grant.params.contains(&("qvd.vm.user.name".to_owned(), "ann".to_owned())));
    let desired = link.desired(|d| !d.guests.is_empty()).await;
    assert_eq!((desired.guests[0].want, desired.guests[0].home_mib), (Want::Run, Some(64)));
    link.report(report(VmState::Starting, 1)).await;
    let waiting = link.ask(Call::AwaitVm { user: ann.user, vm: VmId(1), seen: Some(VmState::Starting) }).await;
    link.report(report(VmState::Running, 1)).await;
    let Reply::Vm(now) = link.answer(waiting).await else { panic!("no state") };
    assert_eq!(now.state, VmState::Running);
    link.say(session(UserState::Connected, 5)).await;
    link.beat(HostState::Running).await;
    let vm = admin.get::<Vec<VmRow>>("/vms").await.remove(0);
    assert_eq!((vm.state, vm.user_state, vm.start_ms), (VmState::Running, UserState::Connected, Some(900)));
    assert_eq!((vm.real_user.as_deref(), vm.l7r.as_deref()), (Some("ann"), Some("node1")));
    assert_eq!(link.call(Call::StopVm { user: ann.user, vm: VmId(1) }).await, Reply::Stopping);
    assert_eq!(link.desired(|d| d.guests[0].want == Want::Stop).await.guests[0].generation, 2);
}

#[tokio::test]
async fn wrong_logins_are_refused_alike_and_then_slowed_down() {
    let world = World::start().await;
    desktop(&world).await;
    let machine = joined(&world, "node1").await;
    let (mut link, ..) = machine.run(&world).await;
    let nobody = Call::Login { login: "bob".into(), password: Secret("pw".into()), client: "c".into() };
    assert_eq!(link.call(nobody).await, Reply::Refused(Refusal::BadLogin));
    for _ in 0..5 {
        assert_eq!(link.call(login("wrong")).await, Reply::Refused(Refusal::BadLogin));
    }
    assert!(
        matches!(link.call(login("pw")).await, Reply::Refused(Refusal::TooMany(1..=2))),
        "also the right one waits"
    );
}

#[tokio::test]
async fn guesses_at_the_same_time_are_no_more_than_one_after_the_other() {
    let world = World::start().await;
    desktop(&world).await;
    let machine = joined(&world, "node1").await;
    let (mut link, ..) = machine.run(&world).await;
    let mut asked = Vec::new();
    for _ in 0..24 {
        asked.push(link.ask(login("wrong")).await);
    }
    // Answers come in any order.
    let mut told = 0;
    while !asked.is_empty() {
        match link.hear().await.expect("an answer") {
            ToNode::Reply(number, reply) => {
                asked.retain(|waiting| *waiting != number);
                told += usize::from(reply == Reply::Refused(Refusal::BadLogin));
            }
            other => link.heard.push(other),
        }
    }
    assert_eq!(told, 5, "guesses whose outcome was told");
}

fn with_code(code: Option<&str>) -> Call {
    let code = code.map(|code| Secret(code.to_owned()));
    Call::LoginWithCode { login: "ann".into(), password: Secret("pw".into()), code, client: "198.51.100.2".into() }
}

#[tokio::test]
async fn a_user_with_one_time_codes_logs_in_with_each_of_them_once() {
    let mut world = World::start().await;
    let admin = desktop(&world).await;
    let machine = joined(&world, "node1").await;
    let (mut link, ..) = machine.run(&world).await;
    assert!(matches!(link.call(with_code(Some("000000"))).await, Reply::LoggedIn(_)), "who has none needs none");
    let made: Totp = admin.post("/users/totp", &json!({ "login": "Ann" })).await;
    assert!(made.uri.0.starts_with("otpauth://totp/Roost:ann?secret="), "{}", made.uri.0);
    let shown = made.uri.0.split(['=', '&']).nth(1).expect("a secret").to_owned();
    assert!(admin.get::<Vec<UserRow>>("/users").await[0].totp);
    assert_eq!(link.call(login("pw")).await, Reply::Refused(Refusal::CodeNeeded));
    assert_eq!(link.call(with_code(None)).await, Reply::Refused(Refusal::CodeNeeded));
    assert_eq!(link.call(with_code(Some("12345"))).await, Reply::Refused(Refusal::BadCode));
    // The secret outlives a restart of the store, and is nowhere to be read.
    drop(link);
    world.restart().await;
    let admin = Admin::new(world.qa());
    for file in ["store.db", "store.db-wal"] {
        let bytes = std::fs::read(world.dir.path().join(file)).unwrap_or_default();
        assert!(!bytes.windows(shown.len()).any(|w| w == shown.as_bytes()), "{file}");
    }
    let (mut link, ..) = machine.run(&world).await;
    let account = world.store().db.read(|tx| tx.account("ann")).await.expect("reads").expect("there");
    let sealed = crate::secret::bytes(&account.totp.expect("a secret").0).expect("base64");
    let open = |user: u32| world.store().pki.open(&totp::context(UserId(user)), &sealed);
    let key = open(1).expect("opens");
    assert!(open(2).is_err(), "another user's");
    let step = world.store().db.clock().now_ms() / 30_000;
    let (now, next) = (totp::at(&key, step), totp::at(&key, step + 1));
    assert!(matches!(link.call(login(&format!("pw{now}"))).await, Reply::LoggedInByCode(who) if who.user == UserId(1)));
    assert_eq!(link.call(login(&format!("pw{now}"))).await, Reply::Refused(Refusal::BadCode), "used");
    assert_eq!(
        link.call(login(&format!("px{next}"))).await,
        Reply::Refused(Refusal::BadLogin),
        "the password comes first"
    );
    assert!(matches!(link.call(with_code(Some(&next))).await, Reply::LoggedInByCode(_)), "a clock may be a step ahead");
    assert_eq!(link.call(with_code(Some(&next))).await, Reply::Refused(Refusal::BadCode));
    for _ in 0..4 {
        assert_eq!(link.call(with_code(Some("000000"))).await, Reply::Refused(Refusal::BadCode));
    }
    assert!(
        matches!(link.call(with_code(Some("000000"))).await, Reply::Refused(Refusal::TooMany(_))),
        "guessing is slow"
    );
    let done: Done = admin.post("/users/totp/del", &json!({ "login": "ann" })).await;
    assert_eq!(done.done, 1);
}

#[tokio::test]
async fn nodes_are_told_of_a_user_who_may_not_go_on() {
    let world = World::start().await;
    let admin = desktop(&world).await;
    let (mut link, ..) = joined(&world, "node1").await.run(&world).await;
    let _: Added = admin.post("/users", &json!({ "login": "bob", "password": "pw" })).await;
    let _: Done = admin.post("/users/passwd", &json!({ "login": "ann", "password": "new" })).await;
    assert_eq!(link.end_logins().await, UserId(1));
    let _: Totp = admin.post("/users/totp", &json!({ "login": "ann" })).await;
    assert_eq!(link.end_logins().await, UserId(1));
    let _: Done = admin.delete("/users?filter=login=bob").await;
    assert_eq!(link.end_logins().await, UserId(2));
    assert_eq!(link.call(Call::Cards { user: UserId(2) }).await, Reply::Refused(Refusal::BadLogin));
}

#[tokio::test]
async fn a_user_who_logs_out_everywhere_does_so_at_every_node_also_at_one_that_is_away() {
    let world = World::start().await;
    let admin = desktop(&world).await;
    let first = joined(&world, "node1").await;
    let second = joined_too(&world, &admin, "node2").await;
    let ((mut one, ..), (mut two, ..)) = (first.run(&world).await, second.run(&world).await);
    let asked = std::time::Instant::now();
    assert_eq!(one.call(Call::EndLogins { user: UserId(1) }).await, Reply::LoginsEnded);
    assert_eq!((one.end_logins().await, two.end_logins().await), (UserId(1), UserId(1)));
    assert!(asked.elapsed() < std::time::Duration::from_secs(1), "{:?}", asked.elapsed());
    drop(two);
    while world.store().hub.connected(model::HostId(2)) {
        one.beat(HostState::Running).await;
    }
    assert_eq!(one.call(Call::EndLogins { user: UserId(1) }).await, Reply::LoginsEnded);
    let mut two = second.link(&world).await;
    two.say(ToStore::Hello(second.hello())).await;
    assert_eq!(two.end_logins().await, UserId(1));
}

/// A further node, joined with a token of its own.
async fn joined_too(world: &World, admin: &Admin, name: &str) -> Machine {
    let token: Token =
        admin.post("/tokens", &NewToken { kind: TokenKind::Join, ttl_s: None, note: String::new() }).await;
    let mut machine = Machine::new(name);
    assert!(matches!(machine.ask(world, Some(&token.token.0)).await, ToNode::Joined(_)));
    machine
}

#[tokio::test]
async fn a_second_login_takes_the_session_over_once_the_first_let_go() {
    let world = World::start().await;
    let admin = desktop(&world).await;
    let first = joined(&world, "node1").await;
    let second = joined_too(&world, &admin, "node2").await;
    let ((mut one, ..), (mut two, ..)) = (first.run(&world).await, second.run(&world).await);
    assert!(matches!(one.call(acquire(11)).await, Reply::Acquired(_)));
    one.say(session(UserState::Connected, 11)).await;
    one.beat(HostState::Running).await;
    let waiting = two.ask(acquire(22)).await;
    assert_eq!(one.abort().await, (VmId(1), Some(11)));
    // Other changes, and its own looks, do not make it say so again.
    for _ in 0..20 {
        one.beat(HostState::Running).await;
        assert!(matches!(one.call(Call::List { user: UserId(1) }).await, Reply::Vms(_)));
    }
    assert!(one.more_aborts() <= 1, "told {} times more", one.more_aborts());
    one.say(session(UserState::Disconnected, 11)).await;
    let Reply::Acquired(acquired) = two.answer(waiting).await else { panic!("not acquired") };
    assert!(acquired.took_over);
}

#[tokio::test]
async fn a_session_that_does_not_let_go_is_left_alone_after_the_limit() {
    let world = World::start().await;
    let admin = desktop(&world).await;
    let _: Done = admin.put("/config", &json!({ "internal.l7r.timeout.takeover": "0.2" })).await;
    let (mut link, ..) = joined(&world, "node1").await.run(&world).await;
    assert!(matches!(link.call(acquire(11)).await, Reply::Acquired(_)));
    assert_eq!(link.call(acquire(22)).await, Reply::Refused(Refusal::Held));
}

#[tokio::test]
async fn a_session_of_a_router_that_is_away_is_taken() {
    let world = World::start().await;
    let admin = desktop(&world).await;
    let first = joined(&world, "node1").await;
    let second = joined_too(&world, &admin, "node2").await;
    let (mut two, ..) = second.run(&world).await;
    // The desktop is placed on node2 (the only one that runs), the session comes through node1.
    assert!(matches!(two.call(acquire(1)).await, Reply::Acquired(_)));
    two.say(session(UserState::Disconnected, 1)).await;
    let (mut one, ..) = first.run(&world).await;
    assert!(matches!(one.call(acquire(11)).await, Reply::Acquired(_)));
    one.say(session(UserState::Connected, 11)).await;
    one.beat(HostState::Running).await;
    drop(one);
    wait_until(|| !world.store().hub.connected(model::HostId(1))).await;
    let Reply::Acquired(acquired) = two.call(acquire(22)).await else { panic!("not acquired") };
    assert!(acquired.took_over);
    assert_eq!(two.abort().await, (VmId(1), Some(11)), "the VM's own node is told to cut it");
}

/// Waits for a condition that no message announces.
async fn wait_until(condition: impl Fn() -> bool) {
    let limit = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while !condition() {
        assert!(tokio::time::Instant::now() < limit, "it never came true");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_block_ends_the_session_and_tells_its_note_on_the_card() {
    let world = World::start().await;
    let admin = desktop(&world).await;
    let (mut link, ..) = joined(&world, "node1").await.run(&world).await;
    for block in [json!({ "note": "new disks" }), json!(null)] {
        assert!(matches!(link.call(acquire(11)).await, Reply::Acquired(_)));
        link.say(session(UserState::Connected, 11)).await;
        link.beat(HostState::Running).await;
        let done: Done = admin.post("/vms/block?filter=name=ann-1", &block).await;
        assert_eq!((done.done, link.abort().await), (1, (VmId(1), Some(11))));
        let Reply::Cards(cards) = link.call(Call::Cards { user: UserId(1) }).await else { panic!("no cards") };
        let note = block["note"].as_str().map(str::to_owned);
        assert_eq!(cards[0].block, Some(Block::Order(note)));
        assert_eq!(cards[0].session, UserState::Connected, "until the router says otherwise");
        link.say(session(UserState::Disconnected, 11)).await;
        link.beat(HostState::Running).await;
        let _: Done = admin.post("/vms/unblock", &json!(null)).await;
    }
    assert!(matches!(link.call(acquire(11)).await, Reply::Acquired(_)));
    let done: Done = admin.patch("/vms?filter=name=ann-1", &json!({ "blocked": true })).await;
    assert_eq!((done.done, link.abort().await), (1, (VmId(1), Some(11))));
}

#[tokio::test]
async fn a_blocked_node_is_told_and_a_failed_start_blocks_its_vm() {
    let world = World::start().await;
    let admin = desktop(&world).await;
    let (mut link, ..) = joined(&world, "node1").await.run(&world).await;
    let _: Done = admin.post("/hosts/block?filter=name=node1", &json!(null)).await;
    link.desired(|d| d.blocked).await;
    assert_eq!(link.call(acquire(1)).await, Reply::Refused(Refusal::NoHost));
    let _: Done = admin.post("/hosts/unblock", &json!(null)).await;
    assert!(matches!(link.call(acquire(1)).await, Reply::Acquired(_)));
    link.report(GuestReport { failed: Some("the image has no init".into()), ..report(VmState::Stopped, 1) }).await;
    let Reply::Vm(now) = link.call(Call::AwaitVm { user: UserId(1), vm: VmId(1), seen: None }).await else {
        panic!("no state")
    };
    assert_eq!((now.want, now.failed.as_deref()), (Want::Stop, Some("the image has no init")));
    assert_eq!(link.call(acquire(1)).await, Reply::Refused(Refusal::Blocked));
}

#[tokio::test]
async fn a_node_reconnects_to_a_restarted_store_and_finds_the_same_revision() {
    let mut world = World::start().await;
    desktop(&world).await;
    let machine = joined(&world, "node1").await;
    let (mut link, ..) = machine.run(&world).await;
    assert!(matches!(link.call(acquire(1)).await, Reply::Acquired(_)));
    let before = link.desired(|d| !d.guests.is_empty()).await;
    world.restart().await;
    while link.hear().await.is_some() {}
    let mut link: Link = machine.link(&world).await;
    link.say(ToStore::Hello(machine.hello())).await;
    assert!(matches!(link.hear().await, Some(ToNode::Welcome(_))));
    assert_eq!(link.desired(|_| true).await, before);
}

#[tokio::test]
async fn images_go_to_nodes_only_from_any_byte_on() {
    let world = World::start().await;
    let digest = crate::pki::sha256(b"0123456789");
    std::fs::write(world.store().images.image(&digest), b"0123456789").expect("written");
    let mut machine = joined(&world, "node1").await;
    let get = async |machine: &Machine, path: String, range: Option<&str>| {
        let mut request = Request::builder().uri(path).header(header::HOST, STORE_NAME);
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        let request = request.body(Full::new(Bytes::new())).expect("a request");
        super::http::request(machine.dial(&world, b"http/1.1").await, request).await
    };
    let path = format!("/images/{digest}");
    let whole = get(&machine, path.clone(), None).await;
    assert_eq!((whole.status(), &whole.body()[..]), (StatusCode::OK, &b"0123456789"[..]));
    let rest = get(&machine, path.clone(), Some("bytes=7-")).await;
    assert_eq!((rest.status(), &rest.body()[..]), (StatusCode::PARTIAL_CONTENT, &b"789"[..]));
    assert_eq!(rest.headers()[header::CONTENT_RANGE], "bytes 7-9/10");
    assert_eq!(get(&machine, path.clone(), Some("bytes=10-")).await.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    for none in ["/images/../store.db", "/images/", "/", &format!("/images/{}", model::Digest([0; 32]))] {
        assert_eq!(get(&machine, none.to_owned(), None).await.status(), StatusCode::NOT_FOUND, "{none}");
    }
    machine.joined = None;
    assert_eq!(get(&machine, path, None).await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_recovery_key_is_kept_sealed_and_each_reading_of_it_is_an_event() {
    let world = World::start().await;
    let machine = joined(&world, "node1").await;
    let (mut link, ..) = machine.run(&world).await;
    let (volume, text) = ("0f3ac09e-6f0b-4f4e-a9c5-0d1de2a4f9b1", "99998-99999-9999A-9999B-9999C-9999D-9999E");
    let escrow = |volume: &str| {
        let key = text.parse().expect("a key");
        ToStore::Escrow(Escrow { volume: volume.to_owned(), key })
    };
    link.say(escrow("no volume")).await;
    // A node that did not hear the first acknowledgement offers it again.
    for _ in 0..2 {
        link.say(escrow(volume)).await;
        let heard = loop {
            match link.hear().await.expect("a message") {
                ToNode::Escrowed(of) => break of,
                _ => continue,
            }
        };
        assert_eq!(heard, volume);
    }
    let rows =
        world.store().db.read(|tx| tx.recovery_keys(&Object::Host.filter("").expect("all"))).await.expect("reads");
    assert_eq!(rows.len(), 1);
    let sealed = crate::secret::bytes(&rows[0].sealed).expect("base64");
    assert!(!String::from_utf8_lossy(&sealed).contains("9999"), "it lies open in the database");

    let admin = Admin::new(world.qa());
    let keys: Vec<HostRecovery> = admin.post("/hosts/recovery?filter=name=node1", &json!(null)).await;
    assert_eq!((keys.len(), keys[0].key.text(), keys[0].volume.as_str()), (1, text, volume));
    let none: Vec<HostRecovery> = admin.post("/hosts/recovery?filter=name=node2", &json!(null)).await;
    assert!(none.is_empty());
    let events: Vec<model::api::EventRow> = admin.get("/events").await;
    let of = |what: &str| events.iter().filter(|event| event.what == what).count();
    assert_eq!((of("host.escrow"), of("host.recovery")), (1, 1));
    assert!(!format!("{events:?}").contains("9999"));
}
