//! Virtual machines.

use crate::{
    HostId, OsfId, UserId, VmId,
    state::{UserState, VmState, Want},
};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

messages! {
    /// A virtual machine.
    pub struct VmRow {
        /// Its id.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        pub id: VmId,
        /// Its name.
        pub name: String,
        /// Its owner.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        pub user_id: UserId,
        /// Its owner's login.
        pub user: String,
        /// Login of the session's user, when there is a session.
        pub real_user: Option<String>,
        /// Its address.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub ip: Ipv4Addr,
        /// Its hardware address.
        pub mac: String,
        /// Its OS flavour.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        pub osf_id: OsfId,
        /// Its OS flavour's name.
        pub osf: String,
        /// Tag of the disk image it boots.
        pub di_tag: String,
        /// Version of the disk image that the tag stands for now.
        pub di: Option<String>,
        /// Version of the disk image that runs.
        pub running_di: Option<String>,
        /// Node that holds it.
        #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
        pub host_id: Option<HostId>,
        /// That node's name.
        pub host: Option<String>,
        /// Its state as last reported.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub state: VmState,
        /// What the cluster wants.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub want: Want,
        /// Step within the state.
        pub phase: String,
        /// Its node is away: nobody can say what it does, and it can start nowhere else.
        pub unavailable: bool,
        /// Why its last start or run failed.
        pub failed: Option<String>,
        /// Milliseconds that its last start took, to the agent's first word.
        pub start_ms: Option<u64>,
        /// Node whose router has the session.
        pub l7r: Option<String>,
        /// The session's state.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub user_state: UserState,
        /// Client's address.
        pub client: Option<String>,
        /// In maintenance.
        pub blocked: bool,
        /// Set when the store itself blocked it (a start that failed): why.
        pub blocked_reason: Option<String>,
        /// What the administrator who blocked it tells its user.
        pub block_note: Option<String>,
        /// Asked to stop at this time, RFC 3339.
        pub expire_soft: Option<String>,
        /// Stopped at this time, RFC 3339.
        pub expire_hard: Option<String>,
    }

    /// A new virtual machine.
    pub struct NewVm: request {
        /// Its name.
        pub name: String,
        /// Its owner's login; either this or `user_id`.
        #[serde(default)]
        pub user: Option<String>,
        /// Its owner.
        #[serde(default)]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
        pub user_id: Option<UserId>,
        /// Its OS flavour's name; either this or `osf_id`.
        #[serde(default)]
        pub osf: Option<String>,
        /// Its OS flavour.
        #[serde(default)]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
        pub osf_id: Option<OsfId>,
        /// Its address; none: the lowest free one.
        #[serde(default)]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
        pub ip: Option<Ipv4Addr>,
        /// Tag of the disk image; none: `default`.
        #[serde(default)]
        pub di_tag: Option<String>,
        /// Makes so many, named `<name>-0` and on; not together with `ip`.
        #[serde(default)]
        pub bulk: Option<u32>,
    }

    /// Changes to virtual machines; what is absent stays.
    pub struct EditVm: request {
        /// New name (one VM).
        #[serde(default)]
        pub name: Option<String>,
        /// New owner's login (stopped VMs).
        #[serde(default)]
        pub user: Option<String>,
        /// New address (one stopped VM).
        #[serde(default)]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
        pub ip: Option<Ipv4Addr>,
        /// New tag; takes effect at the next start.
        #[serde(default)]
        pub di_tag: Option<String>,
        /// In maintenance or not.
        #[serde(default)]
        pub blocked: Option<bool>,
    }

    /// A block, which may say why.
    pub struct BlockVm: request {
        /// For its user, who reads it on the desktop's card.
        #[serde(default)]
        pub note: Option<String>,
    }

    /// Counters of a virtual machine.
    pub struct VmCounters {
        /// The VM.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        pub id: VmId,
        /// Its name.
        pub name: String,
        /// Its state.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub state: VmState,
        /// In maintenance.
        pub blocked: bool,
        /// Starts tried.
        pub run_attempts: u64,
        /// Starts that reached running.
        pub run_ok: u64,
    }
}
