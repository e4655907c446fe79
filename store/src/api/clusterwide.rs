//! What there is once: the cluster, its configuration, tokens, the log of events.

use super::{Actor, Answer, Body, Params, Shared};
use crate::{db::Tx, error::Result, pki, secret, store::Store};
use axum::{
    Extension, Json, Router,
    extract::State,
    routing::{get, post, put},
};
use http::StatusCode;
use model::{
    api::{Cluster, ConfigEntry, Done, EventRow, Keys, NewToken, Ssl, Token, TokenKind},
    sync::{RouterTls, Secret},
};
use std::{collections::BTreeMap, sync::Arc};

/// How long a join token is good when nothing is said.
pub const JOIN_TTL_S: u64 = 24 * 3600;
/// Longest life that a token may be given.
const TTL_MAX_S: u64 = 100 * 365 * 24 * 3600;
/// Events shown when nothing is said, and at most.
const EVENTS: (u32, u32) = (100, 10_000);

pub(super) fn router() -> Router<Arc<Store>> {
    Router::new()
        .route("/cluster", get(cluster))
        .route("/config", get(config).put(set))
        .route("/config/del", post(del))
        .route("/config/ssl", put(ssl))
        .route("/tokens", post(token))
        .route("/events", get(events))
}

async fn cluster(State(store): Shared) -> Json<Cluster> {
    Json(Cluster {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ca_sha256: store.pki.ca_sha256(),
        ca: store.pki.ca_pem().to_owned(),
        node_port: store.node_port,
    })
}

async fn config(State(store): Shared, params: Params) -> Answer<Json<Vec<ConfigEntry>>> {
    let internal = params.number("all")?.is_some_and(|n| n != 0);
    Ok(Json(store.db.read(move |tx| tx.config_entries(internal)).await?))
}

/// Sets all of them, or none.
async fn set(
    State(store): Shared,
    Extension(Actor(actor)): Extension<Actor>,
    Body(values): Body<BTreeMap<String, String>>,
) -> Answer<Json<Done>> {
    let count = u32::try_from(values.len()).unwrap_or(u32::MAX);
    let work = move |tx: &Tx| {
        for (key, value) in &values {
            tx.config_set(key, value)?;
            // The value may be a secret of the site's own.
            tx.event(&actor, "config.set", key, "")?;
        }
        Ok(Done { matched: count, done: count, failed: Vec::new() })
    };
    Ok(Json(store.db.write(work).await?))
}

async fn del(
    State(store): Shared,
    Extension(Actor(actor)): Extension<Actor>,
    Body(Keys { keys }): Body<Keys>,
) -> Answer<Json<Done>> {
    let work = move |tx: &Tx| {
        let keys = if keys.is_empty() { tx.config()?.0.into_keys().collect() } else { keys };
        let mut done = Done { matched: u32::try_from(keys.len()).unwrap_or(u32::MAX), done: 0, failed: Vec::new() };
        for key in keys {
            if tx.config_del(&key)? {
                done.done += 1;
                tx.event(&actor, "config.del", &key, "")?;
            }
        }
        Ok(done)
    };
    Ok(Json(store.db.write(work).await?))
}

async fn ssl(
    State(store): Shared,
    Extension(Actor(actor)): Extension<Actor>,
    Body(ssl): Body<Ssl>,
) -> Answer<StatusCode> {
    pki::check_pair(&RouterTls { chain: ssl.cert.clone(), key: ssl.key.0.clone() })?;
    let work = move |tx: &Tx| {
        tx.ssl_set(&ssl)?;
        tx.event(&actor, "config.ssl", "l7r.ssl", "")
    };
    store.db.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn token(
    State(store): Shared,
    Extension(Actor(actor)): Extension<Actor>,
    Body(new): Body<NewToken>,
) -> Answer<(StatusCode, Json<Token>)> {
    let token = secret::new_token()?;
    let expires = make_token(&store.db, &token, new, actor).await?;
    Ok((StatusCode::CREATED, Json(Token { token, expires })))
}

/// Keeps a token; Unix seconds until which it is good.
pub async fn make_token(db: &crate::db::Db, token: &Secret, new: NewToken, actor: String) -> Result<Option<u64>> {
    let ttl = new.ttl_s.or((new.kind == TokenKind::Join).then_some(JOIN_TTL_S)).map(|ttl| ttl.min(TTL_MAX_S));
    let sha256 = secret::token_sha256(&token.0);
    db.write(move |tx| {
        let expires = ttl.map(|ttl| tx.now_ms + ttl * 1000);
        tx.token_add(new.kind, &sha256, &new.note, expires)?;
        let what = match new.kind {
            TokenKind::Join => "token.join",
            TokenKind::Admin => "token.admin",
        };
        tx.event(&actor, what, "token", &new.note)?;
        Ok(expires.map(|ms| ms / 1000))
    })
    .await
}

async fn events(State(store): Shared, params: Params) -> Answer<Json<Vec<EventRow>>> {
    let (usual, most) = EVENTS;
    let limit = params.number("limit")?.map_or(usual, |n| u32::try_from(n).unwrap_or(most).min(most));
    Ok(Json(store.db.read(move |tx| tx.events(limit)).await?))
}
