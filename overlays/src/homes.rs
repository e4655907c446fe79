//! Homes: what outlives every start, limited by an ext4 project quota.
//!
//! A home is the guest's whole `/home`: one directory per VM, so two desktops of one person never share
//! (and never break) the dot files of running programs. Ids in it are the guest's own. Its project is
//! the VM's number; inside the guest nobody can leave it, root included.

use crate::{Places, Result, places::make_dir};
use model::VmId;
use std::{fs::File, path::PathBuf};
use sys::{Errno, quota};

/// Whether a home's limit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The kernel enforces it.
    Enforced,
    /// STATE has no project quotas: the home may grow as it likes.
    Unsupported,
}

/// The home of a guest, made if need be.
pub(crate) fn prepare(places: &Places, vm: VmId, mib: u32) -> Result<(PathBuf, Limit)> {
    let home = places.home(vm);
    make_dir(&home, 0o755)?;
    let limit = limit(&home, vm, mib)?;
    Ok((home, limit))
}

fn limit(home: &PathBuf, vm: VmId, mib: u32) -> Result<Limit> {
    let dir = File::open(home).map_err(crate::Error::file("open", home))?;
    let done = quota::set_project(&dir, vm.0).and_then(|()| quota::limit_project(&dir, vm.0, u64::from(mib) << 20));
    match done {
        Ok(()) => Ok(Limit::Enforced),
        Err(e) if lacks_quotas(&e) => Ok(Limit::Unsupported),
        Err(e) => Err(e.into()),
    }
}

/// What kernels and file systems say that know no project quotas, or on which they are not turned on.
fn lacks_quotas(error: &sys::Error) -> bool {
    let answers = [Errno::ENOTTY, Errno::EOPNOTSUPP, Errno::ESRCH, Errno::ENOSYS, Errno::EINVAL, Errno::ENOTBLK];
    error.errno().is_some_and(|errno| answers.contains(&errno))
}
