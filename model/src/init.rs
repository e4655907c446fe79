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
    /// How the node is protected in this boot; none before it was read, or from an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardening: Option<Hardening>,
}

/// What holds of all that a node is protected by besides its signed root: kernel settings, command line, mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Hardening {
    /// How many hold.
    pub held: u32,
    /// What does not, in words: what was found, what was wanted, and why.
    pub missing: Vec<String>,
}

impl Hardening {
    /// How many are wanted.
    pub fn wanted(&self) -> u32 {
        self.held.saturating_add(u32::try_from(self.missing.len()).unwrap_or(u32::MAX))
    }
}

impl std::fmt::Display for Hardening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "hardening: {} of {}", self.held, self.wanted())?;
        match self.missing.as_slice() {
            [] => Ok(()),
            missing => write!(f, ", but {}", missing.join("; ")),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_in_one_line_and_an_older_timeline_is_read() {
        let whole = Hardening { held: 3, missing: vec![] };
        assert_eq!(whole.to_string(), "hardening: 3 of 3");
        let less = Hardening { held: 2, missing: vec!["a is 0, wanted 1: so".to_owned()] };
        assert_eq!(less.to_string(), "hardening: 2 of 3, but a is 0, wanted 1: so");
        let old: Timeline = serde_json::from_str(r#"{"phases":[],"ready_ms":5}"#).expect("reads");
        assert_eq!((old.ready_ms, old.hardening), (Some(5), None));
    }
}
