//! The image repository: one folder of files named by their digests, and uploads on their way.
//!
//! ```text
//! images/<sha256>.squashfs      a disk image: whole, checked, never changed
//! images/<sha256>.set           an update set of nodes: the same
//! images/incoming/<id>          an upload; its length is how far it has come
//! images/incoming/<id>.image    an import at work; removed at start
//! ```

use crate::{
    error::{Error, Result},
    files,
};
use model::Digest;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The folder.
#[derive(Clone, Debug)]
pub struct Repository {
    dir: PathBuf,
}

impl Repository {
    /// Opens the folder, making it if absent, and removes what imports left that did not end.
    pub fn open(dir: &Path) -> Result<Self> {
        let incoming = dir.join("incoming");
        fs::create_dir_all(&incoming).map_err(Error::io("make the folder", &incoming))?;
        for entry in fs::read_dir(&incoming).map_err(Error::io("read the folder", &incoming))? {
            let path = entry.map_err(Error::io("read the folder", &incoming))?.path();
            if path.extension().is_some_and(|e| e == "image") {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// Where a published image lies.
    pub fn image(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{digest}.squashfs"))
    }

    /// Where a published update set lies.
    pub fn set(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{digest}.{}", image::set::SUFFIX))
    }

    /// Where an upload lies. `id` is one that the database knows.
    pub fn upload(&self, id: &str) -> PathBuf {
        self.dir.join("incoming").join(id)
    }

    /// Where an import writes.
    pub fn scratch(&self, id: &str) -> PathBuf {
        self.dir.join("incoming").join(format!("{id}.image"))
    }

    /// Publishes a finished import under its digest.
    pub fn publish(&self, scratch: &Path, digest: &Digest) -> Result<()> {
        Self::publish_as(scratch, &self.image(digest))
    }

    /// Publishes an upload as the update set that it is.
    pub fn publish_set(&self, upload: &str, digest: &Digest) -> Result<()> {
        Self::publish_as(&self.upload(upload), &self.set(digest))
    }

    /// A file is on disk before its name is.
    fn publish_as(scratch: &Path, path: &Path) -> Result<()> {
        let file = fs::File::open(scratch).map_err(Error::io("open", scratch))?;
        file.sync_all().map_err(Error::io("sync", scratch))?;
        fs::rename(scratch, path).map_err(Error::io("publish", path))?;
        files::sync_dir(path)
    }

    /// Removes a published image that no DI needs any more.
    pub fn remove_image(&self, digest: &Digest) -> Result<()> {
        remove(&self.image(digest))
    }

    /// Removes a published update set.
    pub fn remove_set(&self, digest: &Digest) -> Result<()> {
        remove(&self.set(digest))
    }

    /// Removes an upload.
    pub fn remove_upload(&self, id: &str) -> Result<()> {
        remove(&self.upload(id))
    }

    /// Ids of the uploads that lie here.
    pub fn uploads(&self) -> Result<Vec<String>> {
        let dir = self.dir.join("incoming");
        let entries = fs::read_dir(&dir).map_err(Error::io("read the folder", &dir))?;
        Ok(entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).filter(|n| !n.contains('.')).collect())
    }
}

/// Removes a file; absent is as good.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(Error::io("remove", path)),
    }
}
