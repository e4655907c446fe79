//! Properties: free key and value pairs of hosts, OSFs, DIs, users and VMs.

use super::{
    Tx,
    filter::{clause, properties_table},
};
use crate::error::{Error, Result};
use model::{
    VmId,
    api::PropertyRow,
    filter::{Filter, Object},
};
use rusqlite::params_from_iter;
use std::collections::BTreeMap;

/// An object with the name that administrators know it by.
pub struct Named {
    /// Id within its kind.
    pub id: u32,
    /// Name (login, `<osf> <version>`).
    pub name: String,
}

/// Table (with the joins its filter columns need) and the name's expression.
fn listing(object: Object) -> (&'static str, &'static str) {
    match object {
        Object::Host => ("hosts h JOIN host_runtimes hr ON hr.host_id = h.id", "h.id, h.name"),
        Object::Osf => ("osfs o", "o.id, o.name"),
        Object::Di => ("dis d JOIN osfs o ON o.id = d.osf_id", "d.id, o.name || ' ' || d.version"),
        Object::User => ("users u", "u.id, u.login"),
        Object::Vm => (super::vms::JOINS, "v.id, v.name"),
    }
}

impl Tx<'_> {
    /// Ids and names of what matches, by id: what commands on many walk over.
    pub fn matching(&self, object: Object, filter: &Filter) -> Result<Vec<Named>> {
        let (tables, columns) = listing(object);
        let clause = clause(object, filter);
        let sql = format!("SELECT {columns} FROM {tables} WHERE {} ORDER BY 1", clause.sql);
        self.all("list by a filter", &sql, params_from_iter(clause.params), |row| {
            Ok(Named { id: row.get(0)?, name: row.get(1)? })
        })
    }

    /// Properties of what matches.
    pub fn properties(&self, object: Object, filter: &Filter) -> Result<Vec<PropertyRow>> {
        let mut rows = Vec::new();
        for Named { id, name } in self.matching(object, filter)? {
            let of_one = self.own_properties(object, id)?;
            rows.extend(of_one.into_iter().map(|(key, value)| PropertyRow { id, name: name.clone(), key, value }));
        }
        Ok(rows)
    }

    fn own_properties(&self, object: Object, id: u32) -> Result<Vec<(String, String)>> {
        let table = properties_table(object);
        let sql = format!("SELECT key, value FROM {table} WHERE object_id = ? ORDER BY key");
        self.all("read properties", &sql, [id], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// Sets a property.
    pub fn property_set(&self, object: Object, id: u32, key: &str, value: &str) -> Result<()> {
        check(key, value)?;
        let table = properties_table(object);
        let sql = format!(
            "INSERT INTO {table} (object_id, key, value) VALUES (?, ?, ?) ON CONFLICT (object_id, key) DO UPDATE SET value = excluded.value"
        );
        self.exec("set a property", &sql, (id, key, value))?;
        Ok(())
    }

    /// Deletes these properties, or all when none is named; how many there were.
    pub fn properties_del(&self, object: Object, id: u32, keys: &[String]) -> Result<usize> {
        let table = properties_table(object);
        if keys.is_empty() {
            return self.exec("delete properties", &format!("DELETE FROM {table} WHERE object_id = ?"), [id]);
        }
        let sql = format!("DELETE FROM {table} WHERE object_id = ? AND key = ?");
        keys.iter().try_fold(0, |sum, key| Ok(sum + self.exec("delete a property", &sql, (id, key))?))
    }

    /// Properties that count for a VM: of its OSF, its DI, its owner and itself; later ones win.
    pub fn merged_properties(&self, vm: VmId) -> Result<BTreeMap<String, String>> {
        let sql = "SELECT v.osf_id, r.di_id, v.user_id FROM vms v JOIN vm_runtimes r ON r.vm_id = v.id WHERE v.id = ?";
        let found = self.one("read a VM", sql, [vm.0], |row| {
            Ok((row.get::<_, u32>(0)?, row.get::<_, Option<u32>>(1)?, row.get::<_, u32>(2)?))
        })?;
        let (osf, di, user) = found.ok_or_else(|| Error::none("virtual machine", vm))?;
        let layers = [(Object::Osf, Some(osf)), (Object::Di, di), (Object::User, Some(user)), (Object::Vm, Some(vm.0))];
        let mut merged = BTreeMap::new();
        for (object, id) in layers {
            if let Some(id) = id {
                merged.extend(self.own_properties(object, id)?);
            }
        }
        Ok(merged)
    }
}

fn check(key: &str, value: &str) -> Result<()> {
    let legal = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, ',' | '=');
    if key.is_empty() || key.len() > 1024 || !key.chars().all(legal) {
        return Err(Error::Invalid(format!(
            "'{key}' is no property key: expected 1 to 1024 characters without spaces, ',' and '='"
        )));
    }
    if value.len() > 32768 {
        return Err(Error::Invalid(format!("The value of {key} has {} bytes: expected at most 32768", value.len())));
    }
    Ok(())
}
