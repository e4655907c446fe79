//! Imports at work, each in a blocking thread, listed by the id of their upload.

use super::{Converted, ImportError, Progress, convert};
use crate::{
    db::NewImage,
    error::{Error, Result, chain},
    repository,
    store::Store,
};
use model::{
    DiId, Digest, OsfId,
    api::{Import, ImportState, Upload},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};
use tokio::sync::Semaphore;
use tracing::{info, warn};

/// Conversions at a time: each uses all processors.
const AT_ONCE: usize = 1;
/// Jobs that are done and still listed, about.
const LISTED: usize = 100;

/// All imports since the store started.
pub struct Imports {
    jobs: Mutex<HashMap<String, Job>>,
    turns: Arc<Semaphore>,
}

struct Job {
    total: u64,
    progress: Arc<Progress>,
    outcome: Option<Outcome>,
}

type Outcome = std::result::Result<(DiId, String, Converted), String>;

impl Default for Imports {
    fn default() -> Self {
        Self { jobs: Mutex::default(), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

/// What an import shall become.
#[derive(Clone, Debug)]
pub struct Order {
    /// The upload, which is whole.
    pub upload: Upload,
    /// Its announced digest.
    pub sha256: Option<Digest>,
    /// Flavour that the image is added to.
    pub osf: OsfId,
    /// Its version, if wished.
    pub version: Option<String>,
    /// Who asked.
    pub actor: String,
}

impl Imports {
    /// How an import stands.
    pub fn get(&self, id: &str) -> Option<Import> {
        self.lock().get(id).map(|job| job.show(id))
    }

    /// Whether the upload is being imported now.
    pub fn at_work(&self, id: &str) -> bool {
        self.lock().get(id).is_some_and(|job| job.outcome.is_none())
    }

    /// Ends all that are at work; they publish nothing.
    pub fn stop(&self) {
        self.lock().values().for_each(|job| job.progress.stop.store(true, Ordering::Relaxed));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    fn show(&self, id: &str) -> Import {
        let mut import = Import {
            id: id.to_owned(),
            state: ImportState::Running,
            done_bytes: self.progress.read.load(Ordering::Relaxed),
            total_bytes: self.total,
            di: None,
            version: None,
            dropped_devices: 0,
            entries: 0,
            error: None,
        };
        match &self.outcome {
            None => {}
            Some(Ok((di, version, converted))) => {
                import.state = ImportState::Done;
                import.di = Some(*di);
                import.version = Some(version.clone());
                import.dropped_devices = converted.dropped_devices;
                import.entries = converted.entries;
            }
            Some(Err(error)) => {
                import.state = ImportState::Failed;
                import.error = Some(error.clone());
            }
        }
        import
    }
}

/// Starts an import.
pub fn start(store: &Arc<Store>, order: Order) -> Result<Import> {
    let id = order.upload.id.clone();
    let progress = Arc::new(Progress::default());
    let job = Job { total: order.upload.bytes, progress: progress.clone(), outcome: None };
    let shown = job.show(&id);
    {
        let mut jobs = store.imports.lock();
        if jobs.get(&id).is_some_and(|job| job.outcome.is_none()) {
            return Err(Error::Refused(format!("Upload {id} is being imported already")));
        }
        if jobs.len() > LISTED {
            jobs.retain(|_, job| job.outcome.is_none());
        }
        jobs.insert(id.clone(), job);
    }
    let store = store.clone();
    tokio::spawn(async move {
        let outcome = run(&store, order, progress).await.map_err(|e| {
            warn!(upload = id, error = %chain(&e), "Import failed");
            chain(&e)
        });
        if let Some(job) = store.imports.lock().get_mut(&id) {
            job.outcome = Some(outcome);
        }
    });
    Ok(shown)
}

async fn run(store: &Arc<Store>, order: Order, progress: Arc<Progress>) -> Result<(DiId, String, Converted)> {
    let _turn = store.imports.turns.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
    let (upload, scratch) = (store.images.upload(&order.upload.id), store.images.scratch(&order.upload.id));
    let (from, to, expected) = (upload, scratch.clone(), order.sha256);
    let converted = tokio::task::spawn_blocking(move || convert(&from, &to, expected, &progress)).await;
    let converted = match converted {
        Ok(Ok(converted)) => converted,
        failed => {
            repository::remove(&scratch)?;
            let source = failed.map_or(ImportError::Stopped, |result| result.err().unwrap_or(ImportError::Stopped));
            return Err(Error::Import { name: order.upload.name, source });
        }
    };
    let (di, version) = publish(store, &order, &converted).await.inspect_err(|_| {
        // The failure is told; a leftover would only be removed at the next start.
        drop(repository::remove(&scratch));
    })?;
    info!(image = %converted.digest, di = %di, version, bytes = converted.bytes, "Disk image published");
    Ok((di, version, converted))
}

/// File first, then row; a row that fails takes its file with it if no other DI has it.
async fn publish(store: &Store, order: &Order, converted: &Converted) -> Result<(DiId, String)> {
    let _turn = store.publishing.lock().await;
    let digest = converted.digest;
    let known = store.images.image(&digest).exists();
    store.images.publish(&store.images.scratch(&order.upload.id), &digest)?;
    let image = NewImage { digest, bytes: converted.bytes, name: order.upload.name.clone() };
    let wish = order.clone();
    let added = store.db.write(move |tx| {
        let (di, version) = tx.di_add(wish.osf, wish.version.as_deref(), &image)?;
        tx.upload_del(&wish.upload.id)?;
        tx.event(&wish.actor, "di.add", &format!("di {di}"), &version)?;
        Ok((di, version))
    });
    match added.await {
        Ok(added) => {
            store.images.remove_upload(&order.upload.id)?;
            Ok(added)
        }
        Err(error) => {
            if !known {
                store.images.remove_image(&digest)?;
            }
            Err(error)
        }
    }
}
