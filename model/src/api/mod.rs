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
//! | POST `/hosts/recovery` | filter | | [`HostRecovery`] list; each key shown is an event |
//! | POST `/hosts/update` | filter | [`UpdateHosts`] | [`Done`] |
//! | DELETE `/hosts` | filter | | [`Done`] |
//! | GET `/images` | | | [`NodeImageRow`] list |
//! | POST `/images` | | [`NewNodeImage`] | [`NodeImageRow`] |
//! | DELETE `/images/{id}` | | | 204 |
//! | GET `/hosts/counters` | filter | | [`HostCounters`] list |
//! | GET `/hosts/boots` | filter | | [`BootRow`] list, newest first |
//! | GET `/hosts/boots/{id}` | | | [`BootLog`] |
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

use crate::Digest;
use serde::{Deserialize, Serialize};
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

// Behind the macro, which they use.
mod config;
mod hosts;
mod images;
mod users;
mod vms;

pub use config::*;
pub use hosts::*;
pub use images::*;
pub use users::*;
pub use vms::*;

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
