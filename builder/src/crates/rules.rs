//! What may be linked: `deny.toml`, held against the crates of this workspace.
//!
//! cargo-deny reads the same file and checks more, but would have to be compiled for every run on empty
//! caches (`docs/decisions/008-deny-rules-in-a-test.md`). What must never be broken is here.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Crate, metadata};

#[derive(Deserialize)]
struct Rules {
    bans: Bans,
    licenses: Licenses,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Banned>,
}

#[derive(Deserialize)]
struct Banned {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

/// Whether an SPDX expression can be met by the allowed licences: `OR` (of old, `/`) offers a choice, `AND` does not.
fn is_allowed(expression: &str, allow: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    choice(&mut words, allow) && words.is_empty()
}

fn choice(words: &mut Vec<&str>, allow: &[String]) -> bool {
    let mut met = all(words, allow);
    while words.last() == Some(&"OR") {
        words.pop();
        met |= all(words, allow);
    }
    met
}

fn all(words: &mut Vec<&str>, allow: &[String]) -> bool {
    let mut met = one(words, allow);
    while words.last() == Some(&"AND") {
        words.pop();
        met &= one(words, allow);
    }
    met
}

fn one(words: &mut Vec<&str>, allow: &[String]) -> bool {
    let Some(word) = words.pop() else { return false };
    if word == "(" {
        return choice(words, allow) && words.pop() == Some(")");
    }
    let mut licence = word.to_owned();
    if words.last() == Some(&"WITH") {
        words.pop();
        licence = format!("{licence} WITH {}", words.pop().unwrap_or_default());
    }
    allow.contains(&licence)
}

fn problems(crates: &[Crate], rules: &Rules) -> Vec<String> {
    let mut found = Vec::new();
    for one in crates {
        let name = format!("{} {}", one.name, one.version);
        if let Some(ban) = rules.bans.deny.iter().find(|b| b.name == one.name) {
            found.push(format!("{name} is banned: {}", ban.reason));
        }
        let terms = one.license.as_deref().unwrap_or("nothing");
        if !is_allowed(terms, &rules.licenses.allow) {
            found.push(format!("{name}: its terms, {terms}, are not among those allowed"));
        }
        if one.source.as_deref().is_some_and(|s| !s.starts_with("registry+")) {
            found.push(format!("{name} does not come from the registry"));
        }
    }
    found
}

fn source() -> PathBuf {
    crate::programs::source_tree()
}

fn rules() -> Rules {
    let text = std::fs::read_to_string(source().join("deny.toml")).expect("deny.toml");
    toml::from_str(&text).expect("rules")
}

#[test]
fn every_crate_of_the_workspace_obeys_deny_toml() {
    let crates = metadata(&source()).expect("metadata").packages;
    assert_eq!(problems(&crates, &rules()), Vec::<String>::new());
}

#[test]
fn a_banned_crate_or_foreign_terms_are_found() {
    let mut ring = metadata(&source()).expect("metadata").packages;
    ring.retain(|c| c.name == "ring");
    ring[0].name = "openssl-sys".to_owned();
    ring[0].license = Some("GPL-3.0-only".to_owned());
    ring[0].source = Some("git+https://example.org/x".to_owned());
    let found = problems(&ring, &rules());
    assert_eq!(found.len(), 3, "{found:?}");
}

#[track_caller]
fn check(expression: &str, expect: bool) {
    let allow = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
    assert_eq!(is_allowed(expression, &allow), expect, "{expression}");
}

#[test]
fn terms_are_met_by_a_choice_or_by_all() {
    check("MIT", true);
    check("GPL-2.0/MIT", true);
    check("MIT AND GPL-2.0", false);
    check("(GPL-2.0 OR MIT) AND ISC", true);
    check("(GPL-2.0 OR MPL-2.0) AND ISC", false);
    check("Apache-2.0 WITH LLVM-exception", true);
    check("Apache-2.0", false);
    check("MIT OR", true);
    check("", false);
    check("(MIT", false);
}
