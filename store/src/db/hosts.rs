//! Nodes: what they are, how they do, and what the store wants of them.

use super::{Tx, Word, filter::clause, rollouts, signed, unsigned};
use crate::{
    error::{Error, Result},
    pki,
    placement::Candidate,
};
use model::{
    HostId,
    api::{HostCounters, HostRow, NewHost},
    filter::{Filter, Object},
    init::{Hardening, Timeline},
    key,
    state::HostState,
    sync::{Counters, Heartbeat, Hello, RouterTls},
};
use rusqlite::params_from_iter;

/// Missed heartbeats after which a node gets no new guests, long before it counts as lost.
const FRESH_BEATS: u32 = 3;
/// Share of a node's CPU power that counts in placement.
const CPU_SHARE: f64 = 0.8;

/// A node that may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: HostId,
    /// Its name.
    pub name: String,
}

impl Tx<'_> {
    /// Registers a node that has not joined yet.
    pub fn host_add(&self, new: &NewHost) -> Result<HostId> {
        if new.name.parse::<model::seed::HostName>().is_err() {
            let text = format!("'{}' is no host name: expected 1 to 63 letters, digits and '-'", new.name);
            return Err(Error::Invalid(text));
        }
        if new.address.parse::<std::net::Ipv4Addr>().is_err() {
            return Err(Error::Invalid(format!("'{}' is no address: expected an IPv4 address", new.address)));
        }
        if self.count("look for a host", "SELECT count(*) FROM hosts WHERE name = ?", [&new.name])? > 0 {
            return Err(Error::Taken { what: "host", found: new.name.clone() });
        }
        self.host_insert(&new.name, &new.address, true, None)
    }

    pub(super) fn host_insert(&self, name: &str, address: &str, approved: bool, key: Option<&str>) -> Result<HostId> {
        let sql = "INSERT INTO hosts (name, address, approved, key_sha256) VALUES (?, ?, ?, ?)";
        self.exec("add a host", sql, (name, address, approved, key))?;
        let id = self.new_id()?;
        let sql = "INSERT INTO host_runtimes (host_id, state, reason, blocked, usable_ram_mib, usable_cpu, available_mib,
                   cpu_percent, rss, version, inventory, timeline, revision, desired_sha256, router_chain, router_key, router_address)
                   VALUES (?, 'stopped', '', 0, 0, 0, 0, 0, '[]', '', '{}', '', 0, '', '', '', '')";
        self.exec("add a host's state", sql, [id])?;
        self.exec("add a host's counters", "INSERT INTO host_counters (host_id) VALUES (?)", [id])?;
        Ok(HostId(id))
    }

    /// The node with this public key, when it may connect.
    pub fn node_by_key(&self, key_sha256: &str) -> Result<Option<Node>> {
        let sql = "SELECT id, name FROM hosts WHERE key_sha256 = ? AND approved = 1";
        self.one("look for a node", sql, [key_sha256], |row| Ok(Node { id: HostId(row.get(0)?), name: row.get(1)? }))
    }

    /// Nodes that match; `connected` is for the caller to fill in.
    pub fn hosts(&self, filter: &Filter) -> Result<Vec<HostRow>> {
        let clause = clause(Object::Host, filter);
        let common = self.ssl()?.and_then(|(chain, _)| pki::leaf_sha256(&chain));
        let sql = format!(
            "SELECT h.id, h.name, h.address, hr.state, hr.reason, hr.blocked, h.approved, h.key_sha256, hr.router_chain,
                    hr.seen_ms, hr.usable_ram_mib, hr.usable_cpu, hr.available_mib, hr.cpu_percent, hr.rss, hr.version,
                    (SELECT count(*) FROM leases l WHERE l.host_id = h.id), hr.versions, hr.timeline
             FROM hosts h JOIN host_runtimes hr ON hr.host_id = h.id WHERE {} ORDER BY h.id",
            clause.sql
        );
        let mut rows = self.all("list hosts", &sql, params_from_iter(clause.params), |row| {
            let seen: Option<i64> = row.get(9)?;
            let own_chain: String = row.get(8)?;
            Ok(HostRow {
                id: HostId(row.get(0)?),
                name: row.get(1)?,
                address: row.get(2)?,
                state: row.get::<_, Word<HostState>>(3)?.0,
                reason: row.get(4)?,
                blocked: row.get(5)?,
                approved: row.get(6)?,
                connected: false,
                key_sha256: row.get(7)?,
                router_sha256: common.or_else(|| pki::leaf_sha256(&own_chain)).map(|d| d.to_string()),
                seen_s: seen.map(|ms| self.now_ms.saturating_sub(unsigned(ms)) / 1000),
                usable_ram_mib: row.get(10)?,
                usable_cpu: row.get(11)?,
                available_mib: unsigned(row.get(12)?),
                cpu_percent: row.get(13)?,
                rss_kib: serde_json::from_str(&row.get::<_, String>(14)?).unwrap_or_default(),
                version: row.get(15)?,
                vms: row.get(16)?,
                versions: rollouts::from_json(&row.get::<_, String>(17)?),
                update: None,
                hardening: hardening(&row.get::<_, String>(18)?),
            })
        })?;
        for row in &mut rows {
            row.update = self.host_update(row.id)?;
        }
        Ok(rows)
    }

    /// Sets or clears the flag that keeps new guests and logins away.
    pub fn host_block(&self, id: HostId, blocked: bool) -> Result<()> {
        self.exec("block a host", "UPDATE host_runtimes SET blocked = ? WHERE host_id = ?", (blocked, id.0))?;
        Ok(())
    }

    /// Lets a node join that waits for it.
    pub fn host_approve(&self, id: HostId) -> Result<()> {
        match self.exec("approve a host", "UPDATE hosts SET approved = 1 WHERE id = ? AND approved = 0", [id.0])? {
            0 => Err(Error::Refused("it is approved already".to_owned())),
            _ => Ok(()),
        }
    }

    /// Deletes a node that holds no VM. Its certificate is worth nothing from then on.
    pub fn host_del(&self, id: HostId) -> Result<()> {
        let vms = self.count("count a host's VMs", "SELECT count(*) FROM leases WHERE host_id = ?", [id.0])?;
        if vms > 0 {
            return Err(Error::Refused(format!(
                "{vms} virtual machines have their storage there: delete them, or release them with 'qa vm release'"
            )));
        }
        let forget = "UPDATE vm_runtimes SET session = NULL, session_host = NULL, user_state = 'disconnected' WHERE session_host = ?";
        self.exec("forget a host's sessions", forget, [id.0])?;
        self.exec("delete a host", "DELETE FROM hosts WHERE id = ?", [id.0])?;
        Ok(())
    }

    /// Counters of nodes that match.
    pub fn host_counters(&self, filter: &Filter) -> Result<Vec<HostCounters>> {
        let clause = clause(Object::Host, filter);
        let sql = format!(
            "SELECT h.id, h.name, c.http_requests, c.auth_attempts, c.auth_ok, c.nx_attempts, c.nx_ok, c.short_sessions
             FROM hosts h JOIN host_runtimes hr ON hr.host_id = h.id JOIN host_counters c ON c.host_id = h.id
             WHERE {} ORDER BY h.id",
            clause.sql
        );
        self.all("list counters", &sql, params_from_iter(clause.params), |row| {
            let count = |column| Ok::<_, rusqlite::Error>(unsigned(row.get(column)?));
            Ok(HostCounters {
                id: HostId(row.get(0)?),
                name: row.get(1)?,
                http_requests: count(2)?,
                auth_attempts: count(3)?,
                auth_ok: count(4)?,
                nx_attempts: count(5)?,
                nx_ok: count(6)?,
                short_sessions: count(7)?,
            })
        })
    }

    /// Adds counts of a node's router.
    pub fn count_up(&self, id: HostId, more: &Counters) -> Result<()> {
        let sql = "UPDATE host_counters SET http_requests = http_requests + ?, auth_attempts = auth_attempts + ?,
                   auth_ok = auth_ok + ?, nx_attempts = nx_attempts + ?, nx_ok = nx_ok + ?, short_sessions = short_sessions + ?
                   WHERE host_id = ?";
        let Counters { http_requests, auth_attempts, auth_ok, nx_attempts, nx_ok, short_sessions } = *more;
        self.exec(
            "add counts",
            sql,
            (http_requests, auth_attempts, auth_ok, nx_attempts, nx_ok, short_sessions, id.0),
        )?;
        Ok(())
    }

    /// A node connected. Until its first heartbeat it counts as starting, unless it was away so briefly
    /// that nobody noticed.
    pub fn hello(&self, id: HostId, hello: &Hello) -> Result<()> {
        let machine = &hello.inventory;
        let sql =
            "UPDATE host_runtimes SET state = CASE WHEN state IN ('stopped', 'lost') THEN 'starting' ELSE state END,
                   seen_ms = ?, version = ?, inventory = ?, usable_ram_mib = ?, usable_cpu = ? WHERE host_id = ?";
        let inventory = serde_json::to_string(machine).unwrap_or_default();
        let (ram, cpu) = (machine.memory_mib as f64, CPU_SHARE * machine.bogomips);
        self.exec("note a node's hello", sql, (signed(self.now_ms), &hello.version, inventory, ram, cpu, id.0))?;
        let address = hello.address.to_string();
        self.exec("note a node's address", "UPDATE hosts SET address = ? WHERE id = ?", (address, id.0))?;
        Ok(())
    }

    /// A node's heartbeat; whether its state changed.
    pub fn heartbeat(&self, id: HostId, beat: &Heartbeat) -> Result<bool> {
        let before = self.host_state(id)?;
        let sql =
            "UPDATE host_runtimes SET state = ?, reason = ?, seen_ms = ?, available_mib = ?, cpu_percent = ?, rss = ?
                   WHERE host_id = ?";
        let rss = serde_json::to_string(&beat.rss_kib).unwrap_or_default();
        // A node does not call itself lost.
        let state = if beat.state == HostState::Lost { HostState::Starting } else { beat.state };
        let seen = signed(self.now_ms);
        let (available, cpu) = (signed(beat.available_mib), f64::from(beat.cpu_percent));
        self.exec("note a heartbeat", sql, (state.as_str(), &beat.reason, seen, available, cpu, rss, id.0))?;
        Ok(before != Some(state))
    }

    /// A node's state.
    pub fn host_state(&self, id: HostId) -> Result<Option<HostState>> {
        let sql = "SELECT state FROM host_runtimes WHERE host_id = ?";
        Ok(self.one("read a host's state", sql, [id.0], |row| row.get::<_, Word<HostState>>(0))?.map(|word| word.0))
    }

    /// A node's connection ended: if it was going down, it is down now.
    pub fn connection_ended(&self, id: HostId) -> Result<()> {
        let sql = "UPDATE host_runtimes SET state = 'stopped' WHERE host_id = ? AND state = 'stopping'";
        self.exec("note a node's end", sql, [id.0])?;
        Ok(())
    }

    /// Marks nodes lost that were not heard of for too long, since `up_since` (when this store could
    /// hear) at the earliest. Their sessions are over; their VMs stay theirs.
    pub fn mark_lost(&self, up_since: u64) -> Result<Vec<Node>> {
        let timeout = self.config()?.get(&key::NODE_TIMEOUT).as_millis();
        let limit = self.now_ms.saturating_sub(u64::try_from(timeout).unwrap_or(u64::MAX));
        if limit < up_since {
            return Ok(Vec::new());
        }
        let sql = "SELECT h.id, h.name FROM hosts h JOIN host_runtimes hr ON hr.host_id = h.id
                   WHERE hr.state IN ('starting', 'running', 'stopping') AND (hr.seen_ms IS NULL OR hr.seen_ms < ?)";
        let lost = self.all("look for lost nodes", sql, [signed(limit)], |row| {
            Ok(Node { id: HostId(row.get(0)?), name: row.get(1)? })
        })?;
        for node in &lost {
            let sql = "UPDATE host_runtimes SET state = 'lost', reason = 'no word from it' WHERE host_id = ?";
            self.exec("mark a node lost", sql, [node.id.0])?;
            let sql = "UPDATE vm_runtimes SET session = NULL, session_host = NULL, session_user = NULL, client = NULL,
                       user_state = 'disconnected' WHERE session_host = ?";
            self.exec("end a lost node's sessions", sql, [node.id.0])?;
            self.event("store", "host.lost", &format!("host {}", node.id), &node.name)?;
        }
        Ok(lost)
    }

    /// A node whose last word is older was not heard of lately, Unix milliseconds.
    pub(super) fn heard_since(&self) -> Result<u64> {
        let fresh = self.config()?.get(&key::HEARTBEAT) * FRESH_BEATS;
        Ok(self.now_ms.saturating_sub(u64::try_from(fresh.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Nodes that may take another VM.
    pub fn candidates(&self) -> Result<Vec<Candidate>> {
        let since = self.heard_since()?;
        let sql =
            "SELECT h.id, hr.usable_ram_mib, hr.usable_cpu, (SELECT count(*) FROM leases l WHERE l.host_id = h.id)
                   FROM hosts h JOIN host_runtimes hr ON hr.host_id = h.id
                   WHERE hr.state = 'running' AND hr.blocked = 0 AND hr.going = 0 AND h.approved = 1 AND hr.seen_ms >= ? ORDER BY h.id";
        self.all("look for nodes", sql, [signed(since)], |row| {
            Ok(Candidate {
                host: HostId(row.get(0)?),
                usable_ram: row.get(1)?,
                usable_cpu: row.get(2)?,
                vms: row.get(3)?,
            })
        })
    }

    /// Keeps a node's boot timeline.
    pub fn timeline_set(&self, id: HostId, json: &str) -> Result<()> {
        self.exec("keep a timeline", "UPDATE host_runtimes SET timeline = ? WHERE host_id = ?", (json, id.0))?;
        Ok(())
    }

    /// A node's boot timeline.
    pub fn timeline(&self, id: HostId) -> Result<Timeline> {
        let sql = "SELECT timeline FROM host_runtimes WHERE host_id = ?";
        let json = self.one("read a timeline", sql, [id.0], |row| row.get::<_, String>(0))?;
        let json = json.ok_or_else(|| Error::none("host", id))?;
        serde_json::from_str(&json).map_err(|_| Error::none("boot timeline of host", id))
    }

    /// The certificate that a node's router shows: the administrator's, else the node's own.
    pub(super) fn router_tls(&self, id: HostId) -> Result<RouterTls> {
        if let Some((chain, key)) = self.ssl()? {
            return Ok(RouterTls { chain, key });
        }
        let sql = "SELECT router_chain, router_key FROM host_runtimes WHERE host_id = ?";
        let own = self.one("read a router's certificate", sql, [id.0], |row| {
            Ok(RouterTls { chain: row.get(0)?, key: row.get(1)? })
        })?;
        Ok(own.unwrap_or_default())
    }

    /// The address that the node's own router certificate is made out for; empty: there is none.
    pub fn router_address(&self, id: HostId) -> Result<String> {
        let sql = "SELECT router_address FROM host_runtimes WHERE host_id = ?";
        Ok(self.one("read a router's address", sql, [id.0], |row| row.get(0))?.unwrap_or_default())
    }

    /// Keeps a certificate made for a node's router.
    pub fn router_tls_set(&self, id: HostId, address: &str, tls: &RouterTls) -> Result<()> {
        let sql = "UPDATE host_runtimes SET router_chain = ?, router_key = ?, router_address = ? WHERE host_id = ?";
        self.exec("keep a router's certificate", sql, (&tls.chain, &tls.key, address, id.0))?;
        Ok(())
    }
}

/// What a boot timeline says of it; none before there is one, and of older nodes.
fn hardening(timeline: &str) -> Option<Hardening> {
    serde_json::from_str::<Timeline>(timeline).ok()?.hardening
}
