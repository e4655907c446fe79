//! What is remembered of a guest while the node is up, so that the next run of this daemon can take hold of it.
//!
//! `guests/<vm>/record.json` in the runtime directory: gone at reboot, and with it the memory that a
//! generation had its run; so a guest that is wanted runs again after a reboot.

use super::life::State;
use crate::files;
use model::{
    VmId, paths,
    state::VmState,
    sync::{GuestReport, GuestSpec},
};
use serde::{Deserialize, Serialize};
use std::{fs, io, path::Path};

/// A guest, as last published.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// With what it was started.
    pub spec: GuestSpec,
    /// Its report.
    pub report: GuestReport,
    /// Whether its writable layer is kept.
    pub persistent: bool,
}

impl Record {
    /// The records of all guests. One that cannot be read is left out: its remains are found by their cgroup.
    pub fn all(run_guests: &Path) -> Vec<Self> {
        let entries = fs::read_dir(run_guests).into_iter().flatten().flatten();
        entries.filter_map(|entry| Self::read(&entry.path())).collect()
    }

    fn read(dir: &Path) -> Option<Self> {
        let bytes = fs::read(dir.join(FILE)).ok()?;
        serde_json::from_slice(&bytes)
            .inspect_err(|error| tracing::warn!(path = %dir.display(), %error, "A guest's record is damaged"))
            .ok()
    }

    /// Writes the record.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        files::make_dir(dir, 0o755)?;
        files::replace(&dir.join(FILE), &serde_json::to_vec(self)?, 0o600)
    }

    /// Where a guest's life goes on, whose monitor runs or does not.
    pub fn resume(&self, monitor_runs: bool) -> State {
        match (self.report.state, monitor_runs) {
            (VmState::Stopped, false) => State::Stopped,
            (VmState::Starting, true) => State::Waiting,
            (VmState::Running, true) => State::Running,
            (VmState::Debugging, true) => State::Debugging,
            (VmState::Stopping, true) => State::PoweringOff,
            // It ended while nobody looked, or was half made, or was a zombie before.
            (VmState::Starting | VmState::Running | VmState::Debugging | VmState::Stopping, false)
            | (VmState::Zombie, true | false)
            | (VmState::Stopped, true) => State::Zombie,
        }
    }
}

const FILE: &str = "record.json";

/// Forgets a guest: its runtime directory goes.
pub fn forget(paths: &crate::paths::Paths, vm: VmId) {
    let dir = paths.at(paths::RUN_GUESTS).join(vm.to_string());
    if let Err(error) = fs::remove_dir_all(&dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(guest = vm.0, %error, "Cannot remove a guest's runtime files");
    }
}
