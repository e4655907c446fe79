//! People, and the tokens of nodes and administrators.

use crate::{UserId, sync::Secret};
use serde::{Deserialize, Serialize};

messages! {
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
