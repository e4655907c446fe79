//! Verifies grants: the store's signed word that a user may open a session with a guest of this node.

use model::{
    HostId, frame,
    grant::{Grant, SignedGrant},
};
use ring::signature::{ED25519, UnparsedPublicKey};

/// Why a grant is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// Not the store's signature.
    #[error("its signature is not the store's")]
    Forged,
    /// Signed, but not a grant as this version knows them.
    #[error("it cannot be read")]
    Malformed,
    /// Made out for another node.
    #[error("it is for host {0}")]
    OtherHost(HostId),
    /// Too late.
    #[error("it expired {0} s ago")]
    Expired(u64),
}

/// The grant, if it holds on `host` at `now` (Unix seconds).
pub fn verify(signed: &SignedGrant, key: &[u8], host: HostId, now: u64) -> Result<Grant, GrantError> {
    UnparsedPublicKey::new(&ED25519, key)
        .verify(&SignedGrant::signed_bytes(&signed.body), &signed.signature)
        .map_err(|_| GrantError::Forged)?;
    let grant: Grant = frame::decode(&signed.body).map_err(|_| GrantError::Malformed)?;
    if grant.host != host {
        return Err(GrantError::OtherHost(grant.host));
    }
    if grant.expires < now {
        return Err(GrantError::Expired(now - grant.expires));
    }
    Ok(grant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{UserId, VmId};
    use ring::signature::{Ed25519KeyPair, KeyPair};

    fn signer() -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[5; 32]).expect("a seed of 32 bytes")
    }

    fn grant() -> Grant {
        Grant { user: UserId(1), vm: VmId(2), host: HostId(3), expires: 1000, login: "u".into(), params: vec![] }
    }

    fn signed(body: Vec<u8>) -> SignedGrant {
        let signature = signer().sign(&SignedGrant::signed_bytes(&body)).as_ref().to_vec();
        SignedGrant { body, signature }
    }

    #[track_caller]
    fn check(signed: &SignedGrant, host: u32, now: u64, expect: Result<Grant, GrantError>) {
        assert_eq!(verify(signed, signer().public_key().as_ref(), HostId(host), now), expect);
    }

    #[test]
    fn a_grant_holds_for_its_host_until_it_expires() {
        let good = signed(frame::encode(&grant()).expect("encodes"));
        check(&good, 3, 1000, Ok(grant()));
        check(&good, 3, 1001, Err(GrantError::Expired(1)));
        check(&good, 4, 1000, Err(GrantError::OtherHost(HostId(3))));
    }

    #[test]
    fn what_the_store_did_not_sign_is_forged() {
        let good = signed(frame::encode(&grant()).expect("encodes"));
        for at in 0..good.body.len() {
            let mut bad = good.clone();
            bad.body[at] ^= 1;
            check(&bad, 3, 0, Err(GrantError::Forged));
        }
        let bare = signer().sign(&good.body).as_ref().to_vec();
        check(&SignedGrant { signature: bare, ..good.clone() }, 3, 0, Err(GrantError::Forged));
        check(&signed(vec![1]), 3, 0, Err(GrantError::Malformed));
        assert_eq!(verify(&good, &[], HostId(3), 0), Err(GrantError::Forged));
    }
}
