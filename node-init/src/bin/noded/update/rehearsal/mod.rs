//! The rehearsal of an update: the new version's own daemon, out of the root that was fetched and checked, reads this
//! node's STATE before anything is installed. What it cannot use would otherwise show after the reboot, when the users
//! are gone.
//!
//! It gets a view of STATE that cannot be written to, has no capabilities, and little time.

pub mod inside;

use super::{UpdateError, stage::room};
use crate::paths::Paths;
use model::paths::RUN;
use nix::{errno::Errno, libc};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use sys::{
    loopdev::LoopDevice,
    mount::{self, MntFlags, MountGuard, MsFlags},
    spawn::{Command, Exit, Output, run},
};

/// The daemon in a root.
const PROGRAM: &str = "usr/lib/roost/noded";
/// It reads some small files.
const LIMIT: Duration = Duration::from_secs(60);

/// What a version says that can go on with a STATE. Fields of later versions are passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The format that it found.
    pub format: u32,
    /// Bytes that must be free for it to do its own work there.
    pub needs: u64,
}

/// Has the version in the root at this path read STATE, and holds what it needs against what is free. Blocks.
pub fn rehearse(version: &str, root: &Path, paths: &Paths) -> Result<(), UpdateError> {
    let report = ask(version, root, paths)?;
    tracing::info!(version, format = report.format, needs = report.needs, "STATE was read by the new version");
    room(&paths.state, report.needs)
}

fn ask(version: &str, root: &Path, paths: &Paths) -> Result<Report, UpdateError> {
    let failed = |said: String| UpdateError::Rehearsal { version: version.to_owned(), said };
    let (_mounted, program) = mount_root(root)?;
    let view = Path::new(RUN).join("next-state");
    make(&view)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount::bind(&paths.state, &view, flags)?;
    let view = MountGuard::of(view);
    let mut command = Command::new(program);
    command.arg(inside::WORD).arg(view.path()).drop_capabilities();
    let output = run(&mut command, b"", LIMIT).and_then(Output::ok).map_err(|e| match &e {
        // Killed for want of memory, or by a sector that cannot be read: it may go better the next time.
        sys::Error::Failed { exit: Exit::Signal(libc::SIGKILL | libc::SIGBUS), .. } => UpdateError::Sys(e),
        sys::Error::Failed { .. } => failed(e.to_string()),
        e if [Errno::ENOENT, Errno::ENOEXEC, Errno::EACCES].iter().any(|errno| e.is(*errno)) => failed(e.to_string()),
        // A node that has too much to do has more time later.
        _ => UpdateError::Sys(e),
    })?;
    serde_json::from_slice(&output.stdout).map_err(|_| failed(format!("it answered {:?}", output.text())))
}

/// Where the root is, with its daemon.
fn mount_root(root: &Path) -> Result<(MountGuard, PathBuf), UpdateError> {
    let target = Path::new(RUN).join("next-root");
    make(&target)?;
    let device = LoopDevice::attach(root, true)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount::mount(device.path(), &target, "squashfs", flags, "")?;
    let program = target.join(PROGRAM);
    Ok((MountGuard::of(target), program))
}

/// A folder to mount on; what a daemon that was killed here has left mounted goes.
fn make(target: &Path) -> Result<(), UpdateError> {
    fs::create_dir_all(target).map_err(UpdateError::disk(target))?;
    if mount::is_mount_point(target)? {
        mount::unmount(target, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}
