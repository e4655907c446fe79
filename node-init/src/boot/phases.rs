//! Phases of the boot: named, timed, limited.

use super::overseer::Overseer;
use crate::console::Console;
use crate::fail::{Failure, chain};
use crate::kmsg;
use crate::supervise;
use model::init::{Hardening, Phase, Timeline};
use model::paths;
use node_init::state_format::FormatError;
use std::path::Path;
use std::time::Duration;
use sys::watchdog::Watchdog;

/// Begins in the initrd and ends on the root.
pub const SWITCH_ROOT: &str = "switch-root";

/// What a phase may fail with.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A kernel call.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// The command line does not say what it must.
    #[error("The kernel command line has {found}; expected roost.verity=ROOT HASH:SALT:BLOCKS")]
    Cmdline {
        /// What it has instead.
        found: String,
    },
    /// No partition carries the root.
    #[error("No partition has PARTUUID {uuid} after {seconds} s; there are: {seen}")]
    NoRoot {
        /// The one wanted.
        uuid: String,
        /// How long it was waited for.
        seconds: u64,
        /// Those that are there.
        seen: String,
    },
    /// The disk's partition table.
    #[error("Cannot {action} the partition table of {disk}")]
    Table {
        /// What was tried.
        action: &'static str,
        /// The disk.
        disk: String,
        /// Why not.
        source: image::gpt::GptError,
    },
    /// There is no room for STATE.
    #[error("{disk} has {free_mib} MiB free for STATE; expected at least {need_mib} MiB")]
    NoRoom {
        /// The disk.
        disk: String,
        /// What there is.
        free_mib: u64,
        /// What it takes.
        need_mib: u64,
    },
    /// The seed, which says how STATE is to be made or opened.
    #[error(transparent)]
    Seed(#[from] node_init::seed_text::Wrong),
    /// There is something, and nobody knows whether it asks for encryption.
    #[error(transparent)]
    NoSeed(#[from] super::seed::Unreadable),
    /// STATE is to be encrypted, and nothing can seal its key.
    #[error("The seed asks for an encrypted STATE. Nothing was formatted")]
    NoTpm(#[source] crate::tpm::TpmError),
    /// STATE is encrypted, and does not open.
    #[error("STATE on {device} is encrypted and does not open")]
    Locked {
        /// The partition.
        device: String,
        /// Why not.
        source: super::vault::VaultError,
    },
    /// STATE was written by another version.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// STATE is there and cannot be read.
    #[error("STATE on {device} cannot be read, and is never formatted")]
    State {
        /// The partition.
        device: String,
        /// Why not.
        source: sys::Error,
    },
}

impl BootError {
    /// What an operator can do.
    fn advice(&self) -> &'static str {
        match self {
            Self::Sys(_) => "See the kernel's lines above. Power off and on; if it stays, boot another version.",
            Self::Cmdline { .. } => "The image is damaged or was not made by 'roost build'. Write it again.",
            Self::NoRoot { .. } => "Check that the disk is connected, and that the image was written to it whole.",
            Self::Table { .. } => "The disk may be failing. Check it, or write the image to another one.",
            Self::NoRoom { .. } => "Use a larger disk, or remove the partitions behind the root's.",
            Self::Seed(_) | Self::NoSeed(_) => "Correct the seed: STATE is not made or opened before it can be read.",
            Self::NoTpm(_) => {
                "Enable the TPM 2.0 in the firmware's setup, or take state.encryption = \"tpm\" out of the seed: STATE is \
                 then made unencrypted."
            }
            Self::Locked { .. } => {
                "Undo the change. Or put the recovery key ('qa host recovery' prints it) into the seed as \
                 state.recovery-key: the next boot opens STATE by it, and seals a new key. To give its data up, delete \
                 the partition 'roost-state'."
            }
            Self::Format(FormatError::Read { .. } | FormatError::Damaged { .. }) => {
                "Connect the disk to another machine, and write {\"format\":1} into the file, or what it was."
            }
            Self::Format(_) => {
                "Boot the other version, which the boot loader does by itself after some tries, or write an image of a \
                 version that reads it."
            }
            Self::State { .. } => {
                "Its data may be precious: connect the disk to another machine and run e2fsck on the partition. \
                 To give the data up, delete the partition 'roost-state'; the next boot makes a new one."
            }
        }
    }
}

/// Runs phases, keeps the timeline, and watches that none takes too long.
pub struct Phases {
    timeline: TimelineFile,
    console: Console,
    overseer: Overseer,
    /// A phase that is to hang, in a test.
    hangs: Option<String>,
}

impl Phases {
    /// At the start of the initrd.
    pub fn begin() -> Self {
        kmsg::init();
        let phases = Self {
            timeline: TimelineFile::default(),
            console: Console::open(),
            overseer: Overseer::start(),
            hangs: supervise::hang_in(),
        };
        phases.console.line("");
        phases.console.line(&format!("Roost {}", env!("CARGO_PKG_VERSION")));
        phases
    }

    /// After the change of root: goes on where the initrd ended.
    pub fn go_on() -> Self {
        kmsg::init();
        let mut timeline = TimelineFile::load(Path::new(paths::TIMELINE));
        let console = Console::open();
        // The initrd could not see the end of its last phase.
        console.phase(SWITCH_ROOT, timeline.end(SWITCH_ROOT));
        Self { timeline, console, overseer: Overseer::start(), hangs: None }
    }

    /// From now on a hang resets the machine.
    pub fn guard(&self, watchdog: Option<Watchdog>) {
        if let Some(watchdog) = watchdog {
            self.overseer.guard(watchdog);
        }
    }

    /// Runs one phase. One that exceeds its limit ends in the failure page, wherever it hangs.
    pub fn run<T>(
        &mut self,
        name: &'static str,
        limit: Duration,
        work: impl FnOnce() -> Result<T, BootError>,
    ) -> Result<T, Failure> {
        self.overseer.begins(name, limit);
        self.timeline.begin(name);
        if self.hangs.as_deref() == Some(name) {
            self.hang(name);
        }
        let result = work();
        self.overseer.ends();
        match result {
            Ok(value) => {
                let took_ms = self.timeline.end(name);
                self.console.phase(name, took_ms);
                Ok(value)
            }
            Err(e) => Err(Failure { phase: name, what: chain(&e), advice: e.advice() }),
        }
    }

    /// How the node is protected in this boot: on the console only what is missing, for few would read the rest.
    pub fn hardened(&mut self, hardening: Hardening) {
        if !hardening.missing.is_empty() {
            self.console.line(&format!("  {hardening}"));
        }
        self.timeline.hardened(hardening);
    }

    /// As a kernel does that has lost itself: nobody watches over the phases any more either.
    fn hang(&mut self, name: &str) -> ! {
        self.console.line(&format!("  CHAOS: phase '{name}' hangs, as the kernel's command line says"));
        let overseer = std::mem::replace(&mut self.overseer, Overseer::start());
        // Armed, open, and not fed.
        let _watchdog = overseer.finish();
        loop {
            std::thread::park();
        }
    }

    /// All phases of PID 1 are done; the timeline and the watchdog go to the supervisor.
    pub fn finish(self) -> (TimelineFile, Option<Watchdog>) {
        (self.timeline, self.overseer.finish())
    }
}

/// The timeline and its file.
#[derive(Debug, Default)]
pub struct TimelineFile(Timeline);

impl TimelineFile {
    /// What the initrd wrote; nothing when it cannot be read, since only figures would be missing.
    fn load(path: &Path) -> Self {
        let text = std::fs::read(path).unwrap_or_default();
        Self(serde_json::from_slice(&text).unwrap_or_default())
    }

    /// A phase begins.
    pub fn begin(&mut self, name: &str) {
        let began_ms = sys::boottime::now_ms();
        self.0.phases.push(Phase { name: name.to_owned(), began_ms, took_ms: None });
        // One that never ends, or ends in another program, is seen too.
        self.write(Path::new(paths::TIMELINE));
    }

    /// The newest open phase of this name ended well; says how many milliseconds it took.
    pub fn end(&mut self, name: &str) -> u64 {
        let now = sys::boottime::now_ms();
        let open = self.0.phases.iter_mut().rev().find(|p| p.name == name && p.took_ms.is_none());
        let took_ms = open.map_or(0, |phase| *phase.took_ms.insert(now.saturating_sub(phase.began_ms)));
        self.write(Path::new(paths::TIMELINE));
        took_ms
    }

    /// How the node is protected in this boot.
    pub fn hardened(&mut self, hardening: Hardening) {
        self.0.hardening = Some(hardening);
        self.write(Path::new(paths::TIMELINE));
    }

    /// The node is Ready; only the first time counts. Says when that was.
    pub fn ready(&mut self) -> u64 {
        let at = *self.0.ready_ms.get_or_insert_with(sys::boottime::now_ms);
        self.write(Path::new(paths::TIMELINE));
        at
    }

    /// Whole or not at all: `noded` may read it at any time.
    fn write(&self, path: &Path) {
        let text = serde_json::to_vec(&self.0).unwrap_or_default();
        let new = path.with_extension("new");
        if let Err(e) = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path)) {
            tracing::warn!(error = %e, "Boot timeline not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeline_is_read_back_as_written() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("timeline.json");
        let mut timeline = TimelineFile::default();
        timeline.begin("a");
        timeline.end("a");
        timeline.begin("b");
        timeline.write(&path);
        let read = TimelineFile::load(&path);
        assert_eq!(read.0, timeline.0);
        assert!(read.0.phases[0].took_ms.is_some() && read.0.phases[1].took_ms.is_none());
        std::fs::write(&path, "{").expect("written");
        assert_eq!(TimelineFile::load(&path).0, Timeline::default());
    }
}
