//! Versions of the node's image, and nodes on their way to them. What follows from what is `crate::rollout`.

use super::{Tx, Word, signed, unsigned};
use crate::{
    error::{Error, Result},
    rollout::{self, Member, Standing},
};
use image::set;
use model::{
    Digest, HostId,
    api::{HostUpdate, NodeImageRow, UpdateHosts},
    state::HostState,
    update::{Update, Versions, Window},
};

/// A set that lies whole in the repository.
#[derive(Clone, Debug)]
pub struct NewSet {
    /// SHA-256 of the file.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: u64,
    /// What it says of itself.
    pub manifest: set::Manifest,
    /// How many signatures it has.
    pub signatures: usize,
}

/// A rollout as a node's part in it needs it.
struct Rollout {
    version: String,
    update: Update,
    halted: Option<String>,
}

impl Tx<'_> {
    /// Adds a version of the node's image.
    pub fn node_image_add(&self, new: &NewSet) -> Result<u32> {
        let manifest = &new.manifest;
        let taken = "SELECT count(*) FROM node_images WHERE name = ? AND version = ?";
        if self.count("look for an image", taken, (&manifest.name, &manifest.version))? > 0 {
            return Err(Error::Taken { what: "version of the node's image", found: manifest.version.clone() });
        }
        let sql = "INSERT INTO node_images (name, version, level, epoch, digest, bytes, signatures) VALUES (?, ?, ?, ?, ?, ?, ?)";
        let (digest, bytes, epoch) = (new.digest.to_string(), signed(new.bytes), signed(manifest.epoch));
        let signatures = u32::try_from(new.signatures).unwrap_or(u32::MAX);
        let values = (&manifest.name, &manifest.version, &manifest.level, epoch, digest, bytes, signatures);
        self.exec("add an image", sql, values)?;
        self.new_id()
    }

    /// All versions of the node's image, in the order in which they were added.
    pub fn node_images(&self) -> Result<Vec<NodeImageRow>> {
        let sql = "SELECT i.id, i.name, i.version, i.level, i.epoch, i.digest, i.bytes, i.signatures,
                       (SELECT count(*) FROM host_runtimes r WHERE r.versions <> '' AND r.versions ->> '$.running' = i.version),
                       (SELECT count(*) FROM host_runtimes r JOIN rollouts o ON o.id = r.rollout_id WHERE o.image_id = i.id
                            AND (r.versions = '' OR r.versions ->> '$.running' <> i.version))
                   FROM node_images i ORDER BY i.id";
        self.all("list images", sql, [], |row| {
            Ok(NodeImageRow {
                id: row.get(0)?,
                name: row.get(1)?,
                version: row.get(2)?,
                level: row.get(3)?,
                epoch: unsigned(row.get(4)?),
                digest: row.get::<_, Word<Digest>>(5)?.0,
                bytes: unsigned(row.get(6)?),
                signatures: row.get(7)?,
                running: row.get(8)?,
                wanted: row.get(9)?,
            })
        })
    }

    /// Deletes a version that no node is to move to. Gives the digest of its file, which nothing needs any more.
    pub fn node_image_del(&self, id: u32) -> Result<Digest> {
        let found = "SELECT digest FROM node_images WHERE id = ?";
        let digest = self.one("read an image", found, [id], |row| row.get::<_, Word<Digest>>(0))?;
        let Word(digest) = digest.ok_or_else(|| Error::none("image", id))?;
        let used = "SELECT count(*) FROM host_runtimes r JOIN rollouts o ON o.id = r.rollout_id WHERE o.image_id = ?";
        let nodes = self.count("count an image's nodes", used, [id])?;
        if nodes > 0 {
            let text = format!("{nodes} nodes are to run it: end that first, with 'qa host update image=none'");
            return Err(Error::Refused(text));
        }
        self.exec("forget an image's rollouts", "DELETE FROM rollouts WHERE image_id = ?", [id])?;
        self.exec("delete an image", "DELETE FROM node_images WHERE id = ?", [id])?;
        Ok(digest)
    }

    /// Begins a rollout without nodes yet; none when nodes shall only leave those they are in.
    pub fn rollout_add(&self, wish: &UpdateHosts) -> Result<Option<u32>> {
        if let Some(window) = &wish.window {
            window.parse::<Window>().map_err(|bad| Error::Invalid(bad.to_string()))?;
        }
        let max = wish.max_unavailable.unwrap_or(1);
        if max == 0 {
            return Err(Error::Invalid("max_unavailable=0 lets no node go: expected at least 1".to_owned()));
        }
        let Some(version) = &wish.image else { return Ok(None) };
        let found = "SELECT id FROM node_images WHERE version = ?";
        let image = self.one("look for an image", found, [version], |row| row.get::<_, u32>(0))?;
        let image = image.ok_or_else(|| Error::none("version of the node's image", version))?;
        let sql = "INSERT INTO rollouts (image_id, max_unavailable, hours, drain_s) VALUES (?, ?, ?, ?)";
        self.exec("begin a rollout", sql, (image, max, &wish.window, wish.drain_s))?;
        self.new_id().map(Some)
    }

    /// Makes a node part of a rollout, or of none. One that is in the middle of another is left there, and one that
    /// would refuse the version is told so now.
    pub fn rollout_join(&self, host: HostId, rollout: Option<u32>) -> Result<()> {
        let versions = self.versions(host)?;
        if let Some(now) = self.rollout_of(host)?
            && Standing::of(versions.as_ref(), &now.version) == Standing::UnderWay
        {
            return Err(Error::Refused(format!("it is moving to {} just now: wait until that has ended", now.version)));
        }
        if let Some(id) = rollout {
            let version = self.rollout_version(id)?;
            if let Standing::Refused(reason) = Standing::of(versions.as_ref(), &version) {
                return Err(Error::Refused(format!("{version} did not hold on it: {reason}. Build a newer version")));
            }
        }
        let sql = "UPDATE host_runtimes SET rollout_id = ?, going = 0 WHERE host_id = ?";
        self.exec("make a node part of a rollout", sql, (rollout, host.0))?;
        Ok(())
    }

    fn rollout_version(&self, id: u32) -> Result<String> {
        let sql = "SELECT i.version FROM rollouts o JOIN node_images i ON i.id = o.image_id WHERE o.id = ?";
        self.one("read a rollout", sql, [id], |row| row.get(0))?.ok_or_else(|| Error::none("rollout", id))
    }

    /// Keeps what a node says of its versions; whether anything may follow from it.
    pub fn versions_set(&self, host: HostId, versions: &Versions) -> Result<bool> {
        let matters = self.versions(host)?.is_none_or(|before| !versions.only_fetched_more(&before));
        let json = serde_json::to_string(versions).unwrap_or_default();
        self.exec("keep a node's versions", "UPDATE host_runtimes SET versions = ? WHERE host_id = ?", (json, host.0))?;
        Ok(matters)
    }

    fn versions(&self, host: HostId) -> Result<Option<Versions>> {
        let sql = "SELECT versions FROM host_runtimes WHERE host_id = ?";
        Ok(self
            .one("read a node's versions", sql, [host.0], |row| row.get::<_, String>(0))?
            .and_then(|t| from_json(&t)))
    }

    fn rollout_of(&self, host: HostId) -> Result<Option<Rollout>> {
        let sql = "SELECT i.version, i.digest, i.bytes, r.going, o.drain_s, o.halted FROM host_runtimes r
                   JOIN rollouts o ON o.id = r.rollout_id JOIN node_images i ON i.id = o.image_id WHERE r.host_id = ?";
        self.one("read a node's rollout", sql, [host.0], |row| {
            let version: String = row.get(0)?;
            let update = Update {
                version: version.clone(),
                digest: row.get::<_, Word<Digest>>(1)?.0,
                bytes: unsigned(row.get(2)?),
                go: row.get(3)?,
                drain_s: row.get(4)?,
                users: 0,
            };
            Ok(Rollout { version, update, halted: row.get(5)? })
        })
    }

    /// What a node is told to move to.
    pub(super) fn update_for(&self, host: HostId) -> Result<Option<Update>> {
        let Some(mut rollout) = self.rollout_of(host)? else { return Ok(None) };
        let standing = Standing::of(self.versions(host)?.as_ref(), &rollout.version);
        if rollout.update.go {
            rollout.update.users = self.users_of(host)?;
        }
        Ok(rollout::told(rollout.update, rollout.halted.is_some(), &standing))
    }

    /// Who would be cut off if the node went down.
    fn users_of(&self, host: HostId) -> Result<u32> {
        let sql = "SELECT count(*) FROM vm_runtimes r LEFT JOIN leases l ON l.vm_id = r.vm_id
                   WHERE r.user_state <> 'disconnected' AND (l.host_id = ?1 OR r.session_host = ?1)";
        self.count("count a node's users", sql, [host.0])
    }

    /// A node's part in an update, for an administrator.
    pub(super) fn host_update(&self, host: HostId) -> Result<Option<HostUpdate>> {
        Ok(self.rollout_of(host)?.map(|r| HostUpdate { version: r.version, going: r.update.go, halted: r.halted }))
    }

    /// Gives nodes of all rollouts their turns, and takes them. Whether anything changed.
    pub fn rollouts_step(&self) -> Result<bool> {
        let sql = "SELECT o.id, i.version, o.max_unavailable, o.hours, o.halted IS NOT NULL FROM rollouts o
                   JOIN node_images i ON i.id = o.image_id
                   WHERE EXISTS (SELECT 1 FROM host_runtimes r WHERE r.rollout_id = o.id)";
        let rollouts = self.all("list rollouts", sql, [], |row| {
            Ok((row.get(0)?, row.get::<_, String>(1)?, row.get(2)?, row.get::<_, Option<String>>(3)?, row.get(4)?))
        })?;
        let mut changed = false;
        for (id, version, max, hours, halted) in rollouts {
            let hours = hours.and_then(|text| text.parse::<Window>().ok());
            let open = hours.is_none_or(|window| window.is_open(self.now_ms));
            let decision = rollout::decide(&self.rollout_members(id, &version)?, max, open, halted);
            changed |= self.carry_out(id, &version, &decision)?;
        }
        Ok(changed)
    }

    fn carry_out(&self, id: u32, version: &str, decision: &rollout::Decision) -> Result<bool> {
        if let Some(why) = &decision.halt {
            self.exec("halt a rollout", "UPDATE rollouts SET halted = ? WHERE id = ?", (why, id))?;
            self.event("store", "rollout.halted", &format!("rollout {id}"), &format!("{version}: {why}"))?;
        }
        for (hosts, going) in [(&decision.go, true), (&decision.stay, false)] {
            for host in hosts {
                let sql = "UPDATE host_runtimes SET going = ? WHERE host_id = ?";
                self.exec("give a node its turn", sql, (going, host.0))?;
                let what = if going { "host.update.go" } else { "host.update.end" };
                self.event("store", what, &format!("host {host}"), version)?;
            }
        }
        Ok(decision.halt.is_some() || !decision.go.is_empty() || !decision.stay.is_empty())
    }

    fn rollout_members(&self, id: u32, version: &str) -> Result<Vec<Member>> {
        let since = signed(self.heard_since()?);
        let sql = "SELECT h.id, h.name, r.state, COALESCE(r.seen_ms, 0) >= ?, r.going, r.versions FROM host_runtimes r
                   JOIN hosts h ON h.id = r.host_id WHERE r.rollout_id = ? ORDER BY h.id";
        self.all("list a rollout's nodes", sql, (since, id), |row| {
            let running = row.get::<_, Word<HostState>>(2)?.0 == HostState::Running;
            let versions = from_json(&row.get::<_, String>(5)?);
            Ok(Member {
                host: HostId(row.get(0)?),
                name: row.get(1)?,
                up: running && row.get(3)?,
                going: row.get(4)?,
                standing: Standing::of(versions.as_ref(), version),
            })
        })
    }
}

/// Empty, or of another version of the store: as good as nothing told.
pub(super) fn from_json(text: &str) -> Option<Versions> {
    serde_json::from_str(text).ok()
}
