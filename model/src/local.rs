//! What a node's router and its `noded` say to each other.
//!
//! The router connects to [`crate::paths::ROUTER_SOCKET`]; frames are [`crate::frame`] values behind a
//! 4-byte big-endian length. It connects again when `noded` restarts, and says Hello with all its
//! sessions, so `noded` may be away at any time without harm to a session.
//!
//! A session's bytes come by another way: one connection to [`crate::paths::SESSION_SOCKET`] per
//! session, one [`Open`] frame there (length-prefixed), one [`Opened`] frame back with, on success, the
//! connected descriptor attached to its first byte (SCM_RIGHTS).

use crate::{
    HostId, UserId, VmId,
    grant::SignedGrant,
    key::Config,
    state::{HostState, VmState},
    sync::{Call, Counters, Refusal, Reply, RouterTls, SessionReport},
};
use serde::{Deserialize, Serialize};

/// From the router. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToNoded {
    /// First word: all sessions that live.
    Hello {
        /// Sessions in any state but disconnected.
        sessions: Vec<SessionReport>,
    },
    /// A question for the store; the answer is a [`ToRouter::Reply`] with the same number.
    Call(u64, Call),
    /// A session's state changed.
    Session(SessionReport),
    /// Counts since the last such message.
    Counters(Counters),
    /// The router listens (address and port), or cannot: the reason.
    Listening(Result<String, String>),
}

/// To the router. Append only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToRouter {
    /// All that the router must know, after Hello and at each change.
    Config(Box<RouterConfig>),
    /// Answer to a call.
    Reply(u64, Reply),
    /// Cut a session.
    Abort {
        /// Which VM.
        vm: VmId,
        /// Which of its sessions; any where absent.
        session: Option<u64>,
        /// Why, for the user.
        reason: String,
    },
    /// Guests of this node, whenever one changes: lets known users reconnect while the store is away.
    Guests(Vec<(VmId, VmState)>),
    /// End a user's logins, and forget what is known of them.
    EndLogins(UserId),
}

/// What the router must know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouterConfig {
    /// This node; none before it has joined.
    pub host: Option<HostId>,
    /// The node's state.
    pub state: HostState,
    /// Blocked by an administrator.
    pub blocked: bool,
    /// Whether the store can be reached now.
    pub store_online: bool,
    /// Configuration.
    pub config: Config,
    /// What to show to clients.
    pub tls: RouterTls,
    /// Certificate and key (PEM) of this node and the cluster CA (PEM), for other nodes' routers.
    pub peer_tls: RouterTls,
    /// The cluster CA, PEM.
    pub ca: String,
}

/// Asks for a session with a guest of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The store's word.
    pub grant: SignedGrant,
    /// What is wanted in the guest.
    pub kind: SessionKind,
    /// The client's parameters (`qvd.client.*`, `custom.*`).
    pub params: Vec<(String, String)>,
    /// Random id of the session.
    pub session: u64,
}

/// What a session is connected to. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionKind {
    /// An NX client.
    Nx,
    /// A browser: RFB.
    Vnc,
    /// The user's files: one request of `vma_proto::files`. It is no session of the guest, is not
    /// reported as one, and leaves the one that is there alone.
    Files,
}

/// The answer to [`Open`].
pub type Opened = Result<OpenInfo, OpenError>;

/// A session is open; the descriptor comes with this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenInfo {
    /// Whether an earlier session was resumed (its windows are still there).
    pub resumed: bool,
}

/// Why no session was opened. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum OpenError {
    /// The grant is not one: forged, expired, or for another host.
    #[error("The grant is not valid here: {0}")]
    Grant(String),
    /// The guest does not run here.
    #[error("The virtual machine is {0} on this node")]
    NotRunning(VmState),
    /// Not now; ask again in a second (the other session is being suspended).
    #[error("The session is busy: {0}")]
    Busy(String),
    /// The agent could not.
    #[error("The session could not be started: {0}")]
    Failed(String),
    /// Refused by the store's rules.
    #[error(transparent)]
    Refused(#[from] Refusal),
}
