//! People, and properties of everything.

use super::{
    Actor, Answer, Body, Params, Shared,
    many::{Command, One},
};
use crate::{
    db::{Account, Named, Tx},
    error::{Error, Result},
    secret,
    store::Store,
    totp,
};
use axum::{
    Extension, Json, Router,
    extract::State,
    routing::{get, post},
};
use http::StatusCode;
use model::{
    UserId,
    api::{Added, Done, Keys, Login, NewUser, PropertyRow, Totp, UserRow},
    filter::Object,
    sync::{Secret, ToNode},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use zeroize::Zeroizing;

pub(super) fn router() -> Router<Arc<Store>> {
    let users = Router::new()
        .route("/users", get(list).post(add).delete(del))
        .route("/users/passwd", post(passwd))
        .route("/users/totp", post(new_totp))
        .route("/users/totp/del", post(totp_del));
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
        Ok(id)
    });
    store.hub.tell_all_even_late(&ToNode::EndLogins(changed.await?));
    Ok(Json(Done { matched: 1, done: 1, failed: Vec::new() }))
}

/// Gives a user a new secret of one-time codes, from now on asked for at each login.
async fn new_totp(
    State(store): Shared,
    Extension(Actor(actor)): Extension<Actor>,
    Body(Login { login }): Body<Login>,
) -> Answer<Json<Totp>> {
    let (key, sealer) = (Zeroizing::new(secret::new_totp()?), store.clone());
    let secret = key.clone();
    let set = store.db.write(move |tx| {
        let account = account(tx, &login)?;
        let sealed = sealer.pki.seal(&totp::context(account.id), &secret[..])?;
        tx.totp_set(account.id, Some(&secret::text(&sealed)))?;
        tx.event(&actor, "user.totp", &format!("user {}", account.id), &account.login)?;
        Ok(account)
    });
    let account = set.await?;
    store.hub.tell_all_even_late(&ToNode::EndLogins(account.id));
    Ok(Json(Totp { uri: Secret(totp::uri(&account.login, &key[..])) }))
}

async fn totp_del(
    State(store): Shared,
    Extension(Actor(actor)): Extension<Actor>,
    Body(Login { login }): Body<Login>,
) -> Answer<Json<Done>> {
    let done = store.db.write(move |tx| {
        let account = account(tx, &login)?;
        tx.totp_set(account.id, None)?;
        tx.event(&actor, "user.totp.del", &format!("user {}", account.id), &account.login)?;
        Ok(Done { matched: 1, done: account.totp.is_some().into(), failed: Vec::new() })
    });
    Ok(Json(done.await?))
}

fn account(tx: &Tx, login: &str) -> Result<Account> {
    let login = tx.normal_login(login)?;
    tx.account(&login)?.ok_or_else(|| Error::none("user", login))
}

async fn del(State(store): Shared, Extension(actor): Extension<Actor>, params: Params) -> Answer<Json<Done>> {
    let command =
        Command { object: Object::User, filter: params.filter(Object::User)?, actor: actor.0, what: "user.del" };
    let gone = Arc::new(Mutex::new(Vec::new()));
    let deleted = gone.clone();
    let work = move |tx: &Tx, user: &Named| {
        tx.user_del(UserId(user.id))?;
        deleted.lock().unwrap_or_else(PoisonError::into_inner).push(UserId(user.id));
        Ok(One::Done)
    };
    let done = command.run(&store, work).await?;
    for user in gone.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        store.hub.tell_all_even_late(&ToNode::EndLogins(user));
    }
    Ok(Json(done))
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
    let work = move |tx: &Tx, on: &Named| {
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
    let work = move |tx: &Tx, on: &Named| {
        Ok(if tx.properties_del(object, on.id, &keys.keys)? > 0 { One::Done } else { One::Nothing })
    };
    Ok(Json(command.run(&store, work).await?))
}
