//! Views: the same directories with the guest's ids, so that what lies on disk is free of any range.

use crate::{Error, Places, Result, places::make_dir};
use model::VmId;
use nix::unistd::{Gid, Uid, chown};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use sys::{
    idmap::{IdRange, UserNamespace, view},
    mount::{self, MntFlags},
};

/// Ids of each guest.
pub(crate) const IDS: u32 = 65_536;

/// Makes views of one guest.
pub(crate) struct Viewer {
    map: UserNamespace,
    dir: PathBuf,
}

impl Viewer {
    /// For a guest whose ids begin at `uid_base`.
    pub(crate) fn new(places: &Places, vm: VmId, uid_base: u32) -> Result<Self> {
        let map = UserNamespace::new(&[IdRange { inside: 0, outside: uid_base, count: IDS }])?;
        let dir = places.views_of(vm);
        make_dir(&dir, 0o700)?;
        chown(&dir, Some(Uid::from_raw(uid_base)), Some(Gid::from_raw(uid_base)))
            .map_err(|e| Error::file("change the owner of", &dir)(e.into()))?;
        Ok(Self { map, dir })
    }

    /// Shows `source` under this name.
    pub(crate) fn show(&self, source: &Path, name: &str, read_only: bool) -> Result<PathBuf> {
        let target = self.dir.join(name);
        make_dir(&target, 0o755)?;
        Ok(view(source, &target, &self.map, read_only)?.keep())
    }
}

/// Takes all views of a guest away. Harmless when there are none.
pub(crate) fn remove(places: &Places, vm: VmId) -> Result<()> {
    let dir = places.views_of(vm);
    let entries = match fs::read_dir(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::file("list", &dir))?,
    };
    for entry in entries.flatten() {
        // More than once where a start was cut off and repeated; EINVAL: nothing is mounted there any more.
        while match mount::unmount(entry.path(), MntFlags::empty()) {
            Ok(()) => true,
            Err(e) if e.is(sys::Errno::EINVAL) => false,
            Err(e) => return Err(e.into()),
        } {}
        fs::remove_dir(entry.path()).map_err(Error::file("remove", entry.path()))?;
    }
    fs::remove_dir(&dir).map_err(Error::file("remove", &dir))
}
