//! Boots of nodes: how each ended, and its last words.

use super::{Tx, filter::clause, signed, unsigned};
use crate::error::{Error, Result};
use model::{
    HostId,
    api::{BootLog, BootRow},
    boot::{BootReport, LOG_MAX, PANIC_MAX, WORD_MAX, head, tail},
    filter::{Filter, Object},
};
use rusqlite::params_from_iter;

/// So many boots of each node are kept.
const KEPT: u32 = 32;

impl Tx<'_> {
    /// A node tells of one of its boots, maybe not for the first time. A crash that is news is an event.
    pub fn boot_report(&self, host: HostId, report: &BootReport) -> Result<()> {
        let word = |text: &str| head(text, WORD_MAX).to_owned();
        let (how, why, boot) = (report.end.word(), word(report.end.why()), word(&report.boot));
        let before = "SELECT how FROM host_boots WHERE host_id = ? AND boot = ?";
        let before = self.one("look for a boot", before, (host.0, &boot), |row| row.get::<_, String>(0))?;
        let sql = "INSERT INTO host_boots (host_id, boot, version, began_ms, lasted_s, how, why, panic, log)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (host_id, boot) DO UPDATE SET version = excluded.version,
                   began_ms = excluded.began_ms, lasted_s = excluded.lasted_s, how = excluded.how, why = excluded.why,
                   panic = excluded.panic, log = excluded.log";
        let (panic, log) = (tail(&report.panic, PANIC_MAX), tail(&report.log, LOG_MAX));
        let (began, lasted, version) = (signed(report.began_ms), signed(report.lasted_s), word(&report.version));
        self.exec("keep a boot", sql, (host.0, &boot, version, began, lasted, how, &why, panic, log))?;
        let sql = "DELETE FROM host_boots WHERE host_id = ?1 AND id NOT IN
                   (SELECT id FROM host_boots WHERE host_id = ?1 ORDER BY id DESC LIMIT ?2)";
        self.exec("drop old boots", sql, (host.0, KEPT))?;
        if report.end.is_crash() && before.as_deref() != Some(how) {
            let detail = if why.is_empty() { how.to_owned() } else { format!("{how}: {why}") };
            self.event("store", "host.crashed", &format!("host {host}"), &detail)?;
        }
        Ok(())
    }

    /// Boots of the nodes that match, newest first.
    pub fn boots(&self, filter: &Filter) -> Result<Vec<BootRow>> {
        let clause = clause(Object::Host, filter);
        let sql = format!(
            "SELECT {COLUMNS} FROM host_boots b JOIN hosts h ON h.id = b.host_id JOIN host_runtimes hr ON hr.host_id = h.id
             WHERE {} ORDER BY h.id, b.id DESC",
            clause.sql
        );
        self.all("list boots", &sql, params_from_iter(clause.params), row)
    }

    /// One boot, with its words.
    pub fn boot_log(&self, id: u32) -> Result<BootLog> {
        let sql = format!(
            "SELECT {COLUMNS}, b.panic, b.log FROM host_boots b JOIN hosts h ON h.id = b.host_id WHERE b.id = ?"
        );
        let found = self.one("read a boot", &sql, [id], |r| {
            Ok(BootLog { boot: row(r)?, panic: r.get("panic")?, log: r.get("log")? })
        });
        found?.ok_or_else(|| Error::none("boot", id))
    }
}

const COLUMNS: &str = "b.id, h.id AS host_id, h.name, b.boot, b.version, b.began_ms, b.lasted_s, b.how, b.why";

fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<BootRow> {
    let began_ms: i64 = row.get("began_ms")?;
    let began = jiff::Timestamp::from_millisecond(began_ms).ok().filter(|_| began_ms > 0);
    Ok(BootRow {
        id: row.get("id")?,
        host_id: HostId(row.get("host_id")?),
        host: row.get("name")?,
        boot: row.get("boot")?,
        version: row.get("version")?,
        began: began.map(|at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()).unwrap_or_default(),
        lasted_s: unsigned(row.get("lasted_s")?),
        end: row.get("how")?,
        why: row.get("why")?,
    })
}
