//! Nodes.

use crate::{Digest, HostId, init::Hardening, recovery::RecoveryKey, state::HostState, update::Versions};
use serde::{Deserialize, Serialize};

messages! {
    /// A node.
    pub struct HostRow {
        /// Its id.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        pub id: HostId,
        /// Its name.
        pub name: String,
        /// Address under which it is reached.
        pub address: String,
        /// Its state.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub state: HostState,
        /// Why it is not running.
        pub reason: String,
        /// Takes no new guests or logins.
        pub blocked: bool,
        /// Whether it may join; a node without a token waits for `qa host approve`.
        pub approved: bool,
        /// Connected to this store now.
        pub connected: bool,
        /// SHA-256 of its public key (SubjectPublicKeyInfo, DER), as the node's console shows it.
        pub key_sha256: Option<String>,
        /// SHA-256 of the certificate (DER) that its router shows to clients.
        pub router_sha256: Option<String>,
        /// Seconds since its last word; none: never heard of.
        pub seen_s: Option<u64>,
        /// Memory that counts in placement, MiB.
        pub usable_ram_mib: f64,
        /// CPU power that counts in placement (0.8 of the sum of bogomips).
        pub usable_cpu: f64,
        /// MemAvailable at the last heartbeat, MiB.
        pub available_mib: u64,
        /// CPU use at the last heartbeat, percent of all CPUs.
        pub cpu_percent: f64,
        /// Resident memory of our programs at the last heartbeat, (name, KiB).
        pub rss_kib: Vec<(String, u64)>,
        /// Version of its programs.
        pub version: String,
        /// VMs placed here, running or not.
        pub vms: u32,
        /// What it tells of its versions; none: it told nothing yet.
        #[serde(default)]
        pub versions: Option<Versions>,
        /// The update that it is part of.
        #[serde(default)]
        pub update: Option<HostUpdate>,
        /// How it is protected since its last boot; none: it told nothing yet.
        #[serde(default)]
        pub hardening: Option<Hardening>,
    }

    /// What opens a node's encrypted STATE when its TPM does not.
    pub struct HostRecovery {
        /// The node.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        pub id: HostId,
        /// Its name.
        pub name: String,
        /// UUID of the volume: of several, the one that the node has is the newest.
        pub volume: String,
        /// The recovery key.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub key: RecoveryKey,
        /// When the node gave it to the store, Unix seconds.
        pub at: u64,
    }

    /// A node's part in an update.
    pub struct HostUpdate {
        /// To which version.
        pub version: String,
        /// It is its turn.
        pub going: bool,
        /// Why no further node gets its turn, if so.
        pub halted: Option<String>,
    }

    /// A version of the node's image, in the store's repository.
    pub struct NodeImageRow {
        /// Its id.
        pub id: u32,
        /// Name of its recipe.
        pub name: String,
        /// Version.
        pub version: String,
        /// `dev` or `release`.
        pub level: String,
        /// When it was built, or what it was built from; seconds since 1970.
        pub epoch: u64,
        /// SHA-256 of the set.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub digest: Digest,
        /// Bytes of the set.
        pub bytes: u64,
        /// How many keys have signed it. Which ones a node trusts is the node's affair.
        pub signatures: u32,
        /// Nodes that run it.
        pub running: u32,
        /// Nodes that shall move to it and do not run it yet.
        pub wanted: u32,
    }

    /// An upload that is an update set.
    pub struct NewNodeImage: request {
        /// Id of the upload, which is whole.
        pub upload: String,
    }

    /// Nodes shall move to another version.
    pub struct UpdateHosts: request {
        /// Version of an image of the repository; none: they stay what they are.
        #[serde(default)]
        pub image: Option<String>,
        /// When they may go down, such as `22:00-05:00` (UTC); none: at any time.
        #[serde(default)]
        pub window: Option<String>,
        /// So many of them at a time; none: one.
        #[serde(default)]
        pub max_unavailable: Option<u32>,
        /// Seconds that users get to leave; none: as long as they like.
        #[serde(default)]
        pub drain_s: Option<u32>,
    }

    /// A new node, registered before it joins with a token under this name.
    pub struct NewHost: request {
        /// Its name.
        pub name: String,
        /// Its address.
        pub address: String,
    }

    /// A boot of a node.
    pub struct BootRow {
        /// Its id.
        pub id: u32,
        /// The node.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        pub host_id: HostId,
        /// Its name.
        pub host: String,
        /// The kernel's boot id.
        pub boot: String,
        /// Version that ran; empty: not known.
        pub version: String,
        /// When the kernel started, by the node's clock, such as `2026-11-21 14:00:00Z`; empty: not known.
        pub began: String,
        /// Seconds from there to its last sign of life.
        pub lasted_s: u64,
        /// How it ended: `running`, `reboot`, `power-off`, `gave-up`, `panic`, `hang`, or `cut` (no word at all).
        pub end: String,
        /// On whose word, or for what reason.
        pub why: String,
    }

    /// A boot and its last words.
    pub struct BootLog {
        /// Which.
        pub boot: BootRow,
        /// The end of the kernel's log as it panicked; empty: it did not, or could not keep it.
        pub panic: String,
        /// Beginning and end of the node's log in that boot.
        pub log: String,
    }

    /// Counters of a node's router.
    pub struct HostCounters {
        /// The node.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        pub id: HostId,
        /// Its name.
        pub name: String,
        /// list, connect and stop requests.
        pub http_requests: u64,
        /// Logins tried.
        pub auth_attempts: u64,
        /// Logins that succeeded.
        pub auth_ok: u64,
        /// Sessions tried.
        pub nx_attempts: u64,
        /// Sessions opened.
        pub nx_ok: u64,
        /// Sessions shorter than `internal.l7r.short_session`.
        pub short_sessions: u64,
    }
}
