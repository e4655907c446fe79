//! Versions of the node's image.

use super::{
    Actor, Answer, Body, Shared,
    images::{Turn, whole_upload},
};
use crate::{
    error::{Error, Result},
    sets,
    store::Store,
};
use axum::{
    Extension, Json, Router,
    extract::{Path, State},
    routing::{delete, get},
};
use http::StatusCode;
use model::api::{NewNodeImage, NodeImageRow};
use std::sync::Arc;

pub(super) fn router() -> Router<Arc<Store>> {
    Router::new().route("/images", get(list).post(add)).route("/images/{id}", delete(del))
}

async fn list(State(store): Shared) -> Answer<Json<Vec<NodeImageRow>>> {
    Ok(Json(store.db.read(|tx| tx.node_images()).await?))
}

/// Looks through the set, publishes its file, then its row; a row that fails takes the file with it.
async fn add(
    State(store): Shared,
    Extension(Actor(actor)): Extension<Actor>,
    Body(new): Body<NewNodeImage>,
) -> Answer<(StatusCode, Json<NodeImageRow>)> {
    let (upload, sha256) = whole_upload(&store, &new.upload).await?;
    let _turn = Turn::take(&store, &upload.id)?;
    let (path, name) = (store.images.upload(&upload.id), upload.name.clone());
    let set = tokio::task::spawn_blocking(move || sets::inspect(&path, &name)).await;
    let set = set.map_err(|_| Error::Refused("The set's check was broken off: try again".to_owned()))??;
    if let Some(announced) = sha256.filter(|announced| *announced != set.digest) {
        let text = format!("The upload has the digest {}, announced was {announced}: send it again", set.digest);
        return Err(Error::Invalid(text).into());
    }
    let _publishing = store.publishing.lock().await;
    let digest = set.digest;
    let id = upload.id.clone();
    let added = store.db.write(move |tx| {
        let image = tx.node_image_add(&set)?;
        tx.upload_del(&id)?;
        tx.event(&actor, "image.add", &format!("image {image}"), &set.manifest.version)?;
        Ok(image)
    });
    let image = added.await?;
    if let Err(error) = store.images.publish_set(&upload.id, &digest) {
        store.db.write(move |tx| tx.node_image_del(image)).await?;
        return Err(error.into());
    }
    Ok((StatusCode::CREATED, Json(row(&store, image).await?)))
}

async fn row(store: &Store, id: u32) -> Result<NodeImageRow> {
    let rows = store.db.read(|tx| tx.node_images()).await?;
    rows.into_iter().find(|row| row.id == id).ok_or_else(|| Error::none("image", id))
}

async fn del(
    State(store): Shared,
    Extension(Actor(actor)): Extension<Actor>,
    Path(id): Path<u32>,
) -> Answer<StatusCode> {
    let _publishing = store.publishing.lock().await;
    let gone = store.db.write(move |tx| {
        let digest = tx.node_image_del(id)?;
        tx.event(&actor, "image.del", &format!("image {id}"), "")?;
        Ok(digest)
    });
    store.images.remove_set(&gone.await?)?;
    Ok(StatusCode::NO_CONTENT)
}
