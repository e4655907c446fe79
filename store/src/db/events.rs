//! The audit log: who did what to what.

use super::{Tx, signed, unsigned};
use crate::error::Result;
use model::api::EventRow;

/// Older events than so many are dropped.
const KEPT: i64 = 100_000;

impl Tx<'_> {
    /// Writes down that `actor` did `what` to `object`. Never put a secret into `detail`.
    pub fn event(&self, actor: &str, what: &str, object: &str, detail: &str) -> Result<()> {
        self.exec(
            "write an event",
            "INSERT INTO events (at_ms, actor, what, object, detail) VALUES (?, ?, ?, ?, ?)",
            (signed(self.now_ms), actor, what, object, detail),
        )?;
        let newest = self.conn.last_insert_rowid();
        self.exec("drop old events", "DELETE FROM events WHERE id <= ?", [newest - KEPT])?;
        Ok(())
    }

    /// The newest `limit` events, newest first.
    pub fn events(&self, limit: u32) -> Result<Vec<EventRow>> {
        let sql = "SELECT at_ms, actor, what, object, detail FROM events ORDER BY id DESC LIMIT ?";
        self.all("list events", sql, [limit], |row| {
            Ok(EventRow {
                at_ms: unsigned(row.get(0)?),
                actor: row.get(1)?,
                what: row.get(2)?,
                object: row.get(3)?,
                detail: row.get(4)?,
            })
        })
    }
}
