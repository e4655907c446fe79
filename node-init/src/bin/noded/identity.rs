//! Who this node is: its key, made on first boot and never leaving the node, and what the store made
//! of it at the join (id, name, certificate) with the cluster's CA.
//!
//! Two files under [`paths::IDENTITY`] (0700): `key.pem` (0600) and `member.json`, each written whole
//! or not at all. A key that cannot be read is an error, never a reason for a new one: a new key is a
//! new node in the eyes of the cluster, and the guests on STATE belong to the old one.

use crate::files;
use crate::paths::Paths;
use model::{Digest, HostId, paths, sync::Joined};
use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{io, path::PathBuf, sync::Arc};

/// Why the identity cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("Cannot use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key file holds no key.
    #[error("{path} holds no private key: restore it, or remove it to make this machine a new node")]
    Key {
        /// Which.
        path: PathBuf,
        /// What the reader said.
        source: rcgen::Error,
    },
    /// The membership file is damaged.
    #[error("{path} is damaged: remove it to join again with the same key")]
    Member {
        /// Which.
        path: PathBuf,
        /// What the reader said.
        source: serde_json::Error,
    },
    /// A certificate in the membership file is damaged.
    #[error("A certificate in {path} is damaged: remove the file to join again with the same key")]
    Certificate {
        /// Which.
        path: PathBuf,
    },
    /// No key or request could be made.
    #[error("Cannot make a key or a certificate request")]
    Make(#[from] rcgen::Error),
}

/// The node's key.
#[derive(Debug)]
pub struct NodeKey(KeyPair);

impl NodeKey {
    /// Reads the key, or makes it when there is none yet.
    pub fn load_or_make(paths: &Paths) -> Result<Self, IdentityError> {
        Self::load(paths)?.map_or_else(|| Self::make(paths), Ok)
    }

    /// Reads the key; none when there is none yet.
    pub fn load(paths: &Paths) -> Result<Option<Self>, IdentityError> {
        let path = key_path(paths);
        match std::fs::read_to_string(&path) {
            Ok(text) => match KeyPair::from_pem(&text) {
                Ok(key) => Ok(Some(Self(key))),
                Err(source) => Err(IdentityError::Key { path, source }),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(IdentityError::File { path, source }),
        }
    }

    fn make(paths: &Paths) -> Result<Self, IdentityError> {
        let (key, path) = (KeyPair::generate()?, key_path(paths));
        files::make_dir(&paths.at(paths::IDENTITY), 0o700)
            .and_then(|()| files::replace(&path, key.serialize_pem().as_bytes(), 0o600))
            .map_err(|source| IdentityError::File { path, source })?;
        tracing::info!(fingerprint = %fingerprint(&key.subject_public_key_info()), "Made this node's key");
        Ok(Self(key))
    }

    /// SHA-256 of the public key (SubjectPublicKeyInfo): what an administrator compares before approving.
    pub fn fingerprint(&self) -> Digest {
        fingerprint(&self.0.subject_public_key_info())
    }

    /// A certificate request (PKCS#10, DER) for this key. The store ignores the subject.
    pub fn request(&self, name: &str) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        Ok(params.serialize_request(&self.0)?.der().to_vec())
    }

    /// The private key, for TLS.
    pub fn private(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }

    /// The private key, PEM (PKCS#8), for the router.
    pub fn pem(&self) -> String {
        self.0.serialize_pem()
    }
}

/// SHA-256 of anything.
pub fn fingerprint(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// What the store made of this node at the join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub host: HostId,
    /// Its name.
    pub name: String,
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// The cluster's CA.
    pub ca: CertificateDer<'static>,
}

/// A member as it is on disk.
#[derive(Serialize, Deserialize)]
struct MemberFile {
    host: HostId,
    name: String,
    certificate: String,
    ca: String,
}

impl Member {
    /// Fingerprint of the cluster's CA; names the cluster.
    pub fn cluster(&self) -> Digest {
        fingerprint(&self.ca)
    }

    /// Reads the membership; none before the first join.
    pub fn load(paths: &Paths) -> Result<Option<Arc<Self>>, IdentityError> {
        let path = member_path(paths);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::File { path, source }),
        };
        let file: MemberFile = match serde_json::from_slice(&text) {
            Ok(file) => file,
            Err(source) => return Err(IdentityError::Member { path, source }),
        };
        let read = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes());
        match (read(&file.certificate), read(&file.ca)) {
            (Ok(certificate), Ok(ca)) => Ok(Some(Arc::new(Self { host: file.host, name: file.name, certificate, ca }))),
            _ => Err(IdentityError::Certificate { path }),
        }
    }

    /// Keeps what the store answered to a join.
    pub fn keep(paths: &Paths, joined: Joined) -> Result<Arc<Self>, IdentityError> {
        let member =
            Self { host: joined.host, name: joined.name, certificate: joined.certificate.into(), ca: joined.ca.into() };
        let path = member_path(paths);
        let (certificate, ca) = (pem(&member.certificate), pem(&member.ca));
        let file = MemberFile { host: member.host, name: member.name.clone(), certificate, ca };
        serde_json::to_vec_pretty(&file)
            .map_err(io::Error::from)
            .and_then(|text| files::replace(&path, &text, 0o600))
            .map_err(|source| IdentityError::File { path, source })?;
        Ok(Arc::new(member))
    }
}

/// A certificate as PEM.
pub fn pem(der: &CertificateDer) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn key_path(paths: &Paths) -> PathBuf {
    paths.at(paths::IDENTITY).join("key.pem")
}

fn member_path(paths: &Paths) -> PathBuf {
    paths.at(paths::IDENTITY).join("member.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn here() -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().expect("temp dir");
        let paths = Paths { state: dir.path().join("state"), run: dir.path().join("run") };
        (dir, paths)
    }

    #[test]
    fn the_key_is_made_once_and_only_its_owner_reads_it() {
        let (_dir, paths) = here();
        let first = NodeKey::load_or_make(&paths).expect("makes");
        assert_eq!(NodeKey::load_or_make(&paths).expect("reads").fingerprint(), first.fingerprint());
        let mode = std::fs::metadata(paths.at(paths::IDENTITY).join("key.pem")).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_key_is_an_error_and_stays() {
        let (_dir, paths) = here();
        NodeKey::load_or_make(&paths).expect("makes");
        let path = paths.at(paths::IDENTITY).join("key.pem");
        std::fs::write(&path, "scratched").expect("writes");
        assert!(matches!(NodeKey::load_or_make(&paths), Err(IdentityError::Key { .. })));
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), "scratched");
    }

    #[test]
    fn the_membership_reads_back() {
        let (_dir, paths) = here();
        assert_eq!(Member::load(&paths).expect("none yet"), None);
        let key = NodeKey::load_or_make(&paths).expect("makes");
        let cert = CertificateParams::default().self_signed(&key.0).expect("signs").der().to_vec();
        let joined = Joined { host: HostId(3), name: "node3".into(), certificate: cert.clone(), ca: cert };
        let kept = Member::keep(&paths, joined).expect("keeps");
        assert_eq!(Member::load(&paths).expect("reads"), Some(kept));
    }
}
