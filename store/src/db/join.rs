//! Tokens, and the decision whether a node may join.

use super::{Node, Tx, signed, unsigned};
use crate::error::Result;
use model::{HostId, api::TokenKind, sync::JoinRequest};

/// Nodes that wait for approval at most: anybody who reaches the port may ask.
const PENDING_MAX: u32 = 256;

/// What becomes of a request to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinOutcome {
    /// It may have a certificate.
    Accepted(Node),
    /// An administrator must approve it first.
    Pending(Node),
    /// No, and why.
    Refused(String),
}

struct Known {
    node: Node,
    approved: bool,
}

impl Tx<'_> {
    /// Keeps a new token by its SHA-256. A join token must expire.
    pub fn token_add(&self, kind: TokenKind, sha256: &str, note: &str, expires_ms: Option<u64>) -> Result<()> {
        let expires = expires_ms.map(signed);
        match kind {
            TokenKind::Join => {
                // Tokens that were used or expired a week ago tell nobody anything any more.
                let old = signed(self.now_ms.saturating_sub(7 * 24 * 3600 * 1000));
                self.exec(
                    "drop old tokens",
                    "DELETE FROM join_tokens WHERE expires_ms < ? AND (used_ms IS NULL OR used_ms < ?)",
                    [old, old],
                )?;
                let sql = "INSERT INTO join_tokens (sha256, note, expires_ms) VALUES (?, ?, ?)";
                self.exec("keep a join token", sql, (sha256, note, expires.unwrap_or(i64::MAX)))?;
            }
            TokenKind::Admin => {
                let sql = "INSERT INTO admin_tokens (sha256, note, expires_ms) VALUES (?, ?, ?)";
                self.exec("keep an admin token", sql, (sha256, note, expires))?;
            }
        }
        Ok(())
    }

    /// Whose admin token this is (its note), when it is one and has not expired.
    pub fn admin(&self, sha256: &str) -> Result<Option<String>> {
        let sql = "SELECT note FROM admin_tokens WHERE sha256 = ? AND (expires_ms IS NULL OR expires_ms > ?)";
        self.one("look for an admin token", sql, (sha256, signed(self.now_ms)), |row| row.get(0))
    }

    /// Decides about a node that asks to join, and registers it. `token` is the SHA-256 of what it
    /// showed, `key` of its public key. A token is used up only when the node is accepted, and the node
    /// that used it may ask again, since the answer may have been lost.
    pub fn join(&self, token: Option<&str>, key: &str, request: &JoinRequest) -> Result<JoinOutcome> {
        let known = self.by_key(key)?;
        let Some(token) = token else { return self.join_without_token(known, key, request) };
        if let Err(reason) = self.check_token(token, key)? {
            return Ok(JoinOutcome::Refused(reason));
        }
        let address = request.address.to_string();
        let node = match known {
            Some(known) => known.node,
            None => match self.by_name(&request.name)? {
                Some((id, None)) => Node { id, name: request.name.clone() },
                Some((id, Some(_))) => {
                    return Ok(JoinOutcome::Refused(format!(
                        "A host named {} has joined before (id {id}): give this node another name, or delete that one with 'qa host del -f id={id}'",
                        request.name
                    )));
                }
                None => Node { id: self.host_insert(&request.name, &address, true, None)?, name: request.name.clone() },
            },
        };
        let sql = "UPDATE hosts SET approved = 1, key_sha256 = ?, address = ? WHERE id = ?";
        self.exec("register a node", sql, (key, &address, node.id.0))?;
        let sql = "UPDATE join_tokens SET used_by_key = ?, used_ms = ? WHERE sha256 = ?";
        self.exec("use up a token", sql, (key, signed(self.now_ms), token))?;
        Ok(JoinOutcome::Accepted(node))
    }

    fn join_without_token(&self, known: Option<Known>, key: &str, request: &JoinRequest) -> Result<JoinOutcome> {
        if let Some(Known { node, approved }) = known {
            return Ok(if approved { JoinOutcome::Accepted(node) } else { JoinOutcome::Pending(node) });
        }
        let pending = "SELECT count(*) FROM hosts WHERE approved = 0";
        if self.count("count waiting nodes", pending, [])? >= PENDING_MAX {
            let text = format!("{PENDING_MAX} nodes wait for approval already: approve or delete some");
            return Ok(JoinOutcome::Refused(text));
        }
        // A stranger must not take a name that is in use or meant for another.
        let name = match self.by_name(&request.name)? {
            None => request.name.clone(),
            Some(_) => format!("{}-{}", request.name, key.get(..8).unwrap_or(key)),
        };
        let id = self.host_insert(&name, &request.address.to_string(), false, Some(key))?;
        Ok(JoinOutcome::Pending(Node { id, name }))
    }

    fn check_token(&self, token: &str, key: &str) -> Result<std::result::Result<(), String>> {
        let sql = "SELECT expires_ms, used_by_key FROM join_tokens WHERE sha256 = ?";
        let found = self.one("look for a token", sql, [token], |row| {
            Ok((unsigned(row.get(0)?), row.get::<_, Option<String>>(1)?))
        })?;
        Ok(match found {
            None => Err("The join token is not known here: make one with 'store token new'".to_owned()),
            Some((_, Some(user))) if user == key => Ok(()),
            Some((_, Some(_))) => Err("The join token was used already: each is good for one node".to_owned()),
            Some((expires, None)) if expires <= self.now_ms => {
                let at = jiff::Timestamp::from_millisecond(signed(expires)).unwrap_or_default();
                Err(format!("The join token expired at {}: make another with 'store token new'", at.strftime("%F %TZ")))
            }
            Some((_, None)) => Ok(()),
        })
    }

    fn by_key(&self, key: &str) -> Result<Option<Known>> {
        let sql = "SELECT id, name, approved FROM hosts WHERE key_sha256 = ?";
        self.one("look for a host", sql, [key], |row| {
            Ok(Known { node: Node { id: HostId(row.get(0)?), name: row.get(1)? }, approved: row.get(2)? })
        })
    }

    fn by_name(&self, name: &str) -> Result<Option<(HostId, Option<String>)>> {
        let sql = "SELECT id, key_sha256 FROM hosts WHERE name = ?";
        self.one("look for a host", sql, [name], |row| Ok((HostId(row.get(0)?), row.get(1)?)))
    }
}
