//! Virtual machines: what administrators make, list and change.

use super::{Tx, Word, filter::clause, unsigned};
use crate::error::{Error, Result};
use model::{
    HostId, OsfId, UserId, VmId,
    api::{EditVm, NewVm, VmCounters, VmRow},
    filter::{Filter, Object},
    key::{self, Config},
    state::{UserState, VmState, Want},
};
use rusqlite::params_from_iter;
use std::{collections::HashSet, net::Ipv4Addr};

/// First uid of the guest with id 0; each has [`UIDS`] of them. Below are those of nodes.
const UID_START: u32 = 1_000_000;
/// Uids and gids of a guest.
const UIDS: u32 = 65_536;
/// Most machines that one request may make.
const BULK_MAX: u32 = 1000;
/// Longest note of a block: what fits on a card.
const NOTE_MAX: usize = 300;

/// Everything a filter on VMs may name.
pub const JOINS: &str = "vms v JOIN users u ON u.id = v.user_id JOIN osfs o ON o.id = v.osf_id
    JOIN vm_runtimes r ON r.vm_id = v.id JOIN leases l ON l.vm_id = v.id
    LEFT JOIN hosts h ON h.id = l.host_id LEFT JOIN host_runtimes hr ON hr.host_id = l.host_id
    LEFT JOIN hosts sh ON sh.id = r.session_host LEFT JOIN users ru ON ru.id = r.session_user
    LEFT JOIN dis rd ON rd.id = r.running_di_id
    LEFT JOIN dis d ON d.id = COALESCE(
        (SELECT t.di_id FROM di_tags t WHERE t.osf_id = v.osf_id AND t.tag = v.di_tag),
        (SELECT x.id FROM dis x WHERE x.osf_id = v.osf_id AND x.version = v.di_tag))";
/// Whether the node that holds the VM is away.
pub const UNAVAILABLE: &str =
    "(CASE WHEN l.host_id IS NOT NULL AND hr.state NOT IN ('starting', 'running', 'stopping') THEN 1 ELSE 0 END)";

/// First uid of a guest: follows from the id, which is never used again.
pub fn uid_base(vm: VmId) -> Option<u32> {
    vm.0.checked_mul(UIDS)?.checked_add(UID_START).filter(|base| base.checked_add(UIDS - 1).is_some())
}

/// Hardware address of a guest: the configured prefix and the end of its address.
pub fn mac(config: &Config, ip: Ipv4Addr) -> String {
    let [_, b, c, d] = ip.octets();
    format!("{}:{b:02x}:{c:02x}:{d:02x}", config.get(&key::MAC_PREFIX))
}

/// Names become host names and file names.
pub(super) fn check_name(what: &str, name: &str) -> Result<()> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !first || name.len() > 63 || !name.bytes().all(legal) {
        return Err(Error::Invalid(format!(
            "'{name}' is no {what}: expected 1 to 63 letters, digits, '-', '_' and '.', beginning with a letter or digit"
        )));
    }
    Ok(())
}

/// Addresses that guests may have: from `vm.network.ip.start` to the end of the network.
fn guest_range(config: &Config) -> Result<std::ops::Range<u32>> {
    let (start, key::Netmask(prefix)) = (config.get(&key::IP_START), config.get(&key::NETMASK));
    let mask = u32::MAX << (32 - u32::from(prefix));
    let (start, gateway) = (u32::from(start), u32::from(config.get(&key::GATEWAY)));
    if start & mask != gateway & mask {
        return Err(Error::Refused(format!(
            "vm.network.ip.start and vm.network.gateway are not in one network of prefix length {prefix}: correct them with 'qa config set'"
        )));
    }
    Ok(start..(start | !mask))
}

impl Tx<'_> {
    /// Adds one VM, or `bulk` many; their ids.
    pub fn vm_add(&self, new: &NewVm) -> Result<Vec<VmId>> {
        let user = self.owner(new.user.as_deref(), new.user_id)?;
        let osf = self.osf(new.osf.as_deref(), new.osf_id)?;
        let tag = new.di_tag.as_deref().unwrap_or("default");
        match (new.bulk, new.ip) {
            (None, ip) => Ok(vec![self.vm_insert(&new.name, user, osf, tag, ip)?]),
            (Some(_), Some(_)) => Err(Error::Invalid("ip cannot be given for several machines (bulk)".to_owned())),
            (Some(n), None) if (1..=BULK_MAX).contains(&n) => {
                (0..n).map(|i| self.vm_insert(&format!("{}-{i}", new.name), user, osf, tag, None)).collect()
            }
            (Some(n), None) => Err(Error::Invalid(format!("bulk is {n}: expected 1 to {BULK_MAX}"))),
        }
    }

    fn owner(&self, login: Option<&str>, id: Option<UserId>) -> Result<UserId> {
        match (login, id) {
            (Some(login), None) => {
                let login = self.normal_login(login)?;
                Ok(self.account(&login)?.ok_or_else(|| Error::none("user", login))?.id)
            }
            (None, Some(id)) => {
                if self.user_exists(id)? {
                    Ok(id)
                } else {
                    Err(Error::none("user with id", id))
                }
            }
            _ => Err(Error::Invalid("Expected either user or user_id".to_owned())),
        }
    }

    fn vm_insert(&self, name: &str, user: UserId, osf: OsfId, tag: &str, ip: Option<Ipv4Addr>) -> Result<VmId> {
        check_name("VM's name", name)?;
        if self.count("look for a VM", "SELECT count(*) FROM vms WHERE name = ?", [name])? > 0 {
            return Err(Error::Taken { what: "virtual machine", found: name.to_owned() });
        }
        let ip = self.address(ip)?;
        let sql = "INSERT INTO vms (name, user_id, osf_id, di_tag, ip) VALUES (?, ?, ?, ?, ?)";
        self.exec("add a VM", sql, (name, user.0, osf.0, tag, ip.to_string()))?;
        let id = VmId(self.new_id()?);
        if uid_base(id).is_none() {
            let text = format!("VM id {id} has no uids left: 2^32 uids are enough for 65,520 VMs in a store's life");
            return Err(Error::Refused(text));
        }
        let sql = "INSERT INTO vm_runtimes (vm_id, state, phase, since_ms, want, generation, reported_generation, ran_generation, blocked, user_state)
                   VALUES (?, 'stopped', '', ?, 'stop', 0, 0, 0, 0, 'disconnected')";
        self.exec("add a VM's state", sql, (id.0, super::signed(self.now_ms)))?;
        self.exec("add a VM's counters", "INSERT INTO vm_counters (vm_id) VALUES (?)", [id.0])?;
        self.exec("add a VM's lease", "INSERT INTO leases (vm_id, epoch) VALUES (?, 0)", [id.0])?;
        Ok(id)
    }

    /// Checks the wished address, or takes the lowest free one. (QVD goes from the highest down; going
    /// up keeps the addresses in use together whatever the mask, and reads as expected.)
    fn address(&self, wished: Option<Ipv4Addr>) -> Result<Ipv4Addr> {
        let config = self.config()?;
        let mut range = guest_range(&config)?;
        let gateway = u32::from(config.get(&key::GATEWAY));
        let rows = self.all("list addresses", "SELECT ip FROM vms", [], |row| row.get::<_, Word<Ipv4Addr>>(0))?;
        let used: HashSet<u32> = rows.into_iter().map(|word| word.0.into()).collect();
        match wished.map(u32::from) {
            Some(ip) if !range.contains(&ip) || ip == gateway => Err(Error::Invalid(format!(
                "{} is no address of guests: expected {} to {}",
                Ipv4Addr::from(ip),
                Ipv4Addr::from(range.start),
                Ipv4Addr::from(range.end - 1)
            ))),
            Some(ip) if used.contains(&ip) => {
                Err(Error::Taken { what: "virtual machine with address", found: Ipv4Addr::from(ip).to_string() })
            }
            Some(ip) => Ok(ip.into()),
            None => range.find(|ip| *ip != gateway && !used.contains(ip)).map(Into::into).ok_or_else(|| {
                Error::Refused("No address is free: widen vm.network.netmask, or delete virtual machines".to_owned())
            }),
        }
    }

    /// VMs that match.
    pub fn vms(&self, filter: &Filter) -> Result<Vec<VmRow>> {
        let config = self.config()?;
        let clause = clause(Object::Vm, filter);
        let sql = format!(
            "SELECT v.id, v.name, v.user_id, u.login, ru.login, v.ip, v.osf_id, o.name, v.di_tag, d.version, rd.version,
                    l.host_id, h.name, r.state, r.want, r.phase, {UNAVAILABLE}, r.failed, r.start_ms, sh.name, r.user_state,
                    r.client, r.blocked, r.blocked_reason, r.block_note
             FROM {JOINS} WHERE {} ORDER BY v.id",
            clause.sql
        );
        self.all("list VMs", &sql, params_from_iter(clause.params), |row| {
            let ip = row.get::<_, Word<Ipv4Addr>>(5)?.0;
            Ok(VmRow {
                id: VmId(row.get(0)?),
                name: row.get(1)?,
                user_id: UserId(row.get(2)?),
                user: row.get(3)?,
                real_user: row.get(4)?,
                ip,
                mac: mac(&config, ip),
                osf_id: OsfId(row.get(6)?),
                osf: row.get(7)?,
                di_tag: row.get(8)?,
                di: row.get(9)?,
                running_di: row.get(10)?,
                host_id: row.get::<_, Option<u32>>(11)?.map(HostId),
                host: row.get(12)?,
                state: row.get::<_, Word<VmState>>(13)?.0,
                want: row.get::<_, Word<Want>>(14)?.0,
                phase: row.get(15)?,
                unavailable: row.get(16)?,
                failed: row.get(17)?,
                start_ms: row.get::<_, Option<i64>>(18)?.map(unsigned),
                l7r: row.get(19)?,
                user_state: row.get::<_, Word<UserState>>(20)?.0,
                client: row.get(21)?,
                blocked: row.get(22)?,
                blocked_reason: row.get(23)?,
                block_note: row.get(24)?,
                expire_soft: None,
                expire_hard: None,
            })
        })
    }

    /// Counters of VMs that match.
    pub fn vm_counters(&self, filter: &Filter) -> Result<Vec<VmCounters>> {
        let clause = clause(Object::Vm, filter);
        let sql = format!(
            "SELECT v.id, v.name, r.state, r.blocked, c.run_attempts, c.run_ok
             FROM {JOINS} JOIN vm_counters c ON c.vm_id = v.id WHERE {} ORDER BY v.id",
            clause.sql
        );
        self.all("list counters", &sql, params_from_iter(clause.params), |row| {
            Ok(VmCounters {
                id: VmId(row.get(0)?),
                name: row.get(1)?,
                state: row.get::<_, Word<VmState>>(2)?.0,
                blocked: row.get(3)?,
                run_attempts: unsigned(row.get(4)?),
                run_ok: unsigned(row.get(5)?),
            })
        })
    }

    /// Sets the maintenance flag, with a note for the user.
    pub fn vm_block(&self, id: VmId, note: Option<&str>) -> Result<()> {
        let note = note.map(str::trim).filter(|note| !note.is_empty());
        if note.is_some_and(|note| note.chars().count() > NOTE_MAX || note.chars().any(char::is_control)) {
            return Err(Error::Invalid(format!("A note is one line of at most {NOTE_MAX} characters")));
        }
        let sql = "UPDATE vm_runtimes SET blocked = 1, blocked_reason = NULL, block_note = ? WHERE vm_id = ?";
        self.exec("block a VM", sql, (note, id.0))?;
        Ok(())
    }

    /// Clears the maintenance flag, and forgets why it was set.
    pub fn vm_unblock(&self, id: VmId) -> Result<()> {
        let sql = "UPDATE vm_runtimes SET blocked = 0, blocked_reason = NULL, block_note = NULL WHERE vm_id = ?";
        self.exec("unblock a VM", sql, [id.0])?;
        Ok(())
    }

    /// Changes a VM.
    pub fn vm_edit(&self, id: VmId, edit: &EditVm) -> Result<()> {
        let life = self.life(id)?.ok_or_else(|| Error::none("virtual machine", id))?;
        let at_rest = life.state == VmState::Stopped && life.want == Want::Stop;
        if (edit.user.is_some() || edit.ip.is_some()) && !at_rest {
            return Err(Error::Refused(format!(
                "it is {}: owner and address can only be changed while it is stopped",
                life.state
            )));
        }
        if let Some(name) = edit.name.as_ref().filter(|name| **name != life.name) {
            check_name("VM's name", name)?;
            if self.count("look for a VM", "SELECT count(*) FROM vms WHERE name = ?", [name])? > 0 {
                return Err(Error::Taken { what: "virtual machine", found: name.clone() });
            }
            self.exec("rename a VM", "UPDATE vms SET name = ? WHERE id = ?", (name, id.0))?;
        }
        if let Some(login) = &edit.user {
            let user = self.owner(Some(login), None)?;
            self.exec("change a VM's owner", "UPDATE vms SET user_id = ? WHERE id = ?", (user.0, id.0))?;
        }
        if let Some(ip) = edit.ip {
            let ip = self.address(Some(ip))?;
            self.exec("change a VM's address", "UPDATE vms SET ip = ? WHERE id = ?", (ip.to_string(), id.0))?;
        }
        if let Some(tag) = &edit.di_tag {
            self.exec("change a VM's tag", "UPDATE vms SET di_tag = ? WHERE id = ?", (tag, id.0))?;
        }
        match edit.blocked {
            Some(true) => self.vm_block(id, None),
            Some(false) => self.vm_unblock(id),
            None => Ok(()),
        }
    }

    /// Deletes a stopped VM. Its node removes its storage, home included, once it no longer finds it wanted.
    pub fn vm_del(&self, id: VmId) -> Result<()> {
        let life = self.life(id)?.ok_or_else(|| Error::none("virtual machine", id))?;
        if life.state != VmState::Stopped || life.want == Want::Run {
            return Err(Error::Refused(format!("it is {}: stop it first", life.state)));
        }
        self.exec("delete a VM", "DELETE FROM vms WHERE id = ?", [id.0])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_follow_from_the_id_and_end_below_2_to_the_32() {
        assert_eq!(uid_base(VmId(1)), Some(1_065_536));
        assert_eq!(uid_base(VmId(65_519)), Some(1_000_000 + 65_519 * 65_536));
        assert_eq!(uid_base(VmId(65_520)), None);
        assert_eq!(uid_base(VmId(u32::MAX)), None);
    }

    #[test]
    fn a_mac_ends_with_the_end_of_the_address() {
        assert_eq!(mac(&Config::default(), Ipv4Addr::new(10, 3, 15, 50)), "54:52:00:03:0f:32");
    }

    #[test]
    fn addresses_of_guests_lie_between_start_and_broadcast() {
        let config =
            |pairs: &[(&str, &str)]| Config(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        let range = guest_range(&Config::default()).expect("the defaults are legal");
        assert_eq!(range, 0x0a03_0f32..0x0a03_0fff);
        let elsewhere = config(&[("vm.network.ip.start", "10.4.0.2")]);
        assert!(guest_range(&elsewhere).expect_err("refused").to_string().contains("not in one network"));
    }
}
