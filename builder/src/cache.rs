//! The builder's cache: `${XDG_CACHE_HOME:-~/.cache}/roost`.
//!
//! ```text
//! debs/SHA256.deb         packages as fetched (.part while a fetch is under way)
//! unpacked/SHA256.tar     their data.tar, decompressed
//! apt/                    the private apt's lists
//! npm/SHA256.tgz          the viewer of the router's pages, and what checks them
//! steps/NAME/DIGEST/      results of build steps, named by the digest of their inputs
//! ```
//! Anything in it may be deleted at any time while no build runs. Files appear whole, by rename.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::error::{Result, at};

/// The cache folder.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's cache.
    pub fn of_user() -> Self {
        let base = std::env::var_os("XDG_CACHE_HOME").filter(|v| Path::new(v).is_absolute()).map(PathBuf::from);
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache");
        Self { root: base.unwrap_or_else(home).join("roost") }
    }

    /// A cache elsewhere.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// A cache in `folder` that shares only what was downloaded: every step is done afresh.
    pub fn with_downloads_of(&self, folder: &Path) -> Result<Self> {
        for name in ["apt", "debs"] {
            let link = folder.join(name);
            std::os::unix::fs::symlink(self.folder(name)?, &link).map_err(at("create", &link))?;
        }
        Ok(Self::at(folder))
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder of the cache, made when missing.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.root.join(name);
        std::fs::create_dir_all(&folder).map_err(at("create", &folder))?;
        Ok(folder)
    }
}

/// Waits until no other build works on this file, and keeps others from it until it is closed.
pub fn lock(file: &File, path: &Path) -> Result<()> {
    rustix::fs::flock(file, rustix::fs::FlockOperation::LockExclusive).map_err(|e| at("lock", path)(e.into()))
}

/// Writes a file by way of a temporary neighbour, so that a reader sees the old one or the new one.
pub fn write_whole(file: &Path, bytes: &[u8]) -> Result<()> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(at("create", folder))?;
    let mut temporary = tempfile::Builder::new()
        .prefix(".roost-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(at("create a file in", folder))?;
    temporary.write_all(bytes).map_err(at("write", file))?;
    temporary.persist(file).map_err(|e| at("write", file)(e.error))?;
    Ok(())
}
