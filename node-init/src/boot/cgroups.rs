//! The top of the cgroup tree.
//!
//! ```text
//! /            PID 1 stays here: LXC finds its place relative to it, and nests wrongly anywhere else
//! |- roost/    one leaf per service
//! `- guests/   one subtree per guest; outlives noded
//! ```

use super::mounts::Mounted;
use super::phases::BootError;
use sys::cgroup::{Cgroup, Controller};

/// The two subtrees.
#[derive(Debug)]
pub struct Cgroups {
    /// Services.
    pub roost: Cgroup,
    /// Guests.
    pub guests: Cgroup,
}

/// Enables the controllers from the top down and makes the subtrees.
pub fn claim(_: &Mounted) -> Result<Cgroups, BootError> {
    let root = Cgroup::root();
    root.enable(&Controller::ALL)?;
    let roost = root.child("roost")?;
    roost.enable(&Controller::ALL)?;
    let guests = root.child("guests")?;
    guests.enable(&Controller::ALL)?;
    roost.protect_memory(128 * 1024 * 1024)?;
    Ok(Cgroups { roost, guests })
}

impl Cgroups {
    /// From now on services come before guests under contention: a node that does not answer helps no guest.
    ///
    /// Not earlier: PID 1's own helpers (mke2fs) run in the root group, and loading drivers must not starve them.
    pub fn services_first(&self) -> Result<(), sys::Error> {
        self.roost.weigh_cpu(1000)
    }
}
