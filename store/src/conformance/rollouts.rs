//! Versions of the node's image, and how nodes come to them.

use super::world::World;
use crate::db::NewSet;
use image::{set::About, verity};
use model::{
    Digest, HostId,
    api::UpdateHosts,
    filter::Filter,
    state::{HostState, UpdateStep},
    update::{Progress, Refused, Versions},
};

fn set(version: &str) -> NewSet {
    let mut root = std::io::Cursor::new(vec![7; 8192]);
    let verity = verity::append(&mut root, 8192, &[1; 32]).expect("a tree");
    let contents = image::set::measure(&b"uki"[..], root.get_ref().as_slice()).expect("measured");
    let about = About {
        name: "node".into(),
        version: version.into(),
        level: "dev".into(),
        epoch: 1,
        expires: None,
        verity: verity.to_string(),
        kernel: "6".into(),
        keys: None,
        cluster: None,
    };
    let digest = Digest(std::array::from_fn(|i| version.as_bytes().get(i).copied().unwrap_or_default()));
    NewSet { digest, bytes: 4096, manifest: about.manifest(&contents), signatures: 1 }
}

fn wish(version: &str) -> UpdateHosts {
    UpdateHosts { image: Some(version.into()), window: None, max_unavailable: None, drain_s: Some(60) }
}

fn at(step: UpdateStep) -> Versions {
    let update = Some(Progress { version: "2".into(), step, detail: String::new() });
    Versions { running: "1".into(), update, ..Versions::default() }
}

fn runs(version: &str, trial: bool) -> Versions {
    Versions { running: version.into(), trial, ..Versions::default() }
}

/// One rollout of these nodes.
async fn begin(w: &World, wish: UpdateHosts, hosts: &[HostId]) {
    let hosts = hosts.to_vec();
    w.tx(move |tx| {
        let id = tx.rollout_add(&wish)?;
        hosts.into_iter().try_for_each(|host| tx.rollout_join(host, id))?;
        tx.rollouts_step()
    })
    .await;
}

async fn tells(w: &World, host: HostId, versions: Versions) {
    w.tx(move |tx| {
        tx.versions_set(host, &versions)?;
        tx.rollouts_step()
    })
    .await;
}

/// To which version a node is told to move, and whether it is its turn.
async fn told(w: &World, host: HostId) -> Option<(String, bool)> {
    w.desired(host).await.update.map(|update| (update.version, update.go))
}

fn some(version: &str, go: bool) -> Option<(String, bool)> {
    Some((version.to_owned(), go))
}

promises! {
    async fn nodes_fetch_at_once_and_go_one_after_the_other(w) {
        let (a, b) = (w.node("a").await, w.node("b").await);
        w.tx(|tx| tx.node_image_add(&set("2"))).await;
        begin(&w, wish("2"), &[a, b]).await;
        assert_eq!((told(&w, a).await, told(&w, b).await), (some("2", false), some("2", false)));
        tells(&w, b, at(UpdateStep::Staged)).await;
        assert_eq!((told(&w, a).await, told(&w, b).await), (some("2", false), some("2", true)), "the first that can");
        assert!(w.desired(b).await.blocked, "nothing new comes to a node that goes down");
        let takes = w.tx(|tx| Ok(tx.candidates()?.into_iter().map(|c| c.host).collect::<Vec<_>>())).await;
        assert_eq!(takes, [a]);
        tells(&w, a, at(UpdateStep::Staged)).await;
        tells(&w, b, at(UpdateStep::Armed)).await;
        w.beat(b, HostState::Stopping).await;
        tells(&w, b, runs("2", true)).await;
        assert_eq!(told(&w, a).await, some("2", false), "the other is on trial yet");
        w.beat(b, HostState::Running).await;
        tells(&w, b, runs("2", false)).await;
        assert_eq!((told(&w, a).await, told(&w, b).await), (some("2", true), some("2", false)));
        assert!(!w.desired(b).await.blocked);
        let images = w.tx(|tx| tx.node_images()).await;
        assert_eq!((images[0].running, images[0].wanted), (1, 1));
    }

    async fn the_first_node_that_goes_back_halts_the_rollout_and_no_node_is_asked_again(w) {
        let (a, b) = (w.node("a").await, w.node("b").await);
        w.tx(|tx| tx.node_image_add(&set("2"))).await;
        begin(&w, wish("2"), &[a, b]).await;
        tells(&w, a, at(UpdateStep::Staged)).await;
        tells(&w, b, at(UpdateStep::Staged)).await;
        let refused = vec![Refused { version: "2".into(), reason: "no guest starts".into() }];
        tells(&w, a, Versions { refused, ..runs("1", false) }).await;
        assert_eq!((told(&w, a).await, told(&w, b).await), (None, None));
        let hosts = w.tx(|tx| tx.hosts(&Filter::default())).await;
        let update = hosts[1].update.clone().expect("part of it still");
        assert_eq!(update.halted.as_deref(), Some("a refused it: no guest starts"));
        let again = w.refused(move |tx| tx.rollout_add(&wish("2")).and_then(|id| tx.rollout_join(a, id))).await;
        assert_eq!(again, "2 did not hold on it: no guest starts. Build a newer version");
        begin(&w, wish("2"), &[b]).await;
        assert_eq!(told(&w, b).await, some("2", true), "another node may be asked by itself");
    }

    async fn a_node_in_its_turn_is_told_of_users_who_come_through_another_router(w) {
        let (user, ..) = w.flavour().await;
        let vm = w.vm("a").await;
        let (a, b) = (w.node("a").await, w.node("b").await);
        w.start(vm).await.expect("started");
        let holder = w.life(vm).await.host.expect("placed");
        let other = if holder == a { b } else { a };
        w.tx(|tx| tx.node_image_add(&set("2"))).await;
        begin(&w, wish("2"), &[holder]).await;
        w.acquire(user, vm, 7, other).await;
        let users = async || w.desired(holder).await.update.map(|update| update.users);
        assert_eq!(users().await, Some(0), "of no matter before its turn");
        tells(&w, holder, at(UpdateStep::Staged)).await;
        assert_eq!(users().await, Some(1));
        w.tx(move |tx| tx.session_report(other, &model::sync::SessionReport::over(vm, 7))).await;
        assert_eq!(users().await, Some(0), "gone");
    }

    async fn a_rollout_keeps_its_hours(w) {
        let a = w.node("a").await;
        w.tx(|tx| tx.node_image_add(&set("2"))).await;
        // The clock of these tests says 08:00.
        begin(&w, UpdateHosts { window: Some("22:00-05:00".into()), ..wish("2") }, &[a]).await;
        tells(&w, a, at(UpdateStep::Staged)).await;
        assert_eq!(told(&w, a).await, some("2", false));
        w.pass(14 * 3600);
        w.beat(a, HostState::Running).await;
        w.tx(|tx| tx.rollouts_step()).await;
        assert_eq!(told(&w, a).await, some("2", true));
        w.pass(7 * 3600);
        w.tx(|tx| tx.rollouts_step()).await;
        assert_eq!(told(&w, a).await, some("2", false), "it did not use its turn");
    }

    async fn what_cannot_be_meant_is_refused(w) {
        let a = w.node("a").await;
        w.tx(|tx| tx.node_image_add(&set("2"))).await;
        let add = |wish: UpdateHosts| w.refused(move |tx| tx.rollout_add(&wish));
        assert_eq!(w.refused(|tx| tx.node_image_add(&set("2"))).await, "There is a version of the node's image 2 already");
        assert_eq!(add(wish("3")).await, "There is no version of the node's image 3");
        assert!(add(UpdateHosts { max_unavailable: Some(0), ..wish("2") }).await.contains("at least 1"));
        assert!(add(UpdateHosts { window: Some("late".into()), ..wish("2") }).await.contains("expected HH:MM-HH:MM"));
        begin(&w, wish("2"), &[a]).await;
        assert!(w.refused(|tx| tx.node_image_del(1)).await.starts_with("1 nodes are to run it"));
        tells(&w, a, at(UpdateStep::Armed)).await;
        let left = w.refused(move |tx| tx.rollout_join(a, None)).await;
        assert!(left.starts_with("it is moving to 2 just now"), "{left}");
        tells(&w, a, runs("2", false)).await;
        begin(&w, UpdateHosts { image: None, ..wish("2") }, &[a]).await;
        assert_eq!(told(&w, a).await, None);
        w.tx(|tx| tx.node_image_del(1)).await;
    }
}
