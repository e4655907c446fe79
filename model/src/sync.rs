//! Node sync: what a node and the store say to each other.
//!
//! TLS 1.3, ALPN [`ALPN`], both sides with certificates of the cluster CA; a peer without one may only
//! send [`ToStore::Join`]. Frames are [`crate::frame`] values behind a 4-byte big-endian length. The
//! node speaks first. Enums and structs here are append-only from the first release on.
//!
//! Everything wanted is a level, not an edge: [`Desired`] is the whole of what the store wants of the
//! node, sent again at each change of its revision, and kept by the node in its ledger. Everything
//! seen is a level as well: after each (re)connection the node reports all guests and sessions.

use crate::{
    DiId, Digest, HostId, UserId, VmId,
    boot::BootReport,
    grant::SignedGrant,
    key::Config,
    recovery::Escrow,
    state::{HostState, UserState, VmState, Want},
    update::{Update, Versions},
};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// ALPN of node sync.
pub const ALPN: &[u8] = b"roost-node/1";
/// Version of these messages.
pub const PROTO: u16 = 1;
/// DNS name in the certificate of every store process; nodes check it whatever address they dialled.
pub const STORE_NAME: &str = "store.roost.internal";
/// DNS name suffix in node certificates: `<host id>.node.roost.internal`.
pub const NODE_SUFFIX: &str = ".node.roost.internal";

/// From a node. Append only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToStore {
    /// First word of a node with a certificate.
    Hello(Hello),
    /// First and only word of a node without one.
    Join(JoinRequest),
    /// Every `internal.hkd.agent.ticker.delay` seconds, and when the state changes.
    Heartbeat(Heartbeat),
    /// A guest's state, whenever it changes, and all of them after Hello.
    Guest(GuestReport),
    /// A session's state, whenever it changes, and all of them after Hello.
    Session(SessionReport),
    /// After Hello: all guests and sessions were reported; what the store knows beyond them is over.
    ReportsComplete,
    /// A question; the answer is a [`ToNode::Reply`] with the same number.
    Call(u64, Call),
    /// Counts since the last such message.
    Counters(Counters),
    /// Boot timeline, JSON of [`crate::init::Timeline`].
    Timeline(String),
    /// What the node runs and could run, whenever it changes and after Hello.
    Versions(Versions),
    /// A boot of this node. One that has ended is told once and again until the answer, [`ToNode::BootKept`].
    Boot(BootReport),
    /// The recovery key of the node's encrypted STATE, at each connection until [`ToNode::Escrowed`] is heard.
    Escrow(Escrow),
}

/// To a node. Append only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToNode {
    /// Answer to Hello.
    Welcome(Welcome),
    /// Answer to Hello or Join: no, and why. The connection ends.
    Refused(String),
    /// Answer to Join: wait for an administrator; ask again later with the same key.
    JoinPending,
    /// Answer to Join: the node's certificate.
    Joined(Joined),
    /// All that the store wants of this node.
    Desired(Box<Desired>),
    /// Answer to a call.
    Reply(u64, Reply),
    /// Cut a session now (takeover, `vm disconnect_user`, block).
    AbortSession {
        /// Of which VM.
        vm: VmId,
        /// Which of its sessions; the one that has the VM where absent. A word that comes late does not
        /// hit the session that came after.
        session: Option<u64>,
        /// Why, for the user.
        reason: String,
    },
    /// End a user's logins now (deleted, another password, another code, logged out everywhere).
    EndLogins(UserId),
    /// The boot of this id is known here: it need not be told again.
    BootKept(String),
    /// The recovery key of the volume with this UUID is kept: it need not be told again.
    Escrowed(String),
}

/// A node introduces itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTO`] of the node.
    pub proto: u16,
    /// Version of the node's programs.
    pub version: String,
    /// Random per boot (kernel boot id).
    pub boot_id: String,
    /// Revision of the desired state in the node's ledger; 0 is none.
    pub revision: u64,
    /// Address under which other nodes and users reach it.
    pub address: Ipv4Addr,
    /// Machine facts.
    pub inventory: Inventory,
    /// Clock of the node, Unix milliseconds.
    pub clock_ms: u64,
}

/// What the machine is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// Vendor and model, from SMBIOS.
    pub machine: String,
    /// Serial number, from SMBIOS.
    pub serial: String,
    /// CPUs online.
    pub cpus: u32,
    /// Sum of bogomips.
    pub bogomips: f64,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Size of STATE, MiB.
    pub state_mib: u64,
    /// MAC address of the uplink.
    pub mac: String,
}

/// A node without certificate asks for one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// [`PROTO`] of the node.
    pub proto: u16,
    /// PKCS#10, DER. The subject is ignored: the store decides it.
    pub csr: Vec<u8>,
    /// One-use token of the seed.
    pub token: Option<String>,
    /// Wished name.
    pub name: String,
    /// Address under which it is reached.
    pub address: Ipv4Addr,
    /// Machine facts.
    pub inventory: Inventory,
}

/// A node's place in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Its id.
    pub host: HostId,
    /// Its name.
    pub name: String,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// The cluster CA, DER; the node checks it against the seed's fingerprint.
    pub ca: Vec<u8>,
}

/// The store accepts a node's connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The node, by its certificate.
    pub host: HostId,
    /// Its name.
    pub name: String,
    /// Clock of the store, Unix milliseconds.
    pub clock_ms: u64,
    /// Ed25519 public key that signs grants, 32 bytes.
    pub grant_key: Vec<u8>,
}

/// State and load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The node's own state.
    pub state: HostState,
    /// Why it is not running.
    pub reason: String,
    /// MemAvailable, MiB.
    pub available_mib: u64,
    /// CPU time used since the last heartbeat, in percent of all CPUs.
    pub cpu_percent: f32,
    /// Resident memory of our own programs, (name, KiB).
    pub rss_kib: Vec<(String, u64)>,
    /// Seconds since kernel start.
    pub uptime_s: u64,
}

/// All that the store wants of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// Grows with each change.
    pub revision: u64,
    /// The node takes no new guests or logins.
    pub blocked: bool,
    /// Configuration that differs from the defaults.
    pub config: Config,
    /// Certificate chain of the router, PEM, and its key, PEM (PKCS#8).
    pub router_tls: RouterTls,
    /// Guests placed here, wanted running or not.
    pub guests: Vec<GuestSpec>,
    /// The version that the node shall run; none: as it is.
    #[serde(default)]
    pub update: Option<Update>,
}

/// Reason of an abort that makes way for another client: pages tell it from an administrator's.
pub const TAKEN_OVER: &str = "Another client has connected to this desktop";

/// Reason of an abort by an administrator who gave none: pages have words of their own for it.
pub const ENDED: &str = "An administrator has ended the session";

/// What the router shows to clients. Its `Debug` leaves out the key.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterTls {
    /// Certificate chain, PEM.
    pub chain: String,
    /// Private key, PEM.
    pub key: String,
}

impl std::fmt::Debug for RouterTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouterTls").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// One guest as the store wants it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestSpec {
    /// Its id.
    pub vm: VmId,
    /// Its name; the guest's host name.
    pub name: String,
    /// Login of its owner; the home belongs to this login.
    pub login: String,
    /// Run or stop.
    pub want: Want,
    /// Grows with each command. A guest that ended or failed in a generation is not started again in it.
    pub generation: u64,
    /// Image to boot (chosen by tag when the start was asked for).
    pub image: GuestImage,
    /// Memory limit, MiB.
    pub memory_mib: u32,
    /// MAC address, `xx:xx:xx:xx:xx:xx`.
    pub mac: String,
    /// IP address on the bridge.
    pub ip: Ipv4Addr,
    /// First of its 65,536 uids and gids on the node.
    pub uid_base: u32,
    /// Size limit of the home, MiB; none: no home that persists.
    pub home_mib: Option<u32>,
    /// Epoch of its lease; reports carry it, and the store refuses those of an older one.
    pub epoch: u64,
    /// Combined properties (OSF, DI, user, VM; later ones win).
    pub properties: Vec<(String, String)>,
}

/// A guest image in the store's repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestImage {
    /// The DI.
    pub di: DiId,
    /// SHA-256 of the squashfs file.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: u64,
}

/// A guest as its node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestReport {
    /// Which.
    pub vm: VmId,
    /// Epoch under which it is reported.
    pub epoch: u64,
    /// Generation that the state belongs to.
    pub generation: u64,
    /// State.
    pub state: VmState,
    /// Step within the state, such as `waiting-for-agent`; for administrators.
    pub phase: String,
    /// When the state came about, Unix milliseconds.
    pub since_ms: u64,
    /// DI that runs or ran.
    pub di: Option<DiId>,
    /// The last start or run failed: the reason, in words that an administrator can act on.
    pub failed: Option<String>,
    /// Milliseconds from the start of the launch to the agent's first word, once known.
    pub start_ms: Option<u64>,
}

/// A session as its node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReport {
    /// With which VM.
    pub vm: VmId,
    /// Whose.
    pub user: UserId,
    /// State.
    pub state: UserState,
    /// Client's address.
    pub client: String,
    /// Random id of the session, unique in the cluster.
    pub session: u64,
}

impl SessionReport {
    /// The end of a session of which only these two are known: enough for the store, which forgets the session if it
    /// is the VM's present one.
    pub fn over(vm: VmId, session: u64) -> Self {
        Self { vm, user: UserId(0), state: UserState::Disconnected, client: String::new(), session }
    }

    /// The end of the session that a call is to acquire a VM for: gives back what was granted to nobody. None for
    /// other calls.
    pub fn end_of(call: &Call) -> Option<Self> {
        match call {
            Call::Acquire { vm, session, .. } => Some(Self::over(*vm, *session)),
            _ => None,
        }
    }
}

/// Counts of the router since the last report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// list, connect and stop requests.
    pub http_requests: u32,
    /// Logins tried.
    pub auth_attempts: u32,
    /// Logins that succeeded.
    pub auth_ok: u32,
    /// Sessions tried.
    pub nx_attempts: u32,
    /// Sessions opened.
    pub nx_ok: u32,
    /// Sessions shorter than `internal.l7r.short_session`.
    pub short_sessions: u32,
}

/// A password on its way to the store. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Questions of a router, asked through its `noded`. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// Who is this?
    Login {
        /// As typed.
        login: String,
        /// As typed.
        password: Secret,
        /// Client's address.
        client: String,
    },
    /// The VMs of a user who logged in.
    List {
        /// Whose.
        user: UserId,
    },
    /// Take hold of a VM for a new session: checks access, ends another session, places the VM and wants it running.
    Acquire {
        /// Who wants it.
        user: UserId,
        /// Which.
        vm: VmId,
        /// Random id of the session to be.
        session: u64,
        /// Client's address.
        client: String,
    },
    /// Answers when the VM's state differs from `seen`, after 2 s at the latest.
    AwaitVm {
        /// Who asks.
        user: UserId,
        /// Which.
        vm: VmId,
        /// State that the asker knows.
        seen: Option<VmState>,
    },
    /// Stop a VM on its user's word.
    StopVm {
        /// Who.
        user: UserId,
        /// Which.
        vm: VmId,
    },
    /// The VMs of a user who logged in, with all that a page tells of them.
    Cards {
        /// Whose.
        user: UserId,
    },
    /// Who is this? From a client that asks for the one-time code apart; those of QVD put it behind the
    /// password of a Login.
    LoginWithCode {
        /// As typed.
        login: String,
        /// As typed.
        password: Secret,
        /// As typed; none when nothing was.
        code: Option<Secret>,
        /// Client's address.
        client: String,
    },
    /// A user's word: end this user's logins at every router of the cluster.
    EndLogins {
        /// Whose.
        user: UserId,
    },
}

/// Answers. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To Login.
    LoggedIn(LoggedIn),
    /// To List.
    Vms(Vec<VmEntry>),
    /// To Acquire.
    Acquired(Acquired),
    /// To AwaitVm.
    Vm(VmNow),
    /// To StopVm: it will stop, or has.
    Stopping,
    /// To anything: no.
    Refused(Refusal),
    /// To Cards.
    Cards(Vec<VmCard>),
    /// To Login and LoginWithCode: by a code, which is good for no other login.
    LoggedInByCode(LoggedIn),
    /// To EndLogins: all nodes that can be reached were told; the others will be.
    LoginsEnded,
}

/// A login that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedIn {
    /// Who.
    pub user: UserId,
    /// The login as the store spells it.
    pub login: String,
}

/// One of a user's VMs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmEntry {
    /// Its id.
    pub vm: VmId,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: VmState,
    /// In maintenance.
    pub blocked: bool,
}

/// One of a user's VMs, as a page shows it. Ages are counted by the store's clock, so that a browser's
/// need not agree with it; none is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmCard {
    /// What every client is told.
    pub entry: VmEntry,
    /// Milliseconds since its state came about.
    pub state_ms: Option<u64>,
    /// Step within the state.
    pub phase: String,
    /// Why the last start or run failed.
    pub failed: Option<String>,
    /// Why it is blocked, if it is.
    pub block: Option<Block>,
    /// Its node is away, and it can start nowhere else.
    pub unavailable: bool,
    /// State of the session with it, at whichever router.
    pub session: UserState,
    /// Milliseconds since that came about.
    pub session_ms: Option<u64>,
}

impl From<VmEntry> for VmCard {
    /// All that is known while the store is away.
    fn from(entry: VmEntry) -> Self {
        let block = entry.blocked.then_some(Block::Order(None));
        Self {
            entry,
            state_ms: None,
            phase: String::new(),
            failed: None,
            block,
            unavailable: false,
            session: UserState::Disconnected,
            session_ms: None,
        }
    }
}

/// Why a VM is blocked. Append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Block {
    /// By an administrator, with the note for its user.
    Order(Option<String>),
    /// By the store, since it could not be started.
    FailedStart,
}

/// A VM held for a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acquired {
    /// Its node.
    pub host: HostId,
    /// Address of that node's router.
    pub address: Ipv4Addr,
    /// The store's word for that node.
    pub grant: SignedGrant,
    /// State now.
    pub now: VmNow,
    /// Another session had to be ended first, and has.
    pub took_over: bool,
}

/// A VM's state at this moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmNow {
    /// State.
    pub state: VmState,
    /// Whether the cluster wants it to run.
    pub want: Want,
    /// Step within the state.
    pub phase: String,
    /// Why the last start failed.
    pub failed: Option<String>,
}

/// Why the store, or a node, says no. Each maps to one HTTP status in the router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Wrong login or password (401).
    #[error("Wrong login or password")]
    BadLogin,
    /// Too many wrong logins lately (401; the text says how long to wait).
    #[error("Too many failed logins: wait {0} s")]
    TooMany(u32),
    /// No such VM (404).
    #[error("The requested virtual machine does not exist")]
    NoVm,
    /// The VM is in maintenance (403).
    #[error("The requested virtual machine is offline for maintenance")]
    Blocked,
    /// Not this user's VM (403).
    #[error("You are not allowed to access requested virtual machine")]
    NotYours,
    /// No node can take the VM (503).
    #[error("Unable to assign vm to host, there is no host available")]
    NoHost,
    /// Another session does not let go (503).
    #[error("Unable to acquire VM, close other clients")]
    Held,
    /// The VM cannot do this in its state (503).
    #[error("The requested virtual machine is in an unstoppable state ({0})")]
    State(VmState),
    /// The store cannot be reached, and nothing known here answers (503).
    #[error("The cluster's store cannot be reached")]
    StoreAway,
    /// Anything else (503), in words for the user.
    #[error("{0}")]
    Other(String),
    /// The password is right, and the account has one-time codes, of which none was given (401).
    #[error("This account needs a one-time code: put it behind the password")]
    CodeNeeded,
    /// The password is right, the code is wrong or was used before (401).
    #[error("The one-time code is wrong, or was used before: wait for the next one")]
    BadCode,
}
