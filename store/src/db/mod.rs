//! The cluster's state in SQL.
//!
//! The interface speaks in our types: a caller passes [`Db::write`] or [`Db::read`] a function over a
//! [`Tx`], whose methods (`users.rs`, `images.rs`, `vms.rs`, `hosts.rs`...) hold all the SQL there is. The
//! function is one transaction: all of it happens, or nothing. `crate::conformance` holds the promises.
//!
//! ```text
//! callers --(closure)--> writer thread (one connection)      changes: a counter that wakes whoever waits
//!         --(closure)--> reader thread (query only, WAL)
//! ```

mod boots;
mod config;
mod desired;
mod events;
mod filter;
mod hosts;
mod images;
mod join;
mod lives;
mod properties;
mod recovery;
mod rollouts;
mod sessions;
mod sqlite;
mod users;
mod vms;

pub use hosts::Node;
pub use images::NewImage;
pub use join::JoinOutcome;
pub use lives::{Dice, Life, Reported, Verdict};
pub use properties::Named;
pub use recovery::RecoveryRow;
pub use rollouts::NewSet;
pub use sessions::{Acquire, Holder, Placed, Wish};
pub use users::Account;

use crate::error::{Error, Result};
use rusqlite::{OptionalExtension, TransactionBehavior};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::watch;

/// Where the time comes from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's.
    System,
    /// A test's, Unix milliseconds.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// Unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        match self {
            Self::System => jiff::Timestamp::now().as_millisecond().try_into().unwrap_or_default(),
            Self::Manual(now) => now.load(Ordering::SeqCst),
        }
    }
}

/// The database. Clones share it.
#[derive(Clone)]
pub struct Db {
    writer: sqlite::Worker,
    reader: sqlite::Worker,
    clock: Clock,
    changes: Arc<watch::Sender<u64>>,
}

/// One transaction.
pub struct Tx<'a> {
    conn: &'a rusqlite::Connection,
    /// When it began, Unix milliseconds: one time for all that it does.
    pub now_ms: u64,
}

impl Db {
    /// Opens the database file, which must exist, and brings its schema up to date.
    ///
    /// # Errors
    /// When it cannot be opened, is no database of ours, is newer than this program, or another
    /// process holds it locked for longer than five seconds.
    pub fn open(path: &Path, clock: Clock) -> Result<Self> {
        let writer = sqlite::open(path, false)?;
        let reader = sqlite::open_reader(path)?;
        Ok(Self {
            writer: sqlite::Worker::start("db-writer", writer, true)?,
            reader: sqlite::Worker::start("db-reader", reader, false)?,
            clock,
            changes: Arc::new(watch::Sender::new(0)),
        })
    }

    /// Makes a new database file with what `work` puts into it, and closes it again: it is one whole
    /// file then, which can be renamed.
    pub fn create(path: &Path, clock: &Clock, work: impl FnOnce(&Tx) -> Result<()>) -> Result<()> {
        let mut conn = sqlite::open(path, true)?;
        sqlite::transact(&mut conn, TransactionBehavior::Immediate, |conn| work(&Tx { conn, now_ms: clock.now_ms() }))?;
        conn.close().map_err(|(_, source)| Error::Db { action: "close a new file", source })
    }

    /// Where the database takes the time from.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Does `work` in one transaction and wakes all that wait for changes. An error undoes everything.
    pub async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx) -> Result<T> + Send + 'static,
    {
        let done = self.write_quietly(work).await?;
        self.wake();
        Ok(done)
    }

    /// Like [`Db::write`], for what nobody waits for, such as a heartbeat's figures.
    pub async fn write_quietly<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx) -> Result<T> + Send + 'static,
    {
        let clock = self.clock.clone();
        self.writer.run(move |conn| work(&Tx { conn, now_ms: clock.now_ms() })).await
    }

    /// Reads from one consistent state.
    pub async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx) -> Result<T> + Send + 'static,
    {
        let clock = self.clock.clone();
        self.reader.run(move |conn| work(&Tx { conn, now_ms: clock.now_ms() })).await
    }

    /// Wakes all that wait for changes.
    pub fn wake(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// Resolves at each change from now on. It only wakes: read again what you wait for.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// A word of one of our enumerations, in a column.
struct Word<T>(T);

impl<T: std::str::FromStr> rusqlite::types::FromSql for Word<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
        value.as_str()?.parse().map(Self).map_err(rusqlite::types::FromSqlError::other)
    }
}

/// SQL's numbers are signed; ours that are not keep their bits.
fn signed(n: u64) -> i64 {
    i64::from_ne_bytes(n.to_ne_bytes())
}

fn unsigned(n: i64) -> u64 {
    u64::from_ne_bytes(n.to_ne_bytes())
}

impl Tx<'_> {
    fn exec(&self, action: &'static str, sql: &str, params: impl rusqlite::Params) -> Result<usize> {
        self.conn.prepare_cached(sql).and_then(|mut s| s.execute(params)).map_err(Error::db(action))
    }

    fn all<T>(
        &self,
        action: &'static str,
        sql: &str,
        params: impl rusqlite::Params,
        map: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let read = || -> rusqlite::Result<Vec<T>> { self.conn.prepare_cached(sql)?.query_map(params, map)?.collect() };
        read().map_err(Error::db(action))
    }

    fn one<T>(
        &self,
        action: &'static str,
        sql: &str,
        params: impl rusqlite::Params,
        map: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        let read =
            || -> rusqlite::Result<Option<T>> { self.conn.prepare_cached(sql)?.query_row(params, map).optional() };
        read().map_err(Error::db(action))
    }

    fn count(&self, action: &'static str, sql: &str, params: impl rusqlite::Params) -> Result<u32> {
        Ok(self.one(action, sql, params, |row| row.get(0))?.unwrap_or(0))
    }

    /// Does `work`; if it fails, what it did is undone and the transaction goes on.
    pub fn nested<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.exec("set a savepoint", "SAVEPOINT one", [])?;
        let result = work();
        if result.is_err() {
            self.exec("undo to a savepoint", "ROLLBACK TO SAVEPOINT one", [])?;
        }
        self.exec("release a savepoint", "RELEASE SAVEPOINT one", [])?;
        result
    }

    /// The id that the last insert gave.
    fn new_id(&self) -> Result<u32> {
        u32::try_from(self.conn.last_insert_rowid())
            .map_err(|_| Error::Refused("All 2^32 ids of this kind are used up".to_owned()))
    }
}
