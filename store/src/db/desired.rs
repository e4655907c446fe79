//! What the store wants of a node: the whole of it, and its revision.

use super::{Tx, Word, signed, unsigned, vms};
use crate::error::{Error, Result};
use model::{
    DiId, Digest, HostId, VmId,
    key::Config,
    state::Want,
    sync::{Desired, GuestImage, GuestSpec},
};
use sha2::Digest as _;
use std::net::Ipv4Addr;

impl Tx<'_> {
    /// All that is wanted of a node, with the revision it had last, and whether that is still its revision.
    pub fn desired(&self, host: HostId) -> Result<(Desired, bool)> {
        let sql = "SELECT blocked, revision, desired_sha256 FROM host_runtimes WHERE host_id = ?";
        let found = self.one("read a host", sql, [host.0], |row| {
            Ok((row.get::<_, bool>(0)?, unsigned(row.get(1)?), row.get::<_, String>(2)?))
        })?;
        let (blocked, revision, known) = found.ok_or_else(|| Error::none("host", host))?;
        let config = self.config()?;
        let guests = self.guests(host, &config)?;
        let (router_tls, update) = (self.router_tls(host)?, self.update_for(host)?);
        // A node that goes down for its update takes no new guests and logins.
        let blocked = blocked || update.as_ref().is_some_and(|u| u.go);
        let mut desired = Desired { revision: 0, blocked, config, router_tls, guests, update };
        let current = fingerprint(&desired)? == known;
        desired.revision = revision;
        Ok((desired, current))
    }

    /// Like [`Tx::desired`], giving it the next revision if it changed.
    pub fn revise(&self, host: HostId) -> Result<Desired> {
        let (mut desired, current) = self.desired(host)?;
        if !current {
            let revision = std::mem::take(&mut desired.revision) + 1;
            let sql = "UPDATE host_runtimes SET revision = ?, desired_sha256 = ? WHERE host_id = ?";
            self.exec("revise a node's state", sql, (signed(revision), fingerprint(&desired)?, host.0))?;
            desired.revision = revision;
        }
        Ok(desired)
    }

    /// Raises a node's revision beyond the one in its ledger: the database may be an older copy than that.
    pub fn revision_at_least(&self, host: HostId, seen: u64) -> Result<()> {
        let sql = "UPDATE host_runtimes SET revision = ?1, desired_sha256 = '' WHERE host_id = ?2 AND revision < ?1";
        self.exec("raise a revision", sql, (signed(seen), host.0))?;
        Ok(())
    }

    fn guests(&self, host: HostId, config: &Config) -> Result<Vec<GuestSpec>> {
        let sql = format!(
            "SELECT v.id, v.name, u.login, r.want, r.generation, i.id, i.digest, i.bytes, o.memory_mib, v.ip, o.user_storage_mib, l.epoch
             FROM {} LEFT JOIN dis i ON i.id = COALESCE(r.di_id, d.id) WHERE l.host_id = ? ORDER BY v.id",
            vms::JOINS
        );
        let mut guests = self.all("list a node's guests", &sql, [host.0], |row| {
            let vm = VmId(row.get(0)?);
            let ip = row.get::<_, Word<Ipv4Addr>>(9)?.0;
            Ok(GuestSpec {
                vm,
                name: row.get(1)?,
                login: row.get(2)?,
                want: row.get::<_, Word<Want>>(3)?.0,
                generation: unsigned(row.get(4)?),
                // A stopped guest may have no image left at all; it is named all the same, since its home lives.
                image: GuestImage {
                    di: DiId(row.get::<_, Option<u32>>(5)?.unwrap_or(0)),
                    digest: row.get::<_, Option<Word<Digest>>>(6)?.map_or(Digest([0; 32]), |word| word.0),
                    bytes: unsigned(row.get::<_, Option<i64>>(7)?.unwrap_or(0)),
                },
                memory_mib: row.get(8)?,
                mac: vms::mac(config, ip),
                ip,
                uid_base: vms::uid_base(vm).unwrap_or_default(),
                home_mib: row.get(10)?,
                epoch: unsigned(row.get(11)?),
                properties: Vec::new(),
            })
        })?;
        for guest in &mut guests {
            guest.properties = self.merged_properties(guest.vm)?.into_iter().collect();
        }
        Ok(guests)
    }
}

fn fingerprint(desired: &Desired) -> Result<String> {
    let bytes = postcard::to_allocvec(desired)
        .map_err(|_| Error::Invalid("A node's desired state cannot be encoded".to_owned()))?;
    Ok(Digest(sha2::Sha256::digest(bytes).into()).to_string())
}
