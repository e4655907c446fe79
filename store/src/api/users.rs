//! People, and properties of everything.

use super::{
    Actor, Answer, Body, Params, Shared,
    many::{Command, One},
};
use crate::{error::Error, secret, store::Store};
use axum::{
    Extension, Json, Router,
    extract::State,
    routing::{get, post},
};
use http::StatusCode;
use model::{
    UserId,
    api::{Added, Done, Keys, NewUser, PropertyRow, UserRow},
    filter::Object,
};
use std::{collections::BTreeMap, sync::Arc};

pub(super) fn router() -> Router<Arc<Store>> {
    let users = Router::new().route("/users", get(list).post(add).delete(del)).route("/users/passwd", post(passwd));
    let objects = [
        ("/hosts/properties", Object::Host),
        ("/osfs/properties", Object::Osf),
        ("/dis/properties", Object::Di),
        ("/users/properties", Object::User),
        ("/vms/properties", Object::Vm),
    ];
    objects.into_iter().fold(users, |router, (path, object)| {
        let paths = Router::new()
            .route(path, get(properties).put(set_properties))
            .route(&format!("{path}/del"), post(del_properties))
            .layer(Extension(object));
        router.merge(paths)
    })
}

async fn list(State(store): Shared, params: Params) -> Answer<Json<Vec<UserRow>>> {
    let filter = params.filter(Object::User)?;
    Ok(Json(store.db.read(move |tx| tx.users(&filter)).await?))
}

async fn add(
    State(store): Shared,
    Extension(Actor(actor)): Extension<Actor>,
    Body(new): Body<NewUser>,
) -> Answer<(StatusCode, Json<Added>)> {
    let (login, hash) = (new.login, secret::hash(new.password).await?);
    let added = store.db.write(move |tx| {
        let id = tx.user_add(&login, Some(&hash))?;
        tx.event(&actor, "user.add", &format!("user {id}"), &login)?;
        Ok(Added { id: id.0, count: 1 })
    });
    Ok((StatusCode::CREATED, Json(added.await?)))
}

async fn passwd(
    State(store): Shared,
    Extension(Actor(actor)): Extension<Actor>,
    Body(new): Body<NewUser>,
) -> Answer<Json<Done>> {
    let (login, hash) = (new.login, secret::hash(new.password).await?);
    let changed = store.db.write(move |tx| {
        let id = tx.user_passwd(&login, &hash)?;
        tx.event(&actor, "user.passwd", &format!("user {id}"), &login)?;
        Ok(Done { matched: 1, done: 1, failed: Vec::new() })
    });
    Ok(Json(changed.await?))
}

async fn del(State(store): Shared, Extension(actor): Extension<Actor>, params: Params) -> Answer<Json<Done>> {
    let command =
        Command { object: Object::User, filter: params.filter(Object::User)?, actor: actor.0, what: "user.del" };
    Ok(Json(command.run(&store, |tx, user| tx.user_del(UserId(user.id)).map(|()| One::Done)).await?))
}

async fn properties(
    State(store): Shared,
    Extension(object): Extension<Object>,
    params: Params,
) -> Answer<Json<Vec<PropertyRow>>> {
    let filter = params.filter(object)?;
    Ok(Json(store.db.read(move |tx| tx.properties(object, &filter)).await?))
}

async fn set_properties(
    State(store): Shared,
    Extension(object): Extension<Object>,
    Extension(actor): Extension<Actor>,
    params: Params,
    Body(values): Body<BTreeMap<String, String>>,
) -> Answer<Json<Done>> {
    if values.is_empty() {
        return Err(Error::Invalid("No property is given: expected at least one key=value".to_owned()).into());
    }
    let command = Command { object, filter: params.filter(object)?, actor: actor.0, what: "properties.set" };
    let work = move |tx: &crate::db::Tx, on: &crate::db::Named| {
        values.iter().try_for_each(|(key, value)| tx.property_set(object, on.id, key, value))?;
        Ok(One::Done)
    };
    Ok(Json(command.run(&store, work).await?))
}

async fn del_properties(
    State(store): Shared,
    Extension(object): Extension<Object>,
    Extension(actor): Extension<Actor>,
    params: Params,
    Body(keys): Body<Keys>,
) -> Answer<Json<Done>> {
    let command = Command { object, filter: params.filter(object)?, actor: actor.0, what: "properties.del" };
    let work = move |tx: &crate::db::Tx, on: &crate::db::Named| {
        Ok(if tx.properties_del(object, on.id, &keys.keys)? > 0 { One::Done } else { One::Nothing })
    };
    Ok(Json(command.run(&store, work).await?))
}
