//! Filters as SQL: each column of [`model::filter`] is an expression over the listing's joins.

use model::filter::{Column, Filter, Kind, Object, Pattern};
use rusqlite::types::Value;

/// The conditions of a filter, to be put behind `WHERE`, and their parameters in order.
pub struct Clause {
    /// `1=1 AND ...`.
    pub sql: String,
    /// Values of the question marks.
    pub params: Vec<Value>,
}

/// What a column of the filter is called in the object's listing (`hosts.rs` and so on hold the joins).
fn expression(object: Object, column: &'static str) -> &'static str {
    match (object, column) {
        (Object::Host, "id") => "h.id",
        (Object::Host, "name") => "h.name",
        (Object::Host, "address") => "h.address",
        (Object::Host, "state") => "hr.state",
        (Object::Host, "blocked") => "hr.blocked",
        (Object::Host, "approved") => "h.approved",
        (Object::Osf, "id") => "o.id",
        (Object::Osf, "name") => "o.name",
        (Object::Osf, "memory") => "o.memory_mib",
        (Object::Osf, "use_overlay") => "o.use_overlay",
        (Object::Osf, "user_storage_size") => "o.user_storage_mib",
        (Object::Di, "id") => "d.id",
        (Object::Di, "osf") => "o.name",
        (Object::Di, "osf_id") => "d.osf_id",
        (Object::Di, "version") => "d.version",
        (Object::Di, "path" | "name") => "d.path",
        (Object::User, "id") => "u.id",
        (Object::User, "login" | "name") => "u.login",
        (Object::Vm, "id") => "v.id",
        (Object::Vm, "name") => "v.name",
        (Object::Vm, "user") => "u.login",
        (Object::Vm, "user_id") => "v.user_id",
        (Object::Vm, "real_user") => "ru.login",
        (Object::Vm, "osf") => "o.name",
        (Object::Vm, "osf_id") => "v.osf_id",
        (Object::Vm, "di_tag") => "v.di_tag",
        (Object::Vm, "di") => "d.version",
        (Object::Vm, "ip") => "v.ip",
        (Object::Vm, "host") => "h.name",
        (Object::Vm, "host_id") => "l.host_id",
        (Object::Vm, "state") => "r.state",
        (Object::Vm, "user_state") => "r.user_state",
        (Object::Vm, "blocked") => "r.blocked",
        (Object::Vm, "unavailable") => super::vms::UNAVAILABLE,
        (Object::Vm, "memory") => "o.memory_mib",
        (Object::Vm, "use_overlay") => "o.use_overlay",
        (Object::Vm, "user_storage_size") => "o.user_storage_mib",
        (object, column) => unreachable!("{} has no column {column}, a test checks it", object.as_str()),
    }
}

/// Table of an object's properties.
pub fn properties_table(object: Object) -> &'static str {
    match object {
        Object::Host => "host_properties",
        Object::Osf => "osf_properties",
        Object::Di => "di_properties",
        Object::User => "user_properties",
        Object::Vm => "vm_properties",
    }
}

/// The filter as a condition.
pub fn clause(object: Object, filter: &Filter) -> Clause {
    let mut clause = Clause { sql: "1=1".to_owned(), params: Vec::new() };
    for term in &filter.terms {
        clause.sql.push_str(" AND ");
        match &term.column {
            Column::Property(key) => {
                let (table, id) = (properties_table(object), expression(object, "id"));
                clause
                    .sql
                    .push_str(&format!("EXISTS (SELECT 1 FROM {table} p WHERE p.object_id = {id} AND p.key = ? AND "));
                clause.params.push(Value::Text(key.clone()));
                clause.compare("p.value", Kind::Text, &term.pattern);
                clause.sql.push(')');
            }
            // The fixed tag, the version, counts as one.
            Column::Named("tag", kind) => {
                clause.sql.push_str("EXISTS (SELECT 1 FROM (SELECT tag FROM di_tags WHERE di_id = d.id UNION SELECT d.version AS tag) t WHERE ");
                clause.compare("t.tag", *kind, &term.pattern);
                clause.sql.push(')');
            }
            Column::Named(column, kind) => clause.compare(expression(object, column), *kind, &term.pattern),
        }
    }
    clause
}

impl Clause {
    fn compare(&mut self, expression: &str, kind: Kind, pattern: &Pattern) {
        match pattern {
            Pattern::Like(_) => {
                self.sql.push_str(&format!("CAST({expression} AS TEXT) LIKE ? ESCAPE '\\'"));
                self.params.push(Value::Text(pattern.to_like()));
            }
            Pattern::Equals(text) => {
                self.sql.push_str(&format!("{expression} = ?"));
                self.params.push(match (kind, text.parse()) {
                    (Kind::Number | Kind::Flag, Ok(number)) => Value::Integer(number),
                    _ => Value::Text(text.clone()),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_of_the_grammar_is_known_here() {
        for object in [Object::Host, Object::Osf, Object::Di, Object::User, Object::Vm] {
            for (column, _) in object.columns() {
                let filter = object.filter(&format!("{column}=*")).expect("a filter");
                assert!(clause(object, &filter).sql.contains("LIKE"), "{column}");
            }
        }
    }
}
