//! Nodes.

use super::{
    Actor, Answer, Body, Params, Shared,
    many::{Command, One},
};
use crate::{recovery, store::Store};
use axum::{
    Extension, Json, Router,
    extract::{Path, State},
    routing::{get, post},
};
use http::StatusCode;
use model::{
    HostId,
    api::{Added, BootLog, BootRow, Done, HostCounters, HostRecovery, HostRow, NewHost, UpdateHosts},
    filter::Object,
    init::Timeline,
};
use std::sync::Arc;

pub(super) fn router() -> Router<Arc<Store>> {
    Router::new()
        .route("/hosts", get(list).post(add).delete(del))
        .route("/hosts/counters", get(counters))
        .route("/hosts/boots", get(boots))
        .route("/hosts/boots/{id}", get(boot_log))
        .route("/hosts/block", post(block))
        .route("/hosts/unblock", post(unblock))
        .route("/hosts/approve", post(approve))
        .route("/hosts/update", post(update))
        .route("/hosts/recovery", post(recovery_keys))
        .route("/hosts/{id}/timeline", get(timeline))
}

async fn list(State(store): Shared, params: Params) -> Answer<Json<Vec<HostRow>>> {
    let filter = params.filter(Object::Host)?;
    let mut hosts = store.db.read(move |tx| tx.hosts(&filter)).await?;
    for host in &mut hosts {
        host.connected = store.hub.connected(host.id);
    }
    Ok(Json(hosts))
}

async fn counters(State(store): Shared, params: Params) -> Answer<Json<Vec<HostCounters>>> {
    let filter = params.filter(Object::Host)?;
    Ok(Json(store.db.read(move |tx| tx.host_counters(&filter)).await?))
}

async fn boots(State(store): Shared, params: Params) -> Answer<Json<Vec<BootRow>>> {
    let filter = params.filter(Object::Host)?;
    Ok(Json(store.db.read(move |tx| tx.boots(&filter)).await?))
}

async fn boot_log(State(store): Shared, Path(id): Path<u32>) -> Answer<Json<BootLog>> {
    Ok(Json(store.db.read(move |tx| tx.boot_log(id)).await?))
}

async fn timeline(State(store): Shared, Path(id): Path<u32>) -> Answer<Json<Timeline>> {
    Ok(Json(store.db.read(move |tx| tx.timeline(HostId(id))).await?))
}

async fn add(
    State(store): Shared,
    Extension(Actor(actor)): Extension<Actor>,
    Body(new): Body<NewHost>,
) -> Answer<(StatusCode, Json<Added>)> {
    let added = store.db.write(move |tx| {
        let id = tx.host_add(&new)?;
        tx.event(&actor, "host.add", &format!("host {id}"), &new.name)?;
        Ok(Added { id: id.0, count: 1 })
    });
    Ok((StatusCode::CREATED, Json(added.await?)))
}

fn command(params: Params, actor: Actor, what: &'static str) -> crate::error::Result<Command> {
    Ok(Command { object: Object::Host, filter: params.filter(Object::Host)?, actor: actor.0, what })
}

async fn block(State(store): Shared, Extension(actor): Extension<Actor>, params: Params) -> Answer<Json<Done>> {
    let command = command(params, actor, "host.block")?;
    Ok(Json(command.run(&store, |tx, host| tx.host_block(HostId(host.id), true).map(|()| One::Done)).await?))
}

async fn unblock(State(store): Shared, Extension(actor): Extension<Actor>, params: Params) -> Answer<Json<Done>> {
    let command = command(params, actor, "host.unblock")?;
    Ok(Json(command.run(&store, |tx, host| tx.host_block(HostId(host.id), false).map(|()| One::Done)).await?))
}

async fn approve(State(store): Shared, Extension(actor): Extension<Actor>, params: Params) -> Answer<Json<Done>> {
    let command = command(params, actor, "host.approve")?;
    Ok(Json(command.run(&store, |tx, host| tx.host_approve(HostId(host.id)).map(|()| One::Done)).await?))
}

/// Makes nodes one rollout. Its first turns come at once.
async fn update(
    State(store): Shared,
    Extension(actor): Extension<Actor>,
    params: Params,
    Body(wish): Body<UpdateHosts>,
) -> Answer<Json<Done>> {
    let command = command(params, actor, "host.update")?;
    let mut rollout = None;
    let work = move |tx: &crate::db::Tx, host: &crate::db::Named| {
        let id = match rollout {
            Some(id) => id,
            None => *rollout.insert(tx.rollout_add(&wish)?),
        };
        tx.rollout_join(HostId(host.id), id)?;
        Ok(One::Done)
    };
    let done = command.run(&store, work).await?;
    store.db.write(|tx| tx.rollouts_step()).await?;
    Ok(Json(done))
}

/// Shows recovery keys; that somebody saw them is written down first.
async fn recovery_keys(
    State(store): Shared,
    Extension(Actor(actor)): Extension<Actor>,
    params: Params,
) -> Answer<Json<Vec<HostRecovery>>> {
    let filter = params.filter(Object::Host)?;
    let kept = store.db.write_quietly(move |tx| {
        let kept = tx.recovery_keys(&filter)?;
        for row in &kept {
            let detail = format!("{}, volume {}", row.name, row.volume);
            tx.event(&actor, "host.recovery", &format!("host {}", row.host), &detail)?;
        }
        Ok(kept)
    });
    let keys = kept.await?.into_iter().map(|row| recovery::open(&store.pki, row));
    Ok(Json(keys.collect::<crate::error::Result<_>>()?))
}

/// Deletes nodes and ends their connections: they are not registered any more.
async fn del(State(store): Shared, Extension(actor): Extension<Actor>, params: Params) -> Answer<Json<Done>> {
    let command = command(params, actor, "host.del")?;
    let hub = store.hub.clone();
    let work = move |tx: &crate::db::Tx, host: &crate::db::Named| {
        tx.host_del(HostId(host.id))?;
        hub.cut(HostId(host.id), "the node was deleted");
        Ok(One::Done)
    };
    Ok(Json(command.run(&store, work).await?))
}
