//! Guest storage: images, writable layers, homes, and the views of them that a guest is given.
//!
//! ```text
//! images/<sha256>.squashfs --mount, once--> base ----+
//! guests/<vm>/layer-<image> -------------------------+--ids mapped--> views/<vm>/{base,layer,home,sock}
//! homes/<vm> (project quota) ------------------------+
//! ```
//!
//! LXC puts the overlay of `base` and `layer/u` together itself, in the guest's user namespace. On disk
//! every id is the guest's own, so a guest may get another range at its next start.
//!
//! Everything here blocks; nothing here starts a process. [`Storage::release`] undoes all that
//! [`Storage::prepare`] did, whichever run of the daemon did it, and may be repeated.

mod error;
mod homes;
mod images;
mod layers;
mod places;
mod views;

pub use error::{Error, Result};
pub use homes::Limit;
pub use places::Places;

use model::{Digest, VmId};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A guest about to start.
#[derive(Clone, Debug)]
pub struct Guest<'a> {
    /// Which.
    pub vm: VmId,
    /// First of its ids on the node.
    pub uid_base: u32,
    /// Its image, which must be on the node ([`Places::image`]).
    pub image: Digest,
    /// Whether its writable layer is kept from start to start.
    pub persistent: bool,
    /// Size limit of its home, MiB; none: no home.
    pub home_mib: Option<u32>,
    /// Files that a new writable layer begins with: path from the root, without a leading `/`, and text.
    pub files: &'a [(&'a str, String)],
    /// A directory of the node that the guest sees with its own ids, read-only.
    pub shown: &'a Path,
}

/// What a guest is given: directories whose ids are mapped.
#[derive(Clone, Debug)]
pub struct Views {
    /// The image.
    pub base: PathBuf,
    /// The writable layer: `u` in it.
    pub layer: PathBuf,
    /// The home, and whether its limit holds.
    pub home: Option<(PathBuf, Limit)>,
    /// What was to be shown.
    pub shown: PathBuf,
}

/// Guest storage of a node. One per program.
#[derive(Debug)]
pub struct Storage {
    places: Places,
    held: Mutex<BTreeMap<VmId, Held>>,
}

/// What a guest holds. Also the mutex around all mounting: two guests must not mount one image twice.
#[derive(Debug)]
struct Held {
    image: Digest,
    _lock: layers::Lock,
}

impl Storage {
    /// Storage at these places, which are made if need be.
    pub fn open(places: Places) -> Result<Self> {
        places.make()?;
        Ok(Self { places, held: Mutex::default() })
    }

    /// Where things are.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Mounts all that a guest needs. After a failure, [`Self::release`] removes what was done so far.
    pub fn prepare(&self, guest: &Guest) -> Result<Views> {
        let mut held = self.held();
        let lock = layers::lock(&self.places, guest.vm)?;
        let layer = layers::prepare(&self.places, guest.vm, &guest.image, guest.persistent, guest.files, &lock)?;
        held.insert(guest.vm, Held { image: guest.image, _lock: lock });
        let base = images::mount(&self.places, &guest.image)?;
        let home = guest.home_mib.map(|mib| homes::prepare(&self.places, guest.vm, mib)).transpose()?;
        views::remove(&self.places, guest.vm)?;
        let viewer = views::Viewer::new(&self.places, guest.vm, guest.uid_base)?;
        Ok(Views {
            base: viewer.show(&base, "base", true)?,
            layer: viewer.show(&layer, "layer", false)?,
            home: home.map(|(path, limit)| Ok::<_, Error>((viewer.show(&path, "home", false)?, limit))).transpose()?,
            shown: viewer.show(guest.shown, "sock", true)?,
        })
    }

    /// Holds the layer and image of a guest that another run of this program has started.
    pub fn adopt(&self, vm: VmId, image: Digest) -> Result<()> {
        let lock = layers::lock(&self.places, vm)?;
        self.held().insert(vm, Held { image, _lock: lock });
        Ok(())
    }

    /// Gives back all that a guest has here, once none of its processes is left; with `keep` false its
    /// writable layers go as well. Images that no guest uses are unmounted.
    pub fn release(&self, vm: VmId, keep: bool) -> Result<()> {
        let mut held = self.held();
        views::remove(&self.places, vm)?;
        if !keep {
            layers::retire(&self.places, vm)?;
        }
        held.remove(&vm);
        images::unmount_unused(&self.places, |digest| held.values().any(|h| h.image == *digest))
    }

    /// Removes writable layers that were thrown away. Long: for a thread with time.
    pub fn sweep(&self) -> Result<()> {
        layers::sweep(&self.places)
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<VmId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
