//! `node-init` and `noded` talk over a pair of sequenced-packet sockets; `noded` has its end as
//! descriptor [`NODED_FD`]. One postcard value a packet.

use serde::{Deserialize, Serialize};

/// Descriptor of `noded`'s end.
pub const NODED_FD: i32 = 3;
/// `noded` says [`ToInit::Alive`] this often; `node-init` stops feeding the watchdog after [`ALIVE_LIMIT_S`].
pub const ALIVE_EVERY_S: u64 = 5;
/// Seconds without [`ToInit::Alive`] after which `noded` counts as hung and is killed and restarted.
pub const ALIVE_LIMIT_S: u64 = 60;

/// A service that `node-init` supervises on `noded`'s word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Service {
    /// The layer-7 router, as its own user.
    Router,
    /// DHCP and DNS for guests.
    Dnsmasq,
    /// The clock.
    Chrony,
}

/// From `noded`. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToInit {
    /// The daemon's loop turns.
    Alive,
    /// Configuration of the service is written: start it, or restart it if it runs. The router is left alone if it
    /// runs: it takes its configuration from `noded` itself, and a restart would end all sessions.
    Start(Service),
    /// A phase of the boot timeline began.
    PhaseBegan(String),
    /// The phase ended well.
    PhaseEnded(String),
    /// The node is Ready (joined, network up, storage mounted, guests able to start).
    Ready,
    /// Ready no longer holds, and why.
    NotReady(String),
    /// A line for the console: what an operator in front of the machine should see (a key
    /// fingerprint to approve, a refusal by the store).
    Console(String),
    /// All guests are stopped; shutdown may go on.
    GuestsStopped,
    /// An administrator asked for it.
    Reboot,
    /// An administrator asked for it.
    PowerOff,
    /// What the node still lacks to be Ready; for the record of a trial that ends without it.
    Lacks(String),
    /// This boot is good: its version is on trial no more.
    Blessed,
    /// An update is written: reboot into it.
    RebootForUpdate(String),
}

/// On whose word a node reboots that was sent to this version.
pub fn update_to(version: &str) -> String {
    format!("the update to {version}")
}

/// To `noded`. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromInit {
    /// The machine goes down: stop all guests within so many seconds, then say `GuestsStopped`.
    Shutdown {
        /// Seconds until guests are killed.
        within_s: u32,
    },
    /// State of a supervised service, whenever it changes.
    ServiceState {
        /// Which.
        service: Service,
        /// Whether it runs now.
        running: bool,
        /// How often it was restarted since boot.
        restarts: u32,
        /// Given up after too many failures.
        gave_up: bool,
    },
}

/// The boot timeline: `boot-timeline.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Phases in the order in which they began.
    pub phases: Vec<Phase>,
    /// Milliseconds from kernel start to Ready.
    pub ready_ms: Option<u64>,
}

/// One phase of the boot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Name, such as `find-root`.
    pub name: String,
    /// Milliseconds after kernel start.
    pub began_ms: u64,
    /// How long it took; none while it runs.
    pub took_ms: Option<u64>,
}
