//! The promises of the cluster's model, as functions over its interface: every back-end keeps them all.
//!
//! A promise gets a fresh database whose clock stands still until it says otherwise.

mod world;

use self::world::{World, image, join_request, new_vm, report};
use crate::{
    db::{Acquire, Holder, JoinOutcome, Reported},
    error::Error,
};
use model::{
    Digest, HostId, OsfId, VmId,
    api::{EditVm, NewHost, NewVm, TokenKind},
    filter::{Filter, Object},
    state::{HostState, UserState, VmState, Want},
    sync::{Refusal, SessionReport},
};
use std::sync::atomic::Ordering;

macro_rules! promises {
    ($($(#[$doc:meta])* async fn $name:ident($world:ident) $body:block)*) => {
        $($(#[$doc])* async fn $name($world: World) $body)*

        mod on_sqlite {
            use super::World;
            $(#[tokio::test] async fn $name() { super::$name(World::sqlite()).await })*
        }
    };
}

mod boots;
mod people;
mod rollouts;

promises! {
    async fn an_error_undoes_the_whole_transaction(w) {
        let failed = w.db.write(|tx| {
            tx.user_add("ann", None)?;
            Err::<(), _>(Error::Refused("no".into()))
        });
        failed.await.expect_err("refused");
        assert_eq!(w.tx(|tx| tx.users(&Filter::default())).await, []);
    }

    async fn addresses_go_up_from_the_start_and_are_given_once(w) {
        w.flavour().await;
        for name in ["a", "b", "c"] { w.vm(name).await; }
        let ips = |rows: Vec<model::api::VmRow>| rows.into_iter().map(|vm| vm.ip.to_string()).collect::<Vec<_>>();
        assert_eq!(ips(w.tx(|tx| tx.vms(&Filter::default())).await), ["10.3.15.50", "10.3.15.51", "10.3.15.52"]);
        w.tx(|tx| tx.vm_del(VmId(2))).await;
        let fresh = w.vm("d").await;
        assert_eq!(fresh, VmId(4), "ids are never used again");
        assert_eq!(ips(w.tx(|tx| tx.vms(&Filter::default())).await), ["10.3.15.50", "10.3.15.52", "10.3.15.51"]);
        let wished = |ip: [u8; 4]| NewVm { ip: Some(ip.into()), ..new_vm("e") };
        assert!(w.refused(move |tx| tx.vm_add(&wished([10, 3, 15, 50]))).await.contains("10.3.15.50 already"));
        assert!(w.refused(move |tx| tx.vm_add(&wished([10, 3, 15, 49]))).await.contains("expected 10.3.15.50 to 10.3.15.254"));
    }

    async fn a_full_network_is_told_and_bulk_is_all_or_nothing(w) {
        w.flavour().await;
        let bulk = |n| NewVm { bulk: Some(n), ..new_vm("b") };
        assert!(w.refused(move |tx| tx.vm_add(&bulk(206))).await.contains("No address is free"));
        assert_eq!(w.tx(|tx| tx.vms(&Filter::default())).await.len(), 0);
        assert_eq!(w.tx(move |tx| tx.vm_add(&bulk(205))).await.len(), 205);
        assert!(w.refused(|tx| tx.vm_add(&new_vm("one-more"))).await.contains("No address is free"));
    }

    async fn what_a_vm_needs_must_exist(w) {
        w.flavour().await;
        let with = |change: fn(&mut NewVm)| { let mut vm = new_vm("a"); change(&mut vm); vm };
        let refused = async |change: fn(&mut NewVm)| w.refused(move |tx| tx.vm_add(&with(change))).await;
        assert_eq!(refused(|vm| vm.osf = Some("none".into())).await, "There is no OS flavour none");
        assert_eq!(refused(|vm| vm.user = Some("bob".into())).await, "There is no user bob");
        assert_eq!(refused(|vm| vm.osf_id = Some(OsfId(1))).await, "Expected either osf or osf_id");
        assert!(refused(|vm| vm.name = "../x".into()).await.contains("is no VM's name"));
        w.vm("a").await;
        assert_eq!(refused(|_| {}).await, "There is a virtual machine a already");
    }

    async fn tags_move_within_their_flavour_and_versions_are_fixed(w) {
        let (_, osf, first) = w.flavour().await;
        let (second, version) = w.tx(move |tx| tx.di_add(osf, None, &image(2))).await;
        assert_eq!(version, "2027-01-15-000");
        let tags = async || w.tx(|tx| tx.dis(&Filter::default())).await.into_iter().map(|di| di.tags).collect::<Vec<_>>();
        assert_eq!(tags().await, [vec!["default"], vec!["head"]]);
        w.tx(move |tx| tx.di_tag(second, "default")).await;
        assert_eq!(tags().await, [vec![], vec!["default", "head"]]);
        assert_eq!(w.refused(move |tx| tx.di_tag(second, "v1")).await, "There is a DI with the tag v1 fixed");
        assert_eq!(w.refused(move |tx| tx.di_untag(first, "v1")).await, "DI 1 tag v1 is fixed");
        assert_eq!(w.refused(move |tx| tx.di_untag(first, "head")).await, "DI 1 is not tagged as head");
        assert_eq!(w.refused(move |tx| tx.di_add(osf, Some("head"), &image(3))).await, "There is a version or tag of this OS flavour head already");
        assert_eq!(w.tx(move |tx| tx.di_by_tag(osf, "v1")).await, Some(first));
        assert_eq!(w.tx(move |tx| tx.di_del(second)).await, Some(Digest([2; 32])));
        assert_eq!(tags().await, [vec!["default", "head"]], "head and default move to what remains");
    }

    async fn a_file_goes_only_with_its_last_image(w) {
        let (_, osf, first) = w.flavour().await;
        let (second, _) = w.tx(move |tx| tx.di_add(osf, Some("again"), &image(1))).await;
        assert_eq!(w.tx(move |tx| tx.di_del(first)).await, None);
        assert_eq!(w.tx(move |tx| tx.di_del(second)).await, Some(Digest([1; 32])));
    }

    async fn what_is_in_use_is_not_deleted(w) {
        let (user, osf, di) = w.flavour().await;
        let vm = w.vm("a").await;
        let node = w.node("n1").await;
        w.start(vm).await.expect("starts");
        assert!(w.refused(move |tx| tx.user_del(user)).await.contains("owns 1 virtual machines"));
        assert!(w.refused(move |tx| tx.osf_del(osf)).await.contains("1 virtual machines and 1 disk images"));
        assert!(w.refused(move |tx| tx.di_del(di)).await.contains("stop them first"));
        assert!(w.refused(move |tx| tx.host_del(node)).await.contains("'qa vm release'"));
        assert!(w.refused(move |tx| tx.vm_del(vm)).await.contains("stop it first"));
    }

    async fn a_start_places_once_and_the_vm_stays_there(w) {
        w.flavour().await;
        let vm = w.vm("a").await;
        let small = w.node("small").await;
        assert_eq!(w.start(vm).await, Ok(small));
        assert_eq!((w.life(vm).await.epoch, w.life(vm).await.generation), (1, 1));
        assert_eq!(w.start(vm).await, Ok(small), "asked again while under way: nothing new");
        assert_eq!(w.life(vm).await.generation, 1);
        w.report(small, vm, VmState::Running, None).await;
        w.report(small, vm, VmState::Stopped, None).await;
        w.node("other").await;
        assert_eq!(w.start(vm).await, Ok(small), "its home is there");
        assert_eq!((w.life(vm).await.epoch, w.life(vm).await.generation), (1, 2));
        let counters = w.tx(|tx| tx.vm_counters(&Filter::default())).await;
        assert_eq!((counters[0].run_attempts, counters[0].run_ok), (2, 1));
    }

    async fn only_nodes_that_run_are_unblocked_and_fresh_get_vms(w) {
        w.flavour().await;
        let vm = w.vm("a").await;
        assert_eq!(w.start(vm).await, Err(Refusal::NoHost));
        assert_eq!(w.life(vm).await.want, Want::Stop, "a refusal has no side effect");
        let (blocked, starting, silent) = (w.node("blocked").await, w.node("starting").await, w.node("silent").await);
        w.tx(move |tx| tx.host_block(blocked, true)).await;
        w.beat(starting, HostState::Starting).await;
        w.pass(46);
        w.beat(blocked, HostState::Running).await;
        w.beat(starting, HostState::Starting).await;
        assert_eq!(w.start(vm).await, Err(Refusal::NoHost));
        w.beat(silent, HostState::Running).await;
        assert_eq!(w.start(vm).await, Ok(silent));
    }

    async fn a_stale_epoch_is_refused(w) {
        w.flavour().await;
        let vm = w.vm("a").await;
        let (one, _) = (w.node("one").await, ());
        w.start(vm).await.expect("starts");
        w.report(one, vm, VmState::Running, None).await;
        w.pass(601);
        w.tx(|tx| tx.mark_lost(0)).await;
        let two = w.node("two").await;
        w.tx(move |tx| { let life = tx.life(vm)?.expect("the VM"); tx.vm_release(&life) }).await;
        assert_eq!(w.start(vm).await, Ok(two));
        assert_eq!(w.life(vm).await.epoch, 3, "the release and the placement");
        for epoch in [1, 2, 3] {
            let stale = report(vm, epoch, 1, VmState::Running);
            assert_eq!(w.tx(move |tx| tx.guest_report(one, &stale, true)).await, Reported::Stale, "{epoch}");
        }
        assert_eq!(w.life(vm).await.state, VmState::Stopped);
        let old = report(vm, 1, 1, VmState::Running);
        assert_eq!(w.tx(move |tx| tx.guest_report(two, &old, true)).await, Reported::Stale);
        assert_eq!(w.desired(one).await.guests, [], "the old node must let it be");
        assert_eq!(w.desired(two).await.guests.len(), 1);
    }

    async fn a_lost_node_keeps_its_vms_until_an_administrator_releases_them(w) {
        let (user, ..) = w.flavour().await;
        let vm = w.vm("a").await;
        let one = w.node("one").await;
        w.start(vm).await.expect("starts");
        w.report(one, vm, VmState::Running, None).await;
        w.node("two").await;
        assert!(w.refused(move |tx| { let life = tx.life(vm)?.expect("the VM"); tx.vm_release(&life) }).await.contains("one holds it and is running"));
        w.pass(601);
        assert_eq!(w.tx(|tx| tx.mark_lost(0)).await.len(), 2);
        let two = HostId(2);
        w.beat(two, HostState::Running).await;
        let row = w.tx(|tx| tx.vms(&Filter::default())).await.remove(0);
        assert!(row.unavailable && row.host_id == Some(one));
        let away = Refusal::Other("its storage is on one, which is lost".into());
        assert_eq!(w.start(vm).await, Err(away.clone()));
        assert!(matches!(w.acquire(user, vm, 1, two).await, Acquire::Refused(refusal) if refusal == away));
        w.beat(one, HostState::Running).await;
        assert_eq!(w.start(vm).await, Ok(one), "back with its storage");
    }

    async fn a_store_that_was_away_itself_calls_no_node_lost(w) {
        let one = w.node("one").await;
        w.pass(10_000);
        let restarted = w.now.load(Ordering::SeqCst);
        w.pass(599);
        assert_eq!(w.tx(move |tx| tx.mark_lost(restarted)).await, []);
        w.pass(2);
        assert_eq!(w.tx(move |tx| tx.mark_lost(restarted)).await[0].id, one);
    }

    async fn a_start_that_failed_blocks_with_the_reason_and_a_run_that_ended_does_not(w) {
        let (user, ..) = w.flavour().await;
        let vm = w.vm("a").await;
        let node = w.node("n").await;
        w.start(vm).await.expect("starts");
        w.report(node, vm, VmState::Starting, None).await;
        w.report(node, vm, VmState::Stopped, Some("no init in the image")).await;
        let row = w.tx(|tx| tx.vms(&Filter::default())).await.remove(0);
        assert_eq!((row.blocked, row.want), (true, Want::Stop));
        assert_eq!(row.blocked_reason.as_deref(), Some("start failed: no init in the image"));
        assert_eq!(row.failed.as_deref(), Some("no init in the image"));
        assert_eq!(w.start(vm).await, Err(Refusal::Blocked));
        assert!(matches!(w.acquire(user, vm, 1, node).await, Acquire::Refused(Refusal::Blocked)));
        w.tx(move |tx| tx.vm_unblock(vm)).await;
        w.report(node, vm, VmState::Stopped, Some("no init in the image")).await;
        assert!(!w.life(vm).await.blocked, "what was known already blocks nothing again");
        w.start(vm).await.expect("starts");
        assert_eq!(w.life(vm).await.failed, None, "a new start forgets the old failure");
        w.report(node, vm, VmState::Running, None).await;
        w.report(node, vm, VmState::Stopped, Some("killed: out of memory")).await;
        let life = w.life(vm).await;
        assert_eq!((life.blocked, life.want), (false, Want::Stop));
        assert_eq!(life.failed.as_deref(), Some("killed: out of memory"));
    }

    async fn a_guest_of_a_node_that_goes_down_is_still_wanted(w) {
        w.flavour().await;
        let vm = w.vm("a").await;
        let node = w.node("n").await;
        w.start(vm).await.expect("starts");
        w.report(node, vm, VmState::Running, None).await;
        w.beat(node, HostState::Stopping).await;
        w.report(node, vm, VmState::Stopped, None).await;
        assert_eq!(w.life(vm).await.want, Want::Run);
        w.tx(move |tx| tx.connection_ended(node)).await;
        assert_eq!(w.tx(move |tx| tx.host_state(node)).await, Some(HostState::Stopped));
    }

    async fn a_first_look_after_a_boot_is_no_end(w) {
        w.flavour().await;
        let vm = w.vm("a").await;
        let node = w.node("n").await;
        w.start(vm).await.expect("starts");
        w.report(node, vm, VmState::Running, None).await;
        let stopped = report(vm, 1, 1, VmState::Stopped);
        w.tx(move |tx| tx.guest_report(node, &stopped, false)).await;
        assert_eq!(w.life(vm).await.want, Want::Run, "the node boots it again");
        assert_eq!(w.start(vm).await, Ok(node));
        assert_eq!(w.life(vm).await.generation, 2, "or, if it ended while the store was away, is told anew");
    }

    async fn what_a_node_does_not_find_does_not_run(w) {
        w.flavour().await;
        let (a, b) = (w.vm("a").await, w.vm("b").await);
        let node = w.node("n").await;
        for vm in [a, b] {
            w.start(vm).await.expect("starts");
            w.report(node, vm, VmState::Running, None).await;
        }
        w.tx(move |tx| tx.reports_complete(node, &[a])).await;
        assert_eq!((w.life(a).await.state, w.life(b).await.state), (VmState::Running, VmState::Stopped));
    }

    async fn access_is_checked_before_anything_happens(w) {
        w.flavour().await;
        let vm = w.vm("a").await;
        let node = w.node("n").await;
        let eve = w.tx(|tx| tx.user_add("eve", None)).await;
        w.tx(move |tx| tx.vm_block(vm, None)).await;
        let before = w.desired(node).await;
        assert!(matches!(w.acquire(eve, VmId(99), 1, node).await, Acquire::Refused(Refusal::NoVm)));
        assert!(matches!(w.acquire(eve, vm, 1, node).await, Acquire::Refused(Refusal::NotYours)), "not even that it is blocked");
        let row = w.tx(|tx| tx.vms(&Filter::default())).await.remove(0);
        assert_eq!((row.real_user, row.user_state, row.host_id), (None, UserState::Disconnected, None));
        assert_eq!(w.desired(node).await, before);
        assert_eq!(w.tx(move |tx| tx.vms_of(eve)).await, []);
    }

    async fn a_session_is_taken_only_once_the_other_let_go(w) {
        let (user, ..) = w.flavour().await;
        let vm = w.vm("a").await;
        let (n1, n2) = (w.node("n1").await, w.node("n2").await);
        assert!(matches!(w.acquire(user, vm, 11, n1).await, Acquire::Held(_)));
        assert!(matches!(w.acquire(user, vm, 11, n1).await, Acquire::Held(_)), "the same session may ask again");
        assert!(matches!(w.acquire(user, vm, 22, n2).await, Acquire::Contended(held) if held == Holder { router: Some(n1), session: Some(11) }));
        let session = move |state, session| SessionReport { vm, user, state, client: "c".into(), session };
        w.tx(move |tx| tx.session_report(n1, &session(UserState::Connected, 11))).await;
        w.tx(move |tx| tx.session_report(n2, &session(UserState::Disconnected, 22))).await;
        assert_eq!(w.life(vm).await.user_state, UserState::Connected, "another session's end is not this one's");
        w.tx(move |tx| tx.session_report(n1, &session(UserState::Disconnected, 11))).await;
        assert!(matches!(w.acquire(user, vm, 22, n2).await, Acquire::Held(_)));
        w.tx(move |tx| tx.session_report(n1, &session(UserState::Connected, 11))).await;
        assert_eq!(w.life(vm).await.session, Some(22), "a late word of the old one changes nothing");
    }

    async fn sessions_end_with_their_router(w) {
        let (user, ..) = w.flavour().await;
        let vm = w.vm("a").await;
        let node = w.node("n").await;
        w.acquire(user, vm, u64::MAX, node).await;
        w.tx(move |tx| tx.sessions_complete(node, &[u64::MAX])).await;
        assert_eq!(w.life(vm).await.session, Some(u64::MAX), "it still has it");
        w.tx(move |tx| tx.sessions_complete(node, &[])).await;
        assert_eq!(w.life(vm).await.user_state, UserState::Disconnected);
        w.acquire(user, vm, 1, node).await;
        w.pass(601);
        w.tx(|tx| tx.mark_lost(0)).await;
        assert_eq!(w.life(vm).await.user_state, UserState::Disconnected);
    }

    async fn a_revision_grows_with_each_change_and_with_nothing_else(w) {
        w.flavour().await;
        let vm = w.vm("a").await;
        let node = w.node("n").await;
        let first = w.desired(node).await;
        assert_eq!((first.revision, first.guests.len()), (1, 0));
        w.beat(node, HostState::Running).await;
        w.report(node, vm, VmState::Running, None).await;
        assert_eq!(w.desired(node).await, first);
        w.start(vm).await.expect("starts");
        let second = w.desired(node).await;
        let guest = &second.guests[0];
        assert_eq!((second.revision, guest.want, guest.epoch, guest.generation), (2, Want::Run, 1, 1));
        assert_eq!((guest.login.as_str(), guest.uid_base, guest.home_mib, guest.memory_mib), ("ann", 1_065_536, Some(100), 512));
        assert_eq!((guest.mac.as_str(), guest.image.digest), ("54:52:00:03:0f:32", Digest([1; 32])));
        w.tx(|tx| tx.config_set("hkd.vm.starting.max", "9")).await;
        assert_eq!(w.desired(node).await.revision, 3);
        w.tx(move |tx| tx.revision_at_least(node, 70)).await;
        assert_eq!(w.desired(node).await.revision, 71, "the node's ledger has seen 70");
    }

    async fn the_image_is_chosen_at_the_start_and_kept_until_the_next(w) {
        let (_, osf, first) = w.flavour().await;
        let vm = w.vm("a").await;
        let node = w.node("n").await;
        w.start(vm).await.expect("starts");
        let (second, _) = w.tx(move |tx| tx.di_add(osf, Some("v2"), &image(2))).await;
        w.tx(move |tx| tx.di_tag(second, "default")).await;
        assert_eq!(w.desired(node).await.guests[0].image.di, first);
        w.report(node, vm, VmState::Running, None).await;
        w.report(node, vm, VmState::Stopped, None).await;
        w.start(vm).await.expect("starts");
        assert_eq!(w.desired(node).await.guests[0].image.di, second);
        w.tx(move |tx| tx.vm_edit(vm, &EditVm { name: None, user: None, ip: None, di_tag: Some("none".into()), blocked: None })).await;
        w.report(node, vm, VmState::Stopped, None).await;
        assert_eq!(w.start(vm).await, Err(Refusal::Other("its OS flavour has no disk image tagged none".into())));
    }

    async fn later_properties_win_and_the_login_cannot_be_overridden(w) {
        let (user, osf, di) = w.flavour().await;
        let vm = w.vm("a").await;
        let node = w.node("n").await;
        w.tx(move |tx| {
            for (object, id) in [(Object::Osf, osf.0), (Object::Di, di.0), (Object::User, user.0), (Object::Vm, vm.0)] {
                tx.property_set(object, id, &format!("only.{}", object.as_str()), "x")?;
            }
            for (object, id) in [(Object::Vm, vm.0), (Object::Osf, osf.0)] {
                tx.property_set(object, id, "both", object.as_str())?;
            }
            tx.property_set(Object::User, user.0, "qvd.vm.user.name", "root")
        }).await;
        let Acquire::Held(placed) = w.acquire(user, vm, 1, node).await else { panic!("not held") };
        let get = |key: &str| placed.params.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        assert_eq!((get("both"), get("qvd.vm.user.name")), (Some("vm"), Some("ann")));
        assert!(["only.osf", "only.di", "only.user", "only.vm"].iter().all(|key| get(key) == Some("x")));
        let filter = Object::Vm.filter("property.both=v?").expect("a filter");
        assert_eq!(w.tx(move |tx| tx.matching(Object::Vm, &filter)).await.len(), 1);
    }

    async fn a_stop_is_a_command_of_its_own_and_asks_nothing_twice(w) {
        w.flavour().await;
        let vm = w.vm("a").await;
        let node = w.node("n").await;
        let stop = async || w.tx(move |tx| { let life = tx.life(vm)?.expect("the VM"); tx.want_stop(&life) }).await;
        stop().await.expect("nothing to do");
        assert_eq!(w.life(vm).await.generation, 0);
        w.start(vm).await.expect("starts");
        stop().await.expect("a start under way is called off");
        assert_eq!((w.life(vm).await.want, w.life(vm).await.generation), (Want::Stop, 2));
        w.start(vm).await.expect("starts");
        w.report(node, vm, VmState::Zombie, None).await;
        assert_eq!(stop().await, Err(Refusal::State(VmState::Zombie)));
    }

    async fn a_token_lets_one_node_join_and_that_one_may_ask_again(w) {
        w.tx(|tx| tx.token_add(TokenKind::Join, "hash", "", Some(tx.now_ms + 1000))).await;
        let join = async |token: Option<&'static str>, key: &'static str, name: &'static str| {
            w.tx(move |tx| tx.join(token, key, &join_request(name, token.is_some()))).await
        };
        let JoinOutcome::Accepted(node) = join(Some("hash"), "key-1", "n1").await else { panic!("not accepted") };
        assert_eq!(join(Some("hash"), "key-1", "n1").await, JoinOutcome::Accepted(node.clone()));
        let refused = |outcome: JoinOutcome| match outcome { JoinOutcome::Refused(reason) => reason, other => panic!("{other:?}") };
        assert!(refused(join(Some("hash"), "key-2", "n2").await).contains("was used already"));
        assert!(refused(join(Some("other"), "key-2", "n2").await).contains("is not known here"));
        w.tx(|tx| tx.token_add(TokenKind::Join, "late", "", Some(tx.now_ms + 1000))).await;
        w.tx(|tx| tx.token_add(TokenKind::Join, "twin", "", Some(tx.now_ms + 1000))).await;
        assert!(refused(join(Some("twin"), "key-2", "n1").await).contains("has joined before (id 1)"));
        w.pass(1);
        assert!(refused(join(Some("late"), "key-2", "n2").await).contains("expired at 2027-01-15 08:00:01Z"));
        assert_eq!(w.tx(|tx| tx.node_by_key("key-1")).await, Some(node));
        assert_eq!(w.tx(|tx| tx.node_by_key("key-2")).await, None);
    }

    async fn a_node_without_a_token_waits_for_approval_and_takes_no_name(w) {
        let known = w.tx(|tx| tx.host_add(&NewHost { name: "n1".into(), address: "192.0.2.7".into() })).await;
        let join = async |key: &'static str| w.tx(move |tx| tx.join(None, key, &join_request("n1", false))).await;
        let JoinOutcome::Pending(node) = join("0123456789").await else { panic!("not pending") };
        assert_eq!(node.name, "n1-01234567");
        assert_eq!(w.tx(|tx| tx.node_by_key("0123456789")).await, None);
        w.tx(move |tx| tx.host_approve(node.id)).await;
        assert_eq!(join("0123456789").await, JoinOutcome::Accepted(node));
        w.tx(|tx| tx.token_add(TokenKind::Join, "hash", "", Some(tx.now_ms + 1000))).await;
        let outcome = w.tx(|tx| tx.join(Some("hash"), "key-2", &join_request("n1", true))).await;
        assert!(matches!(outcome, JoinOutcome::Accepted(node) if node.id == known), "registered for this one");
    }

    async fn a_deleted_node_is_nobody(w) {
        w.tx(|tx| tx.token_add(TokenKind::Join, "hash", "", Some(tx.now_ms + 1000))).await;
        w.tx(|tx| tx.join(Some("hash"), "key", &join_request("n1", true))).await;
        w.tx(|tx| tx.host_del(HostId(1))).await;
        assert_eq!(w.tx(|tx| tx.node_by_key("key")).await, None);
    }

    async fn admin_tokens_expire(w) {
        w.tx(|tx| tx.token_add(TokenKind::Admin, "for-ever", "ops", None)).await;
        w.tx(|tx| tx.token_add(TokenKind::Admin, "a-while", "guest", Some(tx.now_ms + 1000))).await;
        assert_eq!(w.tx(|tx| tx.admin("a-while")).await.as_deref(), Some("guest"));
        w.pass(1);
        assert_eq!(w.tx(|tx| tx.admin("a-while")).await, None);
        assert_eq!(w.tx(|tx| tx.admin("for-ever")).await.as_deref(), Some("ops"));
    }

    async fn filters_select_by_every_kind_of_column(w) {
        w.flavour().await;
        for name in ["web-1", "web-2", "db_1", "Web-3"] { w.vm(name).await; }
        w.node("n1").await;
        w.start(VmId(1)).await.expect("starts");
        let names = async |text: &'static str| {
            let filter = Object::Vm.filter(text).expect("a filter");
            w.tx(move |tx| tx.vms(&filter)).await.into_iter().map(|vm| vm.name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("name=web-*").await, "web-1 web-2");
        assert_eq!(names("name=db?1").await, "db_1");
        assert_eq!(names("name=db_?").await, "db_1");
        assert_eq!(names("name=web_*").await, "", "an underscore is no wildcard");
        assert_eq!(names("id=3").await, "db_1");
        assert_eq!(names("user=ann,osf=desk,host=n1").await, "web-1");
        assert_eq!(names("ip=10.3.15.5?,state=stopped,blocked=0").await, "web-1 web-2 db_1 Web-3");
        assert_eq!(names("di=v1,id=1?").await, "");
        assert_eq!(names("unavailable=1").await, "");
        let dis = Object::Di.filter("tag=v?,osf=desk").expect("a filter");
        assert_eq!(w.tx(move |tx| tx.dis(&dis)).await.len(), 1);
        let hosts = Object::Host.filter("state=running,approved=1").expect("a filter");
        assert_eq!(w.tx(move |tx| tx.hosts(&hosts)).await[0].rss_kib, [("noded".to_owned(), 1234)]);
    }
}
