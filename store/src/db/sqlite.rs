//! SQLite behind [`super::Db`]: one thread for each of two connections, each job one transaction.

use crate::error::{Error, Result};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::mpsc,
    time::Duration,
};
use tokio::sync::oneshot;

/// Marks the file as ours (`PRAGMA application_id`): "roos".
const APPLICATION_ID: i32 = 0x726f_6f73;
/// How long another process may hold the database.
const BUSY: Duration = Duration::from_secs(5);
/// Every schema so far; the version (`PRAGMA user_version`) is how many of them were applied.
const MIGRATIONS: &[&str] = &[
    include_str!("schema_001.sql"),
    include_str!("schema_002.sql"),
    include_str!("schema_003.sql"),
    include_str!("schema_004.sql"),
    include_str!("schema_005.sql"),
    include_str!("schema_006.sql"),
];

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A thread with a connection.
#[derive(Clone)]
pub struct Worker {
    jobs: mpsc::Sender<Job>,
    behavior: TransactionBehavior,
}

impl Worker {
    /// Starts the thread. It ends when the last handle is dropped and all jobs are done.
    pub fn start(name: &str, mut conn: Connection, writes: bool) -> Result<Self> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let run = move || inbox.into_iter().for_each(|job| job(&mut conn));
        std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(Error::io("start the thread", name))?;
        let behavior = if writes { TransactionBehavior::Immediate } else { TransactionBehavior::Deferred };
        Ok(Self { jobs, behavior })
    }

    /// Runs `work` in a transaction: committed when it succeeds, else undone.
    pub async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let (answer, done) = oneshot::channel();
        let behavior = self.behavior;
        let job = Box::new(move |conn: &mut Connection| {
            // One request's fault must not end the thread for all: the transaction's guard undoes it.
            let result = catch_unwind(AssertUnwindSafe(|| transact(conn, behavior, work)));
            // The asker may have gone: what was done stays done.
            drop(answer.send(result.unwrap_or(Err(Error::Closed))));
        });
        self.jobs.send(job).map_err(|_| Error::Closed)?;
        done.await.map_err(|_| Error::Closed)?
    }
}

/// Does `work` in a transaction on this thread.
pub fn transact<T>(
    conn: &mut Connection,
    behavior: TransactionBehavior,
    work: impl FnOnce(&Connection) -> Result<T>,
) -> Result<T> {
    let tx = conn.transaction_with_behavior(behavior).map_err(Error::db("begin a transaction"))?;
    let value = work(&tx)?;
    tx.commit().map_err(Error::db("commit"))?;
    Ok(value)
}

/// Opens for writing and migrates.
pub fn open(path: &Path, create: bool) -> Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    } else if !path.exists() {
        return Err(Error::none("database", path.display()));
    }
    let mut conn = Connection::open_with_flags(path, flags).map_err(Error::db("open a file"))?;
    set_up(&conn).map_err(Error::db("set up a connection"))?;
    migrate(&mut conn, path)?;
    Ok(conn)
}

/// Opens for reading only.
pub fn open_reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(Error::db("open a file"))?;
    set_up(&conn)
        .and_then(|()| conn.pragma_update(None, "query_only", true))
        .map_err(Error::db("set up a connection"))?;
    Ok(conn)
}

fn set_up(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(BUSY)?;
    conn.pragma_update(None, "journal_mode", "wal")?;
    // A power cut must not undo what a node was told: with less than FULL, WAL may lose the last commits.
    conn.pragma_update(None, "synchronous", "full")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    // As PostgreSQL's LIKE.
    conn.pragma_update(None, "case_sensitive_like", true)?;
    conn.set_prepared_statement_cache_capacity(128);
    Ok(())
}

fn migrate(conn: &mut Connection, path: &Path) -> Result<()> {
    let tx =
        conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(Error::db("begin a transaction"))?;
    let pragma =
        |name| tx.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(Error::db("read a pragma"));
    let (id, version) = (pragma("application_id")?, pragma("user_version")?);
    let fresh = id == 0 && version == 0 && is_empty(&tx)?;
    if !fresh && id != APPLICATION_ID {
        return Err(Error::Refused(format!("{} is a database, but not one of a store", path.display())));
    }
    let applied = usize::try_from(version).unwrap_or(usize::MAX);
    if applied > MIGRATIONS.len() {
        return Err(Error::Refused(format!(
            "{} has schema {version}, and this store knows only up to {}: run the newer store",
            path.display(),
            MIGRATIONS.len()
        )));
    }
    for sql in &MIGRATIONS[applied..] {
        tx.execute_batch(sql).map_err(Error::db("migrate the schema"))?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(Error::db("write a pragma"))?;
    tx.pragma_update(None, "user_version", MIGRATIONS.len() as i32).map_err(Error::db("write a pragma"))?;
    tx.commit().map_err(Error::db("commit"))
}

fn is_empty(conn: &Connection) -> Result<bool> {
    let tables: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(Error::db("read the schema"))?;
    Ok(tables == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_each_earlier_version_is_brought_up_to_date_with_its_rows() {
        for version in 1..MIGRATIONS.len() {
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("store.db");
            let old = Connection::open(&path).expect("opens");
            old.execute_batch(&MIGRATIONS[..version].concat()).expect("an old schema");
            old.execute("INSERT INTO users (login) VALUES ('ann')", []).expect("a row");
            old.pragma_update(None, "application_id", APPLICATION_ID).expect("marked");
            old.pragma_update(None, "user_version", version as i32).expect("marked");
            drop(old);
            let conn = self::open(&path, false).expect("migrates");
            let found: (String, i64) = conn
                .query_row("SELECT login, totp_step FROM users", [], |row| Ok((row.get(0)?, row.get(1)?)))
                .expect("there");
            assert_eq!(found, ("ann".to_owned(), 0), "from version {version}");
        }
    }
}
