//! The lab: a cluster on this machine. The real store, the real image in QEMU, a real client.
//!
//! `roost run`, `roost demo` and the scenarios of `qemu-tests` are all written on top of it:
//!
//! ```no_run
//! # fn main() -> Result<(), builder::lab::LabError> {
//! use builder::lab::{Lab, Boot};
//! let lab = Lab::new("demo")?;
//! let store = lab.store()?;
//! let seed = store.seed("node1")?;
//! let mut node = lab.boot(Boot::new("out/node.raw").seed(seed))?;
//! node.console().wait_for("Ready", std::time::Duration::from_secs(120))?;
//! # Ok(()) }
//! ```
//!
//! Everything listens on loopback alone, lives in one scratch folder, and ends when its handle is
//! dropped: the machine's processes are the lab's children and are killed by their ids.

mod browser;
mod chaos;
mod client;
mod cluster;
mod console;
mod desk;
mod disk;
mod display;
mod esp;
mod keys;
mod lan;
mod line;
mod machine;
mod memory;
mod page;
mod picture;
mod process;
mod qmp;
mod reads;
mod recording;
mod root;
mod shell;
mod store;
mod tpm;
mod vars;

pub use browser::Browser;
pub use chaos::Chaos;
pub use client::{Client, ConnectAnswer, Fingerprint, Session, VmRow};
pub use cluster::{BOOT_LIMIT, Cluster, Desktop, Images, START_LIMIT, USER, VM};
pub use console::Console;
pub use desk::Desk;
pub(crate) use desk::PARAMS;
pub use disk::Disk;
pub use display::{Display, NxProxy};
pub use esp::EspFile;
pub use lan::Lan;
pub use line::Line;
pub use machine::{Boot, Firmware, Machine};
pub use memory::bridge_rss_kib;
pub use page::Page;
use picture::Picture;
pub use process::Process;
pub use qmp::Qmp;
pub use recording::{Change, Epoch, Recording};
pub use root::Landmarks;
pub use shell::{Keyboard, Shell};
pub use store::Store;

use std::{
    io,
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

/// Why the lab could not do what was asked. Each names the thing and where to look.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program could not be started.
    #[error("Cannot start {program}: is it installed? (./roost --no-install lists what is missing)")]
    Spawn {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the lab could not be used.
    #[error("Cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something did not come about in time.
    #[error("{what} did not happen within {} s; the log is {}", limit.as_secs(), log.display())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// Where to look.
        log: PathBuf,
    },
    /// A program ended while it was needed.
    #[error("{program} ended ({status}) while waiting for {what}; the log is {}", log.display())]
    Ended {
        /// The program.
        program: String,
        /// Its exit status.
        status: String,
        /// What was waited for.
        what: String,
        /// Where to look.
        log: PathBuf,
    },
    /// A command of ours failed.
    #[error("'{command}' failed with {status}: {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// What it said.
        stderr: String,
    },
    /// A connection failed.
    #[error("Cannot talk to {peer}")]
    Connection {
        /// With whom.
        peer: String,
        /// What the system or TLS said.
        source: io::Error,
    },
    /// A peer said something that was not expected.
    #[error("{peer} answered '{found}': expected {expected}")]
    Answer {
        /// Who.
        peer: String,
        /// What it said.
        found: String,
        /// What was expected.
        expected: String,
    },
}

/// A scratch folder and the programs of this build.
#[derive(Clone, Debug)]
pub struct Lab {
    dir: PathBuf,
    programs: PathBuf,
}

impl Lab {
    /// A lab in a fresh folder `<cache>/roost/lab/NAME`; what an earlier lab of this name left is removed.
    /// Programs are those beside the running one (`roost`, or a test of this workspace).
    pub fn new(name: &str) -> Result<Self, LabError> {
        let dir = crate::cache_dir().join("lab").join(name);
        if dir.exists() {
            file("remove", &dir, std::fs::remove_dir_all)?;
        }
        Self::at(dir)
    }

    /// A lab in `dir`, which is made when absent and kept as it is otherwise.
    pub fn at(dir: PathBuf) -> Result<Self, LabError> {
        file("make", &dir, std::fs::create_dir_all)?;
        let here = file("find", Path::new("/proc/self/exe"), |_| std::env::current_exe())?;
        // Tests lie one folder below the programs, in `deps`.
        let programs = here
            .ancestors()
            .skip(1)
            .find(|d| d.join("store").is_file() && d.join("qa").is_file())
            .or(here.parent())
            .unwrap_or(Path::new("."))
            .to_owned();
        Ok(Self { dir, programs })
    }

    /// The scratch folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file of the scratch folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A program of this build, such as `qa`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Starts a store with an empty SQLite database.
    pub fn store(&self) -> Result<Store, LabError> {
        Store::start(self)
    }

    /// Starts a network for machines of these names.
    pub fn lan(&self, names: &[&str]) -> Result<Lan, LabError> {
        Lan::start(self, names)
    }

    /// Boots a machine.
    pub fn boot(&self, boot: Boot) -> Result<Machine, LabError> {
        Machine::start(self, boot)
    }
}

/// A TCP port on loopback that is free at this moment.
pub fn free_port() -> Result<u16, LabError> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .map(|a| a.port())
        .map_err(|source| LabError::Connection { peer: "loopback".to_owned(), source })
}

/// Runs one file operation and names it in its error.
fn file<'p, T>(
    action: &'static str,
    path: &'p Path,
    op: impl FnOnce(&'p Path) -> io::Result<T>,
) -> Result<T, LabError> {
    op(path).map_err(|source| LabError::File { action, path: path.to_owned(), source })
}
