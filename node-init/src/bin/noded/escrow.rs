//! The recovery key of an encrypted STATE: `node-init` leaves it in a file, on that very STATE, and the store of the
//! node's cluster gets it. The file stays, for a node that is moved to another cluster has another store.

use crate::{files, report::chain};
use model::{Digest, recovery::Escrow};
use serde::{Deserialize, Serialize};
use std::{io, path::PathBuf};

/// The file. There is none where STATE is not encrypted.
#[derive(Clone, Debug)]
pub struct Escrowed {
    path: PathBuf,
    cluster: Digest,
}

/// What is in it.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    escrow: Escrow,
    /// The cluster whose store has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<Digest>,
}

impl Escrowed {
    /// The key in this file, for the store of this cluster.
    pub fn at(path: PathBuf, cluster: Digest) -> Self {
        Self { path, cluster }
    }

    /// What the store must be told.
    pub fn pending(&self) -> Option<Escrow> {
        self.read().filter(|kept| kept.by != Some(self.cluster)).map(|kept| kept.escrow)
    }

    fn read(&self) -> Option<Kept> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(path = %self.path.display(), error = %chain(&error), "Cannot read STATE's recovery key");
                return None;
            }
        };
        match serde_json::from_slice(&text) {
            Ok(kept) => Some(kept),
            // The reader's words could hold the key.
            Err(_) => {
                tracing::error!(path = %self.path.display(), "The file of STATE's recovery key is damaged: the store gets none");
                None
            }
        }
    }

    /// The store has the key of this volume: it needs not be told again.
    pub fn kept(&self, volume: &str) {
        let Some(mut kept) = self.read().filter(|kept| kept.escrow.volume == volume) else {
            tracing::warn!(volume, "The store keeps a recovery key that this node did not offer");
            return;
        };
        kept.by = Some(self.cluster);
        let written = serde_json::to_vec(&kept).map_err(io::Error::other);
        match written.and_then(|text| files::replace(&self.path, &text, 0o600)) {
            Ok(()) => tracing::info!(volume, "The store keeps STATE's recovery key"),
            Err(error) => tracing::error!(error = %chain(&error), "The store is told STATE's recovery key once more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Digest = Digest([1; 32]);

    #[test]
    fn the_key_is_offered_until_the_store_has_it_and_to_the_next_cluster() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("key.json");
        let escrowed = Escrowed::at(path.clone(), OURS);
        assert_eq!(escrowed.pending(), None);
        let key = "99998-99999-9999A-9999B-9999C-9999D-9999E".parse().expect("a key");
        let escrow = Escrow { volume: "v1".into(), key };
        std::fs::write(&path, serde_json::to_vec(&escrow).expect("text")).expect("written");
        assert_eq!(escrowed.pending(), Some(escrow.clone()));
        escrowed.kept("v2");
        assert_eq!(escrowed.pending(), Some(escrow.clone()), "another volume's key was acknowledged");
        escrowed.kept("v1");
        assert_eq!(escrowed.pending(), None);
        assert_eq!(Escrowed::at(path.clone(), Digest([2; 32])).pending(), Some(escrow));
        std::fs::write(&path, "{").expect("written");
        assert_eq!(escrowed.pending(), None);
        escrowed.kept("v1");
        assert_eq!(std::fs::read(&path).expect("there"), b"{", "a damaged file is left to people");
    }
}
