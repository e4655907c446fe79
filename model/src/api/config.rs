//! Configuration of the cluster.

use crate::sync::Secret;
use serde::{Deserialize, Serialize};

messages! {
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
}
