//! A recipe that adds to another: `extends = "NAME"`, a recipe in the same folder.
//!
//! Lists go on where the other one's end, sections are merged key by key, and any other value takes the place of the
//! other one's. So a recipe can add and replace; what it would have to take away belongs into neither.

use toml::{Table, Value};

/// The key that names the other recipe.
pub(super) const KEY: &str = "extends";

/// The name of the recipe that this one extends, if it does.
pub(super) fn base(table: &Table) -> Option<Result<&str, String>> {
    let wrong = |found: &Value| format!("{KEY} is {found}, expected the name of a recipe in the same folder");
    let name = |value: &str| !value.is_empty() && !value.contains(['/', '.']);
    table.get(KEY).map(|value| value.as_str().filter(|v| name(v)).ok_or_else(|| wrong(value)))
}

/// `more` on top of `base`.
pub(super) fn merge(mut base: Table, mut more: Table) -> Table {
    more.remove(KEY);
    for (key, value) in more {
        match (base.get_mut(&key), value) {
            (Some(Value::Array(base)), Value::Array(more)) => base.extend(more),
            (Some(Value::Table(base)), Value::Table(more)) => *base = merge(std::mem::take(base), more),
            (_, value) => drop(base.insert(key, value)),
        }
    }
    base
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_go_on_sections_merge_and_values_are_replaced() {
        let base = "name = \"a\"\n[take]\nbinaries = [\"/x\"]\nglobs = [\"/g\"]\n[boot]\ncmdline = \"quiet\"\ninit = \"i\"\n[[file]]\npath = \"/1\"\n";
        let more = "name = \"b\"\nextends = \"a\"\n[take]\nbinaries = [\"/y\"]\n[boot]\ncmdline = \"loud\"\n[[file]]\npath = \"/2\"\n[checks]\nsetuid = []\n";
        let expect = "name = \"b\"\n[take]\nbinaries = [\"/x\", \"/y\"]\nglobs = [\"/g\"]\n[boot]\ncmdline = \"loud\"\ninit = \"i\"\n[[file]]\npath = \"/1\"\n[[file]]\npath = \"/2\"\n[checks]\nsetuid = []\n";
        let table = |text: &str| text.parse::<Table>().expect("TOML");
        assert_eq!(merge(table(base), table(more)), table(expect));
    }

    #[test]
    fn what_is_extended_is_a_name() {
        let of = |text: &str| text.parse::<Table>().expect("TOML");
        assert_eq!(base(&of("name = \"a\"")), None);
        assert_eq!(base(&of("extends = \"node\"")), Some(Ok("node")));
        for bad in ["extends = \"../node\"", "extends = \"\"", "extends = 7", "extends = \"node.toml\""] {
            let error = base(&of(bad)).expect("a key").expect_err("refused");
            assert!(error.contains("expected the name of a recipe in the same folder"), "{error}");
        }
    }
}
