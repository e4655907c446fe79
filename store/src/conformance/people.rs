//! What concerns people: their logins, their codes, and what they are told of their machines.

use super::world::{World, report};
use model::{
    filter::Filter,
    state::{HostState, UserState, VmState},
    sync::{Block, GuestReport},
};
use std::sync::atomic::Ordering;

promises! {
    async fn logins_are_one_whatever_their_case_unless_the_cluster_tells_them_apart(w) {
        w.tx(|tx| tx.user_add("  Ann ", None)).await;
        assert_eq!(w.refused(|tx| tx.user_add("ANN", None)).await, "There is a user ann already");
        w.tx(|tx| tx.config_set("model.user.login.case-sensitive", "1")).await;
        w.tx(|tx| tx.user_add("Ann", None)).await;
        for bad in ["", "a b", "a:b", "-x"] {
            assert!(w.refused(move |tx| tx.user_add(bad, None)).await.contains("is not a login"), "{bad}");
        }
    }

    async fn a_user_is_told_since_when_why_it_failed_and_why_it_is_blocked(w) {
        let (user, ..) = w.flavour().await;
        let vm = w.vm("a").await;
        let node = w.node("n").await;
        let card = async || w.tx(move |tx| tx.cards_of(user)).await.remove(0);
        w.pass(60);
        let at_rest = card().await;
        assert_eq!((at_rest.state_ms, at_rest.block, at_rest.failed), (Some(60_000), None, None));
        assert_eq!((at_rest.session, at_rest.session_ms), (UserState::Disconnected, None), "never used");
        w.beat(node, HostState::Running).await;
        w.acquire(user, vm, 7, node).await;
        w.pass(5);
        let told = report(vm, 1, 1, VmState::Starting);
        let started = w.now.load(Ordering::SeqCst);
        let waiting = GuestReport { phase: "waiting-for-agent".into(), since_ms: started, ..told };
        w.tx(move |tx| tx.guest_report(node, &waiting, true)).await;
        w.pass(2);
        let starting = card().await;
        assert_eq!((starting.phase.as_str(), starting.state_ms), ("waiting-for-agent", Some(2_000)));
        assert_eq!((starting.session, starting.session_ms), (UserState::Connecting, Some(7_000)));
        w.acquire(user, vm, 7, node).await;
        assert_eq!(card().await.session_ms, Some(7_000), "a state that is told again is no new one");
        let long = format!("no init in the image{}\nand a trace", "!".repeat(500));
        w.report(node, vm, VmState::Stopped, Some(&long)).await;
        let failed = card().await;
        assert_eq!(failed.block, Some(Block::FailedStart));
        let text = failed.failed.expect("told");
        assert!(text.starts_with("no init in the image!") && text.len() == 200, "{text}");
        w.tx(move |tx| tx.vm_block(vm, Some(" new disks, back at noon "))).await;
        assert_eq!(card().await.block, Some(Block::Order(Some("new disks, back at noon".into()))));
        let row = w.tx(|tx| tx.vms(&Filter::default())).await.remove(0);
        assert_eq!((row.blocked_reason, row.block_note.as_deref()), (None, Some("new disks, back at noon")));
        w.tx(move |tx| tx.vm_block(vm, None)).await;
        assert_eq!(card().await.block, Some(Block::Order(None)));
        w.tx(move |tx| tx.vm_unblock(vm)).await;
        assert_eq!(card().await.block, None);
        w.pass(601);
        w.tx(|tx| tx.mark_lost(0)).await;
        assert!(card().await.unavailable);
        for bad in ["a\nb".to_owned(), "x".repeat(301)] {
            assert!(w.refused(move |tx| tx.vm_block(vm, Some(&bad))).await.contains("at most 300 characters"));
        }
    }

    async fn a_one_time_code_is_used_up_once_with_all_before_it(w) {
        let ann = w.tx(|tx| tx.user_add("ann", None)).await;
        let totp = async || w.tx(|tx| tx.account("ann")).await.expect("the user").totp;
        assert_eq!(totp().await, None);
        w.tx(move |tx| tx.totp_set(ann, Some("sealed"))).await;
        assert_eq!(totp().await, Some(("sealed".to_owned(), 0)));
        assert!(w.tx(move |tx| tx.totp_use(ann, 7)).await);
        for used in [7, 6, 0] {
            assert!(!w.tx(move |tx| tx.totp_use(ann, used)).await, "{used}");
        }
        assert!(w.tx(move |tx| tx.totp_use(ann, 8)).await);
        assert_eq!(totp().await, Some(("sealed".to_owned(), 8)));
        w.tx(move |tx| tx.totp_set(ann, Some("another"))).await;
        assert_eq!(totp().await, Some(("another".to_owned(), 0)), "a new secret has codes of its own");
        w.tx(move |tx| tx.totp_set(ann, None)).await;
        assert_eq!(totp().await, None);
    }
}
