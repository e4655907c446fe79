//! Virtual machines.

use super::{
    Actor, Answer, Body, Params, Shared,
    many::{Command, One},
};
use crate::{
    db::{Life, Named, Tx},
    error::{Error, Result},
    secret,
    store::Store,
};
use axum::{
    Extension, Json, Router,
    extract::State,
    routing::{get, post},
};
use http::StatusCode;
use model::{
    HostId, VmId,
    api::{Added, BlockVm, Done, EditVm, NewVm, VmCounters, VmRow},
    filter::Object,
    state::{UserState, VmState, Want},
    sync::ToNode,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What one reads whose session ends by a block.
const IN_MAINTENANCE: &str = "This desktop is in maintenance now";

pub(super) fn router() -> Router<Arc<Store>> {
    Router::new()
        .route("/vms", get(list).post(add).patch(edit).delete(del))
        .route("/vms/counters", get(counters))
        .route("/vms/start", post(start))
        .route("/vms/stop", post(stop))
        .route("/vms/block", post(block))
        .route("/vms/unblock", post(unblock))
        .route("/vms/disconnect_user", post(disconnect_user))
        .route("/vms/release", post(release))
}

async fn list(State(store): Shared, params: Params) -> Answer<Json<Vec<VmRow>>> {
    let filter = params.filter(Object::Vm)?;
    Ok(Json(store.db.read(move |tx| tx.vms(&filter)).await?))
}

async fn counters(State(store): Shared, params: Params) -> Answer<Json<Vec<VmCounters>>> {
    let filter = params.filter(Object::Vm)?;
    Ok(Json(store.db.read(move |tx| tx.vm_counters(&filter)).await?))
}

async fn add(
    State(store): Shared,
    Extension(Actor(actor)): Extension<Actor>,
    Body(new): Body<NewVm>,
) -> Answer<(StatusCode, Json<Added>)> {
    let added = store.db.write(move |tx| {
        let ids = tx.vm_add(&new)?;
        for id in &ids {
            tx.event(&actor, "vm.add", &format!("vm {id}"), &new.name)?;
        }
        let first = ids.first().map_or(0, |id| id.0);
        Ok(Added { id: first, count: u32::try_from(ids.len()).unwrap_or(u32::MAX) })
    });
    Ok((StatusCode::CREATED, Json(added.await?)))
}

/// Runs a command on each VM with its life.
async fn each<F>(store: &Store, params: Params, actor: Actor, what: &'static str, mut work: F) -> Answer<Json<Done>>
where
    F: FnMut(&Tx, Life) -> Result<One> + Send + 'static,
{
    let command = Command { object: Object::Vm, filter: params.filter(Object::Vm)?, actor: actor.0, what };
    let work = move |tx: &Tx, vm: &Named| {
        let life = tx.life(VmId(vm.id))?.ok_or_else(|| Error::none("virtual machine", vm.id))?;
        work(tx, life)
    };
    Ok(Json(command.run(store, work).await?))
}

async fn edit(
    State(store): Shared,
    Extension(actor): Extension<Actor>,
    params: Params,
    Body(edit): Body<EditVm>,
) -> Answer<Json<Done>> {
    let cut = Cut::default();
    let found = cut.clone();
    let done = each(&store, params, actor, "vm.edit", move |tx, life| {
        tx.vm_edit(life.id, &edit)?;
        if edit.blocked == Some(true) {
            found.note(&life);
        }
        Ok(One::Done)
    })
    .await?;
    cut.carry_out(&store, IN_MAINTENANCE);
    Ok(done)
}

async fn del(State(store): Shared, Extension(actor): Extension<Actor>, params: Params) -> Answer<Json<Done>> {
    each(&store, params, actor, "vm.del", |tx, life| {
        tx.vm_del(life.id)?;
        Ok(One::Done)
    })
    .await
}

async fn start(State(store): Shared, Extension(actor): Extension<Actor>, params: Params) -> Answer<Json<Done>> {
    each(&store, params, actor, "vm.start", |tx, life| {
        if life.state != VmState::Stopped {
            return Err(Error::Refused(format!("it is {}: only a stopped one can be started", life.state)));
        }
        match tx.want_run(&life, &mut secret::dice)? {
            Ok(_) => Ok(One::Done),
            Err(refusal) => Err(Error::Refused(refusal.to_string())),
        }
    })
    .await
}

async fn stop(State(store): Shared, Extension(actor): Extension<Actor>, params: Params) -> Answer<Json<Done>> {
    each(&store, params, actor, "vm.stop", |tx, life| {
        if life.state == VmState::Stopped && life.want == Want::Stop {
            return Err(Error::Refused("it is stopped".to_owned()));
        }
        match tx.want_stop(&life)? {
            Ok(()) => Ok(One::Done),
            Err(refusal) => Err(Error::Refused(refusal.to_string())),
        }
    })
    .await
}

/// Blocks, and ends the sessions there are: who is in maintenance is not in use.
async fn block(
    State(store): Shared,
    Extension(actor): Extension<Actor>,
    params: Params,
    Body(body): Body<Option<BlockVm>>,
) -> Answer<Json<Done>> {
    let note = body.and_then(|body| body.note);
    let reason = note.as_ref().map_or(IN_MAINTENANCE.to_owned(), |note| format!("{IN_MAINTENANCE}: {note}"));
    let cut = Cut::default();
    let found = cut.clone();
    let done = each(&store, params, actor, "vm.block", move |tx, life| {
        tx.vm_block(life.id, note.as_deref())?;
        found.note(&life);
        Ok(One::Done)
    })
    .await?;
    cut.carry_out(&store, &reason);
    Ok(done)
}

async fn unblock(State(store): Shared, Extension(actor): Extension<Actor>, params: Params) -> Answer<Json<Done>> {
    each(&store, params, actor, "vm.unblock", |tx, life| {
        tx.vm_unblock(life.id)?;
        Ok(One::Done)
    })
    .await
}

async fn release(State(store): Shared, Extension(actor): Extension<Actor>, params: Params) -> Answer<Json<Done>> {
    each(&store, params, actor, "vm.release", |tx, life| {
        tx.vm_release(&life)?;
        Ok(One::Done)
    })
    .await
}

/// Ends sessions; VMs without one are passed over.
async fn disconnect_user(
    State(store): Shared,
    Extension(actor): Extension<Actor>,
    params: Params,
) -> Answer<Json<Done>> {
    let cut = Cut::default();
    let found = cut.clone();
    let done = each(&store, params, actor, "vm.disconnect_user", move |_, life| {
        Ok(if found.note(&life) { One::Done } else { One::Nothing })
    })
    .await?;
    cut.carry_out(&store, model::sync::ENDED);
    Ok(done)
}

/// Sessions to cut once the transaction that decides it is over.
#[derive(Clone, Default)]
struct Cut(Arc<Mutex<Vec<Holding>>>);

/// The router that has a session, the VM, and the session.
type Holding = (HostId, VmId, Option<u64>);

impl Cut {
    /// Takes note of a VM's session; false when there is none.
    fn note(&self, life: &Life) -> bool {
        let router = life.session_host.filter(|_| life.user_state != UserState::Disconnected);
        let Some(router) = router else { return false };
        self.lock().push((router, life.id, life.session));
        true
    }

    fn carry_out(&self, store: &Store, reason: &str) {
        for (router, vm, session) in self.lock().drain(..) {
            store.hub.send(router, ToNode::AbortSession { vm, session, reason: reason.to_owned() });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Holding>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
