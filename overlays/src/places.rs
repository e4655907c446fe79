//! Where guest storage lies, and who may look at it.

use crate::{Error, Result};
use model::{Digest, VmId};
use std::{
    fs::{self, Permissions},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Roots of guest storage.
#[derive(Clone, Debug)]
pub struct Places {
    /// Image files, `<sha256>.squashfs`.
    pub images: PathBuf,
    /// Writable layers, one directory per guest. Kept at 0700: set-uid files of guests lie there with
    /// the guests' own ids, 0 among them.
    pub guests: PathBuf,
    /// Homes, one directory per guest. 0700 as well.
    pub homes: PathBuf,
    /// Where images are mounted, once each. 0700 as well.
    pub mounted: PathBuf,
    /// Views with mapped ids. Searchable by all, since LXC looks them up with the guest's ids; the
    /// directory of each guest in it is the guest's alone.
    pub views: PathBuf,
}

impl Places {
    /// Makes what is missing.
    pub fn make(&self) -> Result<()> {
        for closed in [&self.images, &self.guests, &self.homes, &self.mounted] {
            make_dir(closed, 0o700)?;
        }
        make_dir(&self.views, 0o711)
    }

    /// File of an image.
    pub fn image(&self, digest: &Digest) -> PathBuf {
        self.images.join(format!("{digest}.squashfs"))
    }

    pub(crate) fn mount_of(&self, digest: &Digest) -> PathBuf {
        self.mounted.join(digest.to_string())
    }

    pub(crate) fn guest(&self, vm: VmId) -> PathBuf {
        self.guests.join(vm.to_string())
    }

    pub(crate) fn home(&self, vm: VmId) -> PathBuf {
        self.homes.join(vm.to_string())
    }

    pub(crate) fn views_of(&self, vm: VmId) -> PathBuf {
        self.views.join(vm.to_string())
    }
}

/// Makes a directory and its parents; it gets this mode even when it was there.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(Error::file("create", path))
}
