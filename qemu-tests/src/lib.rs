//! Scenarios on the real image: the words that they share.
//!
//! Each test boots what `roost build` wrote to `out/` (or to `ROOST_IMAGES`) beside a real store, and
//! tells a story over [`builder::lab`]. They run one at a time: two emulated machines at once on two
//! cores are slower than one after the other.

pub mod cuts;
mod forge;
mod numbers;
mod signed;
mod updated;
mod volume;

pub use forge::{Forge, artifact, build};
pub use numbers::Numbers;
pub use signed::Signed;
pub use updated::Updated;
pub use volume::Volume;

use anyhow::{Context, Result, ensure};
use builder::lab::{Chaos, Cluster, Images, LabError};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// The images under test. They must exist: `roost test` builds them first.
#[track_caller]
pub fn images() -> Images {
    let default = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../out");
    let dir = std::env::var_os("ROOST_IMAGES").map_or_else(default, PathBuf::from);
    let images = Images::in_dir(&dir);
    for image in [&images.node, &images.guest] {
        assert!(image.exists(), "{} does not exist: build it first, by ./roost test build", image.display());
    }
    images
}

/// A cluster of this name whose node is Ready and whose desktop runs.
pub fn running_desktop(name: &str) -> Result<Cluster, LabError> {
    let cluster = Cluster::quietly(name, &images())?;
    cluster.start_vm()?;
    Ok(cluster)
}

/// Waits for a line of a log that has all of these words, and returns it.
pub fn wait_for_log(log: &Path, words: &[&str], limit: Duration) -> Result<String, LabError> {
    let end = std::time::Instant::now() + limit;
    loop {
        let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
        if let Some(line) = text.lines().find(|l| words.iter().all(|w| l.contains(w))) {
            return Ok(line.to_owned());
        }
        if std::time::Instant::now() > end {
            return Err(LabError::Timeout { what: format!("{words:?} in a log"), limit, log: log.to_owned() });
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until another single process of this name runs instead of those that were ended.
pub fn wait_for_successor(chaos: &mut Chaos, name: &str, ended: &[u32], limit: Duration) -> Result<()> {
    let mut now = Vec::new();
    let mut replaced = || {
        now = chaos.pids(name).unwrap_or_default();
        now.len() == 1 && now != ended
    };
    wait_until(limit, &mut replaced);
    ensure!(replaced(), "{name}: {ended:?} were ended, and now there are {now:?}");
    Ok(())
}

/// Copies the disk of a machine that is off, of QEMU's `format`, to a raw file; what is zero takes no room.
pub fn copy_raw(format: &str, from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("qemu-img").args(["convert", "-f", format, "-O", "raw"]).arg(from).arg(to).status();
    ensure!(status.context("Cannot run qemu-img")?.success(), "qemu-img convert {}", from.display());
    Ok(())
}

/// Waits until `done`, at most so long; the caller looks at what it found.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + limit;
    while !done() && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
    }
}
