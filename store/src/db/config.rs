//! Configuration that differs from the defaults, and the routers' certificate.

use super::Tx;
use crate::error::Result;
use model::{
    api::{ConfigEntry, Ssl},
    key::{self, Config},
};

/// Keys of the rows that `qa config ssl` writes.
const SSL_KEYS: [&str; 4] = ["l7r.ssl.cert", "l7r.ssl.key", "l7r.ssl.ca", "l7r.ssl.crl"];

impl Tx<'_> {
    /// All stored values.
    pub fn config(&self) -> Result<Config> {
        let pair = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        Ok(Config(
            self.all("read the configuration", "SELECT key, value FROM configs", [], pair)?.into_iter().collect(),
        ))
    }

    /// Every key with its value, stored or default, sorted; `internal.*` only when asked for.
    pub fn config_entries(&self, internal: bool) -> Result<Vec<ConfigEntry>> {
        let stored = self.config()?.0;
        let defaults = key::ALL.iter().filter(|k| !stored.contains_key(k.name()));
        let mut entries: Vec<ConfigEntry> = defaults
            .map(|k| ConfigEntry { key: k.name().to_owned(), value: k.default().to_owned(), set: false })
            .collect();
        entries.extend(stored.into_iter().map(|(key, value)| ConfigEntry { key, value, set: true }));
        entries.retain(|entry| internal || !entry.key.starts_with("internal."));
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    /// Stores a value after checking it against its key.
    pub fn config_set(&self, key: &str, value: &str) -> Result<()> {
        key::check(key, value)?;
        let sql =
            "INSERT INTO configs (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        self.exec("write a configuration key", sql, [key, value])?;
        Ok(())
    }

    /// Forgets a stored value; whether there was one.
    pub fn config_del(&self, key: &str) -> Result<bool> {
        Ok(self.exec("delete a configuration key", "DELETE FROM configs WHERE key = ?", [key])? == 1)
    }

    /// Stores the routers' certificate; absent parts are deleted. The caller has checked that they fit together.
    pub fn ssl_set(&self, ssl: &Ssl) -> Result<()> {
        let values = [Some(&ssl.cert), Some(&ssl.key.0), ssl.ca.as_ref(), ssl.crl.as_ref()];
        for (key, value) in SSL_KEYS.into_iter().zip(values) {
            self.exec("delete a certificate", "DELETE FROM ssl_configs WHERE key = ?", [key])?;
            if let Some(value) = value {
                self.exec("write a certificate", "INSERT INTO ssl_configs (key, value) VALUES (?, ?)", [key, value])?;
            }
        }
        Ok(())
    }

    /// The routers' certificate chain and key, when an administrator has set them.
    pub fn ssl(&self) -> Result<Option<(String, String)>> {
        let get = |key: &str| {
            self.one("read a certificate", "SELECT value FROM ssl_configs WHERE key = ?", [key], |row| row.get(0))
        };
        Ok(get(SSL_KEYS[0])?.zip(get(SSL_KEYS[1])?))
    }
}
