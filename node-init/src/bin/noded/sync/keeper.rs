//! Keeps the ledger in step with the board.

use crate::{
    clock,
    ledger::{Entry, Ledger, LedgerError},
    paths::Paths,
    report::chain,
};
use model::{Digest, sync::Desired};
use std::sync::{Arc, Mutex};

/// The ledger and what is in it.
#[derive(Debug)]
pub struct Keeper {
    ledger: Arc<Mutex<Ledger>>,
    entry: Entry,
}

impl Keeper {
    /// Opens the ledger. An entry of another cluster than `cluster` is not used: its guests are not ours to run.
    pub fn open(paths: &Paths, cluster: Digest) -> Self {
        let (ledger, found) = Ledger::open(paths);
        if let Some(found) = found.as_ref().filter(|f| f.cluster != cluster) {
            tracing::warn!(cluster = %found.cluster, "The ledger belongs to another cluster and is not used");
        }
        let empty = Entry { cluster, clock_ms: 0, grant_key: vec![], desired: None };
        let entry = found.filter(|f| f.cluster == cluster).unwrap_or(empty);
        Self { ledger: Arc::new(Mutex::new(ledger)), entry }
    }

    /// What is kept.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Revision of the desired state kept; 0 is none.
    pub fn revision(&self) -> u64 {
        self.entry.desired.as_ref().map_or(0, |d| d.revision)
    }

    /// Keeps a desired state. A failure is logged and costs no more than the ledger's freshness.
    pub async fn keep_desired(&mut self, desired: &Desired) {
        self.entry.desired = Some(desired.clone());
        self.write().await;
    }

    /// Keeps the key that verifies grants.
    pub async fn keep_grant_key(&mut self, key: &[u8]) {
        if self.entry.grant_key != key {
            self.entry.grant_key = key.to_vec();
            self.write().await;
        }
    }

    /// Keeps the time, when what is kept is older than an hour.
    pub async fn keep_time(&mut self) {
        if clock::now_ms().saturating_sub(self.entry.clock_ms) > 3_600_000 && self.entry.clock_ms > 0 {
            self.write().await;
        }
    }

    async fn write(&mut self) {
        self.entry.clock_ms = clock::now_ms();
        let (ledger, entry) = (self.ledger.clone(), self.entry.clone());
        // The write waits for the disk, which must not hold up the runtime.
        let written = tokio::task::spawn_blocking(move || -> Result<(), LedgerError> {
            ledger.lock().unwrap_or_else(|e| e.into_inner()).write(&entry)
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = %chain(&error), "The ledger was not written"),
            Err(error) => tracing::error!(error = %chain(&error), "The ledger's writer failed"),
        }
    }
}
