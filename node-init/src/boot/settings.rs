//! Kernel settings that hundreds of desktops need. Those that protect are [`super::hardening`]'s.

use super::mounts::Mounted;
use super::phases::BootError;
use std::path::Path;

/// File below `/proc/sys`, value, reason beside it.
const SETTINGS: &[(&str, &str)] = &[
    // Hundreds of desktops share one kernel's counters.
    ("fs/inotify/max_user_instances", "8192"),
    ("fs/inotify/max_user_watches", "524288"),
    ("kernel/keys/maxkeys", "20000"),
    ("kernel/keys/maxbytes", "2000000"),
    ("kernel/pid_max", "4194304"),
    ("vm/max_map_count", "262144"),
    ("net/ipv4/neigh/default/gc_thresh3", "8192"),
];

/// Applies all; one that this kernel does not have is told and passed over.
pub fn apply(_: &Mounted) -> Result<(), BootError> {
    for (file, value) in SETTINGS {
        if let Err(e) = std::fs::write(Path::new("/proc/sys").join(file), value) {
            tracing::warn!(setting = file, error = %e, "Setting not applied");
        }
    }
    // The last process that may be killed for want of memory; what it starts gets a score of its own.
    std::fs::write("/proc/self/oom_score_adj", "-1000").map_err(sys::Error::of("set", "the OOM score"))?;
    sys::power::take_ctrl_alt_del()?;
    Ok(())
}
