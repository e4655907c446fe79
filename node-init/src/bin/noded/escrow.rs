//! The recovery key of an encrypted STATE: `node-init` leaves it in a file, the store gets it, and then the file goes.

use crate::report::chain;
use model::recovery::Escrow;
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

/// The file. There is none where STATE is not encrypted, or the store has the key.
#[derive(Clone, Debug)]
pub struct Escrowed(PathBuf);

impl Escrowed {
    /// The key in this file.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// What the store must be told.
    pub fn pending(&self) -> Option<Escrow> {
        let text = match std::fs::read(&self.0) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(path = %self.0.display(), error = %chain(&error), "Cannot read STATE's recovery key");
                return None;
            }
        };
        match serde_json::from_slice(&text) {
            Ok(escrow) => Some(escrow),
            // The reader's words could hold the key.
            Err(_) => {
                tracing::error!(path = %self.0.display(), "The file of STATE's recovery key is damaged: the store gets none");
                None
            }
        }
    }

    /// The store has the key of this volume: the node forgets its own.
    pub fn forget(&self, volume: &str) {
        if self.pending().is_none_or(|escrow| escrow.volume != volume) {
            tracing::warn!(volume, "The store keeps a recovery key that this node did not offer");
            return;
        }
        let removed = std::fs::remove_file(&self.0);
        let folder = self.0.parent().unwrap_or(Path::new("/"));
        match removed.and_then(|()| File::open(folder)?.sync_all()) {
            Ok(()) => tracing::info!(volume, "The store keeps STATE's recovery key; this node has none any more"),
            Err(error) => tracing::error!(error = %chain(&error), "STATE's recovery key is still on this node"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_offered_until_the_store_has_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("key.json");
        let escrowed = Escrowed::at(path.clone());
        assert_eq!(escrowed.pending(), None);
        let key = "99998-99999-9999A-9999B-9999C-9999D-9999E".parse().expect("a key");
        let escrow = Escrow { volume: "v1".into(), key };
        std::fs::write(&path, serde_json::to_vec(&escrow).expect("text")).expect("written");
        assert_eq!(escrowed.pending(), Some(escrow.clone()));
        escrowed.forget("v2");
        assert_eq!(escrowed.pending(), Some(escrow), "another volume's key was acknowledged");
        escrowed.forget("v1");
        assert!(!path.exists());
        std::fs::write(&path, "{").expect("written");
        assert_eq!(escrowed.pending(), None);
        escrowed.forget("v1");
        assert!(path.exists(), "a damaged file is left to people");
    }
}
