//! Images on this node: fetched from the store by digest, verified, kept.
//!
//! An image is asked of the store's node listener by HTTP/1.1 over the same mutual TLS as node sync:
//! `GET /images/<sha256>`. It goes to `<sha256>.part` first, so that a broken transfer goes on where it
//! stopped, and gets its name only when its bytes have the digest. Two guests that want one image wait
//! for one transfer. When room is short, images that nobody wants go, the longest unused first.

mod fetch;

use crate::{
    backoff::Backoff,
    dial::{self, DialError},
    files,
    identity::{Member, NodeKey},
    report::chain,
    tls,
};
use model::{Digest, seed::StoreAddress, sync::GuestImage};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::{sync::watch, time::Instant};

/// A transfer that gets nothing for so long, in all its attempts, has failed.
const GIVE_UP: Duration = Duration::from_secs(180);
/// Room that images leave on STATE for guests, in MiB.
const RESERVE_MIB: u64 = 256;

/// Why an image is not here.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// This node has no certificate to ask with.
    #[error("This node has not joined the cluster yet, and the image is not here")]
    NotJoined,
    /// No connection to the store.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The node's certificate cannot be used.
    #[error("Cannot use this node's certificate")]
    Tls(#[from] rustls::Error),
    /// The transfer broke.
    #[error("The transfer of the image broke")]
    Broken(#[source] hyper::Error),
    /// Nothing came.
    #[error("The store sent nothing for {0} s")]
    Stalled(u64),
    /// The store's answer makes no sense.
    #[error("The store answered a request for an image with {0}")]
    Answer(String),
    /// The store has no such image.
    #[error("The store has no image {0}: was its file removed? Add the disk image again, or choose another tag")]
    Unknown(Digest),
    /// Not as many bytes as the store's own record says.
    #[error("The image has {found} bytes, expected {expected}")]
    Length {
        /// By the record.
        expected: u64,
        /// Received.
        found: u64,
    },
    /// The bytes are not those of the image.
    #[error("The image's bytes have the digest {found}, expected {expected}: the store's file is damaged")]
    Digest {
        /// Its name.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// STATE is full.
    #[error(
        "The image needs {needed_mib} MiB on STATE, {free_mib} are free (and {RESERVE_MIB} stay so): remove guests or images"
    )]
    NoRoom {
        /// To be written.
        needed_mib: u64,
        /// There.
        free_mib: u64,
    },
    /// A file cannot be written.
    #[error("Cannot write {path}")]
    Disk {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ImageError {
    /// Whether trying again can help without anybody doing anything.
    fn may_pass(&self) -> bool {
        match self {
            Self::NotJoined | Self::Dial(_) | Self::Broken(_) | Self::Stalled(_) | Self::Answer(_) => true,
            // A digest of its own is what a resumed file with a wrong beginning gives: fetched anew once.
            Self::Digest { .. } => true,
            Self::Length { found, expected } => found < expected,
            Self::Tls(_) | Self::Unknown(_) | Self::NoRoom { .. } | Self::Disk { .. } => false,
        }
    }
}

/// Whom to ask for images.
#[derive(Clone)]
pub struct Repository {
    /// The store's node listener.
    pub store: StoreAddress,
    /// This node's membership, once it has joined.
    pub member: watch::Receiver<Option<Arc<Member>>>,
    /// This node's key.
    pub key: Arc<NodeKey>,
}

/// The images of this node.
pub struct Images {
    dir: PathBuf,
    repository: Repository,
    wanted: Mutex<BTreeSet<Digest>>,
    transfers: Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

impl Images {
    /// Images in `dir`, which exists.
    pub fn new(dir: PathBuf, repository: Repository) -> Self {
        Self { dir, repository, wanted: Mutex::default(), transfers: Mutex::default() }
    }

    /// These are wanted by some guest; others may go when room is short.
    pub fn want(&self, digests: impl IntoIterator<Item = Digest>) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = digests.into_iter().collect();
    }

    /// Brings an image here. May be dropped at any time; the next call goes on.
    pub async fn ensure(&self, image: &GuestImage) -> Result<(), ImageError> {
        let transfer =
            self.transfers.lock().unwrap_or_else(PoisonError::into_inner).entry(image.digest).or_default().clone();
        let _alone = transfer.lock().await;
        let path = self.dir.join(format!("{}.squashfs", image.digest));
        if fs::metadata(&path).is_ok_and(|m| m.len() == image.bytes) {
            return Ok(());
        }
        self.make_room(image)?;
        let part = path.with_extension("part");
        self.fetch(image, &part).await?;
        let named = fs::rename(&part, &path).and_then(|()| fs::File::open(&self.dir)?.sync_all());
        named.map_err(|source| ImageError::Disk { path, source })
    }

    async fn fetch(&self, image: &GuestImage, part: &Path) -> Result<(), ImageError> {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
        let (mut since, mut had, mut mismatched) = (Instant::now(), length(part), false);
        loop {
            let Err(error) = self.attempt(image, part).await else { return Ok(()) };
            let wrong = matches!(error, ImageError::Digest { .. } | ImageError::Length { .. });
            if wrong {
                // Nothing of it can be trusted. Missing already is fine.
                fs::remove_file(part).ok();
            }
            if length(part) > had {
                (since, had) = (Instant::now(), length(part));
                backoff.reset();
            }
            if !error.may_pass() || since.elapsed() > GIVE_UP || (wrong && mismatched) {
                return Err(error);
            }
            mismatched |= wrong;
            tracing::warn!(image = %image.digest, error = %chain(&error), "An image's transfer is tried again");
            tokio::time::sleep(backoff.next()).await;
        }
    }

    async fn attempt(&self, image: &GuestImage, part: &Path) -> Result<(), ImageError> {
        let member = self.repository.member.borrow().clone().ok_or(ImageError::NotJoined)?;
        let config = tls::client(&member, &self.repository.key, b"http/1.1")?;
        let stream = dial::connect(&self.repository.store, config).await?;
        fetch::fetch(stream, image, part).await
    }

    /// Removes images that nobody wants, the longest unused first, until `image` has room.
    fn make_room(&self, image: &GuestImage) -> Result<(), ImageError> {
        let disk = |source| ImageError::Disk { path: self.dir.clone(), source };
        let needed = image.bytes.saturating_sub(length(&self.dir.join(format!("{}.part", image.digest))));
        let reserve = RESERVE_MIB << 20;
        for (_, path) in self.unwanted().map_err(disk)? {
            if files::free(&self.dir).map_err(disk)? >= needed + reserve {
                break;
            }
            tracing::info!(path = %path.display(), "Removing an image that no guest wants");
            fs::remove_file(&path).map_err(|source| ImageError::Disk { path, source })?;
        }
        let free = files::free(&self.dir).map_err(disk)?;
        if free >= needed + reserve {
            Ok(())
        } else {
            Err(ImageError::NoRoom { needed_mib: needed >> 20, free_mib: free >> 20 })
        }
    }

    /// Files of images that no guest wants, the longest unused first.
    fn unwanted(&self) -> io::Result<Vec<(SystemTime, PathBuf)>> {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let named = |path: &Path| path.file_stem()?.to_str()?.parse::<Digest>().ok();
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)?.flatten() {
            if named(&entry.path()).is_some_and(|digest| !wanted.contains(&digest)) {
                let meta = entry.metadata()?;
                found.push((meta.accessed().or(meta.modified())?, entry.path()));
            }
        }
        found.sort();
        Ok(found)
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

#[cfg(test)]
mod tests;
