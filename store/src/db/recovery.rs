//! Recovery keys of nodes' encrypted STATE, sealed.

use super::{Tx, filter::clause, signed, unsigned};
use crate::error::Result;
use model::{
    HostId,
    filter::{Filter, Object},
};
use rusqlite::params_from_iter;

/// Volumes of a node whose keys are kept: it makes a new one when an administrator gives up the data of the old one.
const KEPT: u32 = 16;

/// A kept recovery key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryRow {
    /// Whose.
    pub host: HostId,
    /// The node's name.
    pub name: String,
    /// UUID of the volume that it opens.
    pub volume: String,
    /// Sealed, base64.
    pub sealed: String,
    /// When it came, Unix milliseconds.
    pub at_ms: u64,
}

impl Tx<'_> {
    /// Keeps a volume's recovery key; false when one was kept already, which is replaced.
    pub fn recovery_set(&self, host: HostId, volume: &str, sealed: &str) -> Result<bool> {
        let sql = "SELECT count(*) FROM recovery_keys WHERE host_id = ? AND volume = ?";
        let known = self.count("look for a recovery key", sql, (host.0, volume))?;
        let sql = "INSERT OR REPLACE INTO recovery_keys (host_id, volume, sealed, at_ms) VALUES (?, ?, ?, ?)";
        self.exec("keep a recovery key", sql, (host.0, volume, sealed, signed(self.now_ms)))?;
        let sql = "DELETE FROM recovery_keys WHERE host_id = ?1 AND volume NOT IN
                   (SELECT volume FROM recovery_keys WHERE host_id = ?1 ORDER BY at_ms DESC LIMIT ?2)";
        self.exec("drop old recovery keys", sql, (host.0, KEPT))?;
        Ok(known == 0)
    }

    /// Recovery keys of nodes that match, each node's newest first.
    pub fn recovery_keys(&self, filter: &Filter) -> Result<Vec<RecoveryRow>> {
        let clause = clause(Object::Host, filter);
        let sql = format!(
            "SELECT h.id, h.name, k.volume, k.sealed, k.at_ms
             FROM recovery_keys k JOIN hosts h ON h.id = k.host_id JOIN host_runtimes hr ON hr.host_id = h.id
             WHERE {} ORDER BY h.id, k.at_ms DESC",
            clause.sql
        );
        self.all("read recovery keys", &sql, params_from_iter(clause.params), |row| {
            let (host, name, volume) = (HostId(row.get(0)?), row.get(1)?, row.get(2)?);
            Ok(RecoveryRow { host, name, volume, sealed: row.get(3)?, at_ms: unsigned(row.get(4)?) })
        })
    }
}
