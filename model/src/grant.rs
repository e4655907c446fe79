//! Grants: the store's signed word that a user may open a session with a VM on a host.

use crate::{HostId, UserId, VmId};
use serde::{Deserialize, Serialize};

/// What the store grants. Legal until `expires`; a node refuses one made out for another host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Who.
    pub user: UserId,
    /// To which VM.
    pub vm: VmId,
    /// On which node the VM is placed.
    pub host: HostId,
    /// Unix seconds after which no session is opened with it.
    pub expires: u64,
    /// Login name in the guest.
    pub login: String,
    /// Session parameters that the client cannot override, later ones win: the properties of OSF, DI,
    /// user and VM, and those of the authentication plugins (QVD's A.7).
    pub params: Vec<(String, String)>,
}

/// A grant's postcard bytes and an Ed25519 signature over [`SIGN_CONTEXT`] and those bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedGrant {
    /// Postcard of a [`Grant`].
    pub body: Vec<u8>,
    /// 64 bytes.
    pub signature: Vec<u8>,
}

/// Put before the bytes signed, so that a signature over anything else never passes for a grant.
pub const SIGN_CONTEXT: &[u8] = b"roost grant v1\0";

impl SignedGrant {
    /// The bytes that the signature covers.
    pub fn signed_bytes(body: &[u8]) -> Vec<u8> {
        [SIGN_CONTEXT, body].concat()
    }
}
