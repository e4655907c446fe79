//! OS flavours, disk images and uploads.

use super::{
    Actor, Answer, Body, Params, Shared,
    many::{Command, One},
};
use crate::{
    db::Tx,
    error::{Error, Result},
    import::{self, Order},
    secret,
    store::Store,
};
use axum::{
    Extension, Json, Router,
    extract::{Path, State},
    routing::{get, post},
};
use futures_util::StreamExt;
use http::StatusCode;
use model::{
    DiId, OsfId,
    api::{Added, DiRow, Done, Import, NewDi, NewOsf, NewUpload, OsfRow, Tag, Upload},
    filter::Object,
};
use std::{
    collections::HashSet,
    io::SeekFrom,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    fs::OpenOptions,
    io::{AsyncSeekExt, AsyncWriteExt, BufWriter},
};

/// Written to disk at a time.
const CHUNK: usize = 1 << 20;

pub(super) fn router() -> Router<Arc<Store>> {
    Router::new()
        .route("/osfs", get(osfs).post(add_osf).delete(del_osfs))
        .route("/dis", get(dis).post(add_di).delete(del_dis))
        .route("/dis/{id}/tag", post(tag))
        .route("/dis/{id}/untag", post(untag))
        .route("/imports/{id}", get(import_state))
        .route("/uploads", post(new_upload))
}

pub(super) fn uploads() -> Router<Arc<Store>> {
    Router::new()
        .route("/uploads/{id}", get(upload_state).put(receive).delete(drop_upload))
        .layer(axum::extract::DefaultBodyLimit::disable())
}

async fn osfs(State(store): Shared, params: Params) -> Answer<Json<Vec<OsfRow>>> {
    let filter = params.filter(Object::Osf)?;
    Ok(Json(store.db.read(move |tx| tx.osfs(&filter)).await?))
}

async fn add_osf(
    State(store): Shared,
    Extension(Actor(actor)): Extension<Actor>,
    Body(new): Body<NewOsf>,
) -> Answer<(StatusCode, Json<Added>)> {
    let added = store.db.write(move |tx| {
        let id = tx.osf_add(&new)?;
        tx.event(&actor, "osf.add", &format!("osf {id}"), &new.name)?;
        Ok(Added { id: id.0, count: 1 })
    });
    Ok((StatusCode::CREATED, Json(added.await?)))
}

async fn del_osfs(State(store): Shared, Extension(actor): Extension<Actor>, params: Params) -> Answer<Json<Done>> {
    let command = Command { object: Object::Osf, filter: params.filter(Object::Osf)?, actor: actor.0, what: "osf.del" };
    Ok(Json(command.run(&store, |tx, osf| tx.osf_del(OsfId(osf.id)).map(|()| One::Done)).await?))
}

async fn dis(State(store): Shared, params: Params) -> Answer<Json<Vec<DiRow>>> {
    let filter = params.filter(Object::Di)?;
    Ok(Json(store.db.read(move |tx| tx.dis(&filter)).await?))
}

/// Starts an import. What can be known to be wrong is told now, and not after minutes of work.
async fn add_di(
    State(store): Shared,
    Extension(Actor(actor)): Extension<Actor>,
    Body(new): Body<NewDi>,
) -> Answer<(StatusCode, Json<Import>)> {
    let (upload, sha256) = whole_upload(&store, &new.upload).await?;
    let wish = new.clone();
    let osf = store.db.read(move |tx| {
        let osf = tx.osf(wish.osf.as_deref(), wish.osf_id)?;
        match wish.version {
            Some(version) if tx.di_by_tag(osf, &version)?.is_some() => {
                Err(Error::Taken { what: "version or tag of this OS flavour", found: version })
            }
            _ => Ok(osf),
        }
    });
    let order = Order { upload, sha256, osf: osf.await?, version: new.version, actor };
    Ok((StatusCode::ACCEPTED, Json(import::start(&store, order)?)))
}

async fn import_state(State(store): Shared, Path(id): Path<String>) -> Answer<Json<Import>> {
    store.imports.get(&id).map(Json).ok_or_else(|| Error::none("import", id).into())
}

async fn tag(store: Shared, actor: Extension<Actor>, Path(id): Path<u32>, Body(body): Body<Tag>) -> Answer<Json<Done>> {
    retag(store, actor, "di.tag", (DiId(id), body.tag), |tx, di, tag| tx.di_tag(di, tag)).await
}

async fn untag(
    store: Shared,
    actor: Extension<Actor>,
    Path(id): Path<u32>,
    Body(body): Body<Tag>,
) -> Answer<Json<Done>> {
    retag(store, actor, "di.untag", (DiId(id), body.tag), |tx, di, tag| tx.di_untag(di, tag)).await
}

/// Changes one tag, and notes who did it.
async fn retag(
    State(store): Shared,
    Extension(Actor(actor)): Extension<Actor>,
    what: &'static str,
    (di, tag): (DiId, String),
    change: fn(&Tx<'_>, DiId, &str) -> Result<()>,
) -> Answer<Json<Done>> {
    let work = move |tx: &Tx<'_>| {
        change(tx, di, &tag)?;
        tx.event(&actor, what, &format!("di {di}"), &tag)
    };
    store.db.write(work).await?;
    Ok(Json(Done { matched: 1, done: 1, failed: Vec::new() }))
}

async fn del_dis(State(store): Shared, Extension(actor): Extension<Actor>, params: Params) -> Answer<Json<Done>> {
    let _turn = store.publishing.lock().await;
    let unused = Arc::new(Mutex::new(HashSet::new()));
    let found = unused.clone();
    let command = Command { object: Object::Di, filter: params.filter(Object::Di)?, actor: actor.0, what: "di.del" };
    let work = move |tx: &Tx<'_>, di: &crate::db::Named| {
        found.lock().unwrap_or_else(PoisonError::into_inner).extend(tx.di_del(DiId(di.id))?);
        Ok(One::Done)
    };
    let done = command.run(&store, work).await?;
    for digest in unused.lock().unwrap_or_else(PoisonError::into_inner).drain() {
        store.images.remove_image(&digest)?;
    }
    Ok(Json(done))
}

async fn new_upload(State(store): Shared, Body(new): Body<NewUpload>) -> Answer<(StatusCode, Json<Upload>)> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+' | '~');
    if new.name.is_empty() || new.name.len() > 128 || new.name.starts_with('.') || !new.name.chars().all(legal) {
        let text = format!("'{}' is no file name: expected 1 to 128 letters, digits and . - _ + ~", new.name);
        return Err(Error::Invalid(text).into());
    }
    if new.bytes == 0 {
        return Err(Error::Invalid(format!("{} is empty", new.name)).into());
    }
    let id = secret::new_id()?;
    let path = store.images.upload(&id);
    tokio::fs::File::create_new(&path).await.map_err(Error::io("create", &path))?;
    let upload = Upload { id: id.clone(), name: new.name.clone(), bytes: new.bytes, received: 0 };
    store.db.write_quietly(move |tx| tx.upload_add(&id, &new)).await?;
    Ok((StatusCode::CREATED, Json(upload)))
}

async fn upload_state(State(store): Shared, Path(id): Path<String>) -> Answer<Json<Upload>> {
    Ok(Json(known_upload(&store, &id).await?.0))
}

async fn drop_upload(State(store): Shared, Path(id): Path<String>) -> Answer<StatusCode> {
    known_upload(&store, &id).await?;
    let _turn = Turn::take(&store, &id)?;
    let gone = id.clone();
    store.db.write_quietly(move |tx| tx.upload_del(&gone)).await?;
    store.images.remove_upload(&id)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The upload with what it has received, and its announced digest.
async fn known_upload(store: &Store, id: &str) -> Result<(Upload, Option<model::Digest>)> {
    let name = id.to_owned();
    let (mut upload, sha256) = store.db.read(move |tx| tx.upload(&name)).await?;
    let path = store.images.upload(id);
    let file = tokio::fs::metadata(&path).await.map_err(Error::io("look at", path))?;
    upload.received = file.len();
    Ok((upload, sha256))
}

/// The same, of one whose bytes are all here.
pub(super) async fn whole_upload(store: &Store, id: &str) -> Result<(Upload, Option<model::Digest>)> {
    let (upload, sha256) = known_upload(store, id).await?;
    if upload.received == upload.bytes {
        return Ok((upload, sha256));
    }
    let text = format!("Upload {} has {} of {} bytes: send the rest first", upload.id, upload.received, upload.bytes);
    Err(Error::Refused(text))
}

/// Takes bytes from where the upload ends. What arrived before a cut stays, so the sender goes on from there.
async fn receive(
    State(store): Shared,
    Path(id): Path<String>,
    params: Params,
    body: axum::body::Body,
) -> Answer<Json<Upload>> {
    let offset = params.number("offset")?.unwrap_or(0);
    let _turn = Turn::take(&store, &id)?;
    let (mut upload, _) = known_upload(&store, &id).await?;
    if offset != upload.received {
        return Err(Error::Offset { id, received: upload.received, offset }.into());
    }
    upload.received = append(&store, &upload, body).await?;
    store.db.write_quietly(move |tx| tx.upload_touch(&id)).await?;
    Ok(Json(upload))
}

async fn append(store: &Store, upload: &Upload, body: axum::body::Body) -> Result<u64> {
    let path = store.images.upload(&upload.id);
    let mut file = OpenOptions::new().write(true).open(&path).await.map_err(Error::io("open", &path))?;
    file.seek(SeekFrom::Start(upload.received)).await.map_err(Error::io("go on in", &path))?;
    let mut file = BufWriter::with_capacity(CHUNK, file);
    let mut at = upload.received;
    let mut chunks = body.into_data_stream();
    let mut cut = None;
    while let Some(chunk) = chunks.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => {
                cut = Some(Error::Invalid(format!("The upload was cut off at byte {at}: {error}")));
                break;
            }
        };
        at += chunk.len() as u64;
        if at > upload.bytes {
            cut = Some(Error::Invalid(format!("More than the {} bytes announced have come", upload.bytes)));
            break;
        }
        file.write_all(&chunk).await.map_err(Error::io("write", &path))?;
    }
    file.flush().await.map_err(Error::io("write", &path))?;
    file.get_ref().sync_data().await.map_err(Error::io("sync", &path))?;
    cut.map_or(Ok(at), Err)
}

/// The right to change an upload: one request at a time, and none while it is imported.
pub(super) struct Turn {
    store: Arc<Store>,
    id: String,
}

impl Turn {
    pub(super) fn take(store: &Arc<Store>, id: &str) -> Result<Self> {
        let free = !store.imports.at_work(id)
            && store.receiving.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
        if !free {
            return Err(Error::Refused(format!("Upload {id} is in use by another request")));
        }
        Ok(Self { store: store.clone(), id: id.to_owned() })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.store.receiving.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
