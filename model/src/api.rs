//! The admin API: JSON over HTTPS, spoken by `store` on its `--listen` address and by `qa`.
//!
//! Every request but `GET /api/v1/openapi.json` carries `Authorization: Bearer TOKEN`. Every error is an
//! [`ErrorBody`] with status 400 (bad input), 401, 404 (no such thing), 409 (not now, or taken), 413, 416, 500 or 503.
//! `?filter=` takes the grammar of [`crate::filter`]; without it every object is meant (asking the
//! administrator first is `qa`'s part). Adding answers 201 with [`Added`]; commands on many answer
//! [`Done`], also when nothing matched.
//!
//! | method and path (under [`BASE`]) | query | body | answer |
//! |---|---|---|---|
//! | GET `/cluster` | | | [`Cluster`] |
//! | GET `/config` | `all=1` shows `internal.*` as well | | [`ConfigEntry`] list, sorted by key |
//! | PUT `/config` | | map of key to value | [`Done`] |
//! | POST `/config/del` | | [`Keys`] (none: all) | [`Done`] |
//! | PUT `/config/ssl` | | [`Ssl`] | 204 |
//! | GET `/hosts` | filter | | [`HostRow`] list |
//! | POST `/hosts` | | [`NewHost`] | [`Added`] |
//! | POST `/hosts/{block,unblock,approve}` | filter | | [`Done`] |
//! | DELETE `/hosts` | filter | | [`Done`] |
//! | GET `/hosts/counters` | filter | | [`HostCounters`] list |
//! | GET `/osfs` | filter | | [`OsfRow`] list |
//! | POST `/osfs` | | [`NewOsf`] | [`Added`] |
//! | DELETE `/osfs` | filter | | [`Done`] |
//! | POST `/uploads` | | [`NewUpload`] | [`Upload`] |
//! | GET, DELETE `/uploads/{id}` | | | [`Upload`], 204 |
//! | PUT `/uploads/{id}` | `offset=N` | bytes from there on, at least one | [`Upload`]; 409 with the offset wanted |
//! | POST `/dis` | | [`NewDi`] | 202, [`Import`] |
//! | GET `/imports/{id}` | | | [`Import`] |
//! | GET `/dis` | filter | | [`DiRow`] list |
//! | POST `/dis/{id}/{tag,untag}` | | [`Tag`] | [`Done`] |
//! | DELETE `/dis` | filter | | [`Done`] |
//! | GET `/users` | filter | | [`UserRow`] list |
//! | POST `/users` | | [`NewUser`] | [`Added`] |
//! | POST `/users/passwd` | | [`NewUser`] (of an existing login) | [`Done`] |
//! | POST `/users/totp` | | [`Login`] | [`Totp`]; one-time codes of an earlier secret are good no more |
//! | POST `/users/totp/del` | | [`Login`] | [`Done`] |
//! | DELETE `/users` | filter | | [`Done`] |
//! | GET `/vms` | filter | | [`VmRow`] list |
//! | POST `/vms` | | [`NewVm`] | [`Added`] |
//! | PATCH `/vms` | filter | [`EditVm`] | [`Done`] |
//! | POST `/vms/{start,stop,unblock,disconnect_user,release}` | filter | | [`Done`] |
//! | POST `/vms/block` | filter | [`BlockVm`], or nothing | [`Done`] |
//! | DELETE `/vms` | filter | | [`Done`] |
//! | GET `/vms/counters` | filter | | [`VmCounters`] list |
//! | GET `/{hosts,osfs,dis,users,vms}/properties` | filter | | [`PropertyRow`] list |
//! | PUT `/{...}/properties` | filter | map of key to value | [`Done`] |
//! | POST `/{...}/properties/del` | filter | [`Keys`] (none: all) | [`Done`] |
//! | POST `/tokens` | | [`NewToken`] | [`Token`] |
//! | GET `/events` | `limit=N` | | [`EventRow`] list, newest first |
//! | GET `/hosts/{id}/timeline` | | | [`crate::init::Timeline`] |
//! | GET `/openapi.json` | | | OpenAPI 3.1 |

use crate::{
    DiId, Digest, HostId, OsfId, UserId, VmId,
    state::{HostState, UserState, VmState, Want},
    sync::Secret,
};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// Prefix of every path.
pub const BASE: &str = "/api/v1";
/// Name of the file that tells `qa` where the store is: beside the database, and in `qa`'s search path.
pub const QA_FILE: &str = "qa.toml";
/// Largest body of a request other than an upload, in bytes.
pub const MAX_BODY: usize = 2 << 20;

/// The file `qa.toml`. Its `Debug` leaves out the token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QaConfig {
    /// Where the store listens, such as `https://127.0.0.1:3000`, without a path.
    pub url: String,
    /// Bearer token.
    pub token: String,
    /// The cluster CA, PEM: the only root that `qa` trusts.
    pub ca: String,
}

impl std::fmt::Debug for QaConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QaConfig").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Requests (`struct Name: request`) refuse unknown fields: a slip must not pass for a default. Answers
/// take them: an older `qa` works with a newer store.
macro_rules! messages {
    ($($(#[$doc:meta])* pub struct $name:ident $(: $request:ident)? { $($(#[$fdoc:meta])* pub $field:ident: $type:ty,)* })*) => {$(
        messages! { @one $($request)? $(#[$doc])* pub struct $name { $($(#[$fdoc])* pub $field: $type,)* } }
    )*};
    (@one request $($item:tt)*) => {
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(deny_unknown_fields)]
        $($item)*
    };
    (@one $($item:tt)*) => {
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        $($item)*
    };
}

messages! {
    /// Body of every answer with a status of 400 or more.
    pub struct ErrorBody {
        /// What was found, where, what was expected, what to do.
        pub error: String,
    }

    /// The cluster, for making seeds and for checking versions.
    pub struct Cluster {
        /// Version of the store.
        pub version: String,
        /// SHA-256 of the cluster CA's certificate (DER): goes into seeds.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub ca_sha256: Digest,
        /// The cluster CA, PEM.
        pub ca: String,
        /// Port on which the store listens for nodes.
        pub node_port: u16,
    }

    /// One object was added.
    pub struct Added {
        /// Its id; of several (`bulk`), the first one's.
        pub id: u32,
        /// How many were added.
        pub count: u32,
    }

    /// A command on many objects.
    pub struct Done {
        /// How many the filter matched.
        pub matched: u32,
        /// On how many it was done.
        pub done: u32,
        /// Those on which it was not done, and why.
        pub failed: Vec<Failed>,
    }

    /// An object on which a command was not done.
    pub struct Failed {
        /// Its id.
        pub id: u32,
        /// Its name.
        pub name: String,
        /// Why.
        pub reason: String,
    }

    /// Keys of configuration or properties; none means all.
    pub struct Keys: request {
        /// The keys.
        pub keys: Vec<String>,
    }

    /// One configuration key.
    pub struct ConfigEntry {
        /// Its name.
        pub key: String,
        /// Its value: the stored one, else the default.
        pub value: String,
        /// Whether a value is stored.
        pub set: bool,
    }

    /// The routers' certificate, as PEM texts.
    pub struct Ssl: request {
        /// Certificate chain, the routers' own first.
        pub cert: String,
        /// Private key.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub key: Secret,
        /// CA for client certificates.
        #[serde(default)]
        pub ca: Option<String>,
        /// Its revocation list.
        #[serde(default)]
        pub crl: Option<String>,
    }

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
    }

    /// A new node, registered before it joins with a token under this name.
    pub struct NewHost: request {
        /// Its name.
        pub name: String,
        /// Its address.
        pub address: String,
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

    /// An OS flavour.
    pub struct OsfRow {
        /// Its id.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        pub id: OsfId,
        /// Its name.
        pub name: String,
        /// Memory of its machines, MiB.
        pub memory_mib: u32,
        /// Whether its machines get a writable layer.
        pub use_overlay: bool,
        /// Size limit of homes, MiB; none: homes do not persist.
        pub user_storage_mib: Option<u32>,
    }

    /// A new OS flavour.
    pub struct NewOsf: request {
        /// Its name.
        pub name: String,
        /// Memory, MiB; none: `osf.default.memory`.
        #[serde(default)]
        pub memory_mib: Option<u32>,
        /// None: `osf.default.overlay`.
        #[serde(default)]
        pub use_overlay: Option<bool>,
        /// Size limit of homes, MiB; none: homes do not persist.
        #[serde(default)]
        pub user_storage_mib: Option<u32>,
    }

    /// A file about to be uploaded.
    pub struct NewUpload: request {
        /// File name, shown as the DI's path.
        pub name: String,
        /// Its bytes.
        pub bytes: u64,
        /// Its SHA-256, checked when whole.
        #[serde(default)]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
        pub sha256: Option<Digest>,
    }

    /// An upload. It survives a restart of the store, and is dropped a day after its last byte.
    pub struct Upload {
        /// Its id.
        pub id: String,
        /// File name.
        pub name: String,
        /// Bytes in all.
        pub bytes: u64,
        /// Bytes that have arrived and lie on disk: where to go on.
        pub received: u64,
    }

    /// A disk image to be made of an upload that is whole.
    pub struct NewDi: request {
        /// Id of the upload; it is gone when the import has succeeded.
        pub upload: String,
        /// Name of the OS flavour; either this or `osf_id`.
        #[serde(default)]
        pub osf: Option<String>,
        /// The OS flavour.
        #[serde(default)]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
        pub osf_id: Option<OsfId>,
        /// Version; none: today's date and a number, `YYYY-MM-DD-NNN`.
        #[serde(default)]
        pub version: Option<String>,
    }

    /// Conversion of an upload to a disk image.
    pub struct Import {
        /// Its id.
        pub id: String,
        /// How it stands.
        pub state: ImportState,
        /// Bytes of the upload read so far.
        pub done_bytes: u64,
        /// Bytes of the upload.
        pub total_bytes: u64,
        /// The new disk image, once done.
        #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>))]
        pub di: Option<DiId>,
        /// Its version, once done.
        pub version: Option<String>,
        /// Device nodes that were left out.
        pub dropped_devices: u64,
        /// Files, directories and links in it.
        pub entries: u64,
        /// Why it failed.
        pub error: Option<String>,
    }

    /// A disk image.
    pub struct DiRow {
        /// Its id.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        pub id: DiId,
        /// Its OS flavour.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        pub osf_id: OsfId,
        /// Its OS flavour's name.
        pub osf: String,
        /// Version.
        pub version: String,
        /// `<id>-<file name>`.
        pub path: String,
        /// Tags, sorted; the version is a fixed one and is not listed.
        pub tags: Vec<String>,
        /// SHA-256 of the squashfs.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub digest: Digest,
        /// Bytes of the squashfs.
        pub bytes: u64,
    }

    /// A tag to set or take away.
    pub struct Tag: request {
        /// The tag.
        pub tag: String,
    }

    /// A person.
    pub struct UserRow {
        /// Its id.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        pub id: UserId,
        /// Login.
        pub login: String,
        /// Whether a one-time code is asked for.
        #[serde(default)]
        pub totp: bool,
    }

    /// A user, by login.
    pub struct Login: request {
        /// The login.
        pub login: String,
    }

    /// A new secret of one-time codes: shown this once.
    pub struct Totp {
        /// `otpauth://` address, which authenticators read.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub uri: Secret,
    }

    /// A login and its password.
    pub struct NewUser: request {
        /// Login; spaces around it are dropped, and it is lower-cased unless `model.user.login.case-sensitive`.
        pub login: String,
        /// Password, not empty.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub password: Secret,
    }

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

    /// A property of an object.
    pub struct PropertyRow {
        /// The object.
        pub id: u32,
        /// Its name (login, `<osf> <version>` for a DI).
        pub name: String,
        /// Key.
        pub key: String,
        /// Value.
        pub value: String,
    }

    /// A token to be made.
    pub struct NewToken: request {
        /// What for.
        pub kind: TokenKind,
        /// Seconds for which it is good; none: a join token a day, an admin token for ever.
        #[serde(default)]
        pub ttl_s: Option<u64>,
        /// A word for the audit log, such as who it is for.
        #[serde(default)]
        pub note: String,
    }

    /// A new token: shown this once.
    pub struct Token {
        /// Its text.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub token: Secret,
        /// Unix seconds until which it is good.
        pub expires: Option<u64>,
    }

    /// Something that happened: who did what to what.
    pub struct EventRow {
        /// Unix milliseconds.
        pub at_ms: u64,
        /// Who: an admin token's note, a node's name, or `store`.
        pub actor: String,
        /// What, such as `vm.start`.
        pub what: String,
        /// To what, such as `vm 7`.
        pub object: String,
        /// More.
        pub detail: String,
    }
}

/// How an import stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ImportState {
    /// The upload is being converted.
    Running,
    /// The disk image is published.
    Done,
    /// Nothing was published.
    Failed,
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// One node may join with it, once.
    Join,
    /// An administrator.
    Admin,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_in_a_request_is_refused_and_news_in_an_answer_are_not() {
        assert!(serde_json::from_str::<Tag>(r#"{"tag":"head","tga":1}"#).is_err());
        assert!(serde_json::from_str::<Added>(r#"{"id":1,"count":1,"later":true}"#).is_ok());
    }

    #[test]
    fn a_password_is_in_the_json_and_not_in_the_debug() {
        let user: NewUser = serde_json::from_str(r#"{"login":"ann","password":"s3cret"}"#).expect("reads");
        assert_eq!(user.password.0, "s3cret");
        assert!(!format!("{user:?}").contains("s3cret"));
    }
}
