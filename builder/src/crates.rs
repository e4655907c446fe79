//! The terms of the Rust crates in an image's own programs, as one text.
//!
//! Debian packages bring their copyright files; what is linked into a static program brings nothing, so
//! cargo is asked which crates that is, and their licence files are read where cargo compiled them from.
//! Equal texts are printed once. The text follows from Cargo.lock alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::error::{Error, Result, at};
use crate::programs::TARGET;

/// Where the text goes.
pub const PATH: &str = "/usr/share/doc/roost/CRATES";

/// What no crate says: every static program also has Rust's own library and musl in it.
const RUNTIME: &str = "\
Licences of what is linked into Roost's programs.

Roost itself: Apache-2.0.
The standard library of Rust: MIT OR Apache-2.0, copyright (c) The Rust Project contributors.
musl: MIT, copyright (c) 2005-2024 Rich Felker and others.
";

/// What `cargo metadata` says, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Crate>,
    resolve: Resolve,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Crate {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// None for crates of this workspace.
    source: Option<String>,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Debug, Deserialize)]
struct DependencyKind {
    /// None: for running; else `build` or `dev`.
    kind: Option<String>,
}

/// The terms of all crates in these programs.
///
/// # Errors
/// When cargo cannot tell, a crate names no licence, or its folder cannot be read.
pub fn licences(programs: &[&str], source: &Path) -> Result<String> {
    let metadata = metadata(source)?;
    let mut crates = Vec::new();
    for one in linked(&metadata, programs) {
        let texts = texts(one.manifest_path.parent().unwrap_or(source))?;
        crates.push((one, texts));
    }
    render(&crates)
}

/// Always the PATH's cargo, which follows `rust-toolchain.toml`; it compiled them a moment ago, so that the
/// network is not needed.
fn metadata(source: &Path) -> Result<Metadata> {
    let mut command = Command::new("cargo");
    command.current_dir(source).args(["metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET]);
    let output = command.output().map_err(|source| Error::Start {
        program: "cargo".to_owned(),
        advice: "it tells which crates are in the image's programs: install a Rust toolchain".to_owned(),
        source,
    })?;
    let failed = |words: String| Error::Program {
        action: "Listing the crates of the programs".to_owned(),
        program: "cargo metadata".to_owned(),
        status: output.status.to_string(),
        output: words,
    };
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| failed(e.to_string()))
}

/// Crates from elsewhere that the programs have in them: not those that only compile or test them.
fn linked<'a>(metadata: &'a Metadata, programs: &[&str]) -> Vec<&'a Crate> {
    let by_id: BTreeMap<&str, &Crate> = metadata.packages.iter().map(|p| (p.id.as_str(), p)).collect();
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|n| (n.id.as_str(), n)).collect();
    let is = |c: &Crate, kind: &str| c.targets.iter().any(|t| t.kind.iter().any(|k| k == kind));
    let makes =
        |c: &Crate| c.targets.iter().any(|t| t.kind.iter().any(|k| k == "bin") && programs.contains(&t.name.as_str()));
    let ours = metadata.packages.iter().filter(|c| c.source.is_none() && makes(c));
    let mut queue: Vec<&str> = ours.map(|c| c.id.as_str()).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = queue.pop() {
        if by_id.get(id).is_none_or(|c| is(c, "proc-macro")) || !seen.insert(id) {
            continue;
        }
        let deps = nodes.get(id).map(|n| n.deps.as_slice()).unwrap_or_default();
        queue.extend(deps.iter().filter(|d| d.dep_kinds.iter().any(|k| k.kind.is_none())).map(|d| d.pkg.as_str()));
    }
    let mut found: Vec<&Crate> = seen.iter().filter_map(|id| by_id.get(id)).copied().collect();
    found.retain(|c| c.source.is_some());
    found.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    found
}

/// Licence files of a crate's folder and of those in it (bundled C has its own there), by name.
fn texts(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for item in walkdir::WalkDir::new(folder).max_depth(2).sort_by_file_name() {
        let item = item.map_err(|e| at("read", folder)(e.into()))?;
        if item.file_type().is_file() && is_licence(&item.file_name().to_string_lossy()) {
            let bytes = std::fs::read(item.path()).map_err(at("read", item.path()))?;
            found.push(normal(&String::from_utf8_lossy(&bytes)));
        }
    }
    Ok(found)
}

fn is_licence(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let is_code = [".RS", ".C", ".H", ".TOML", ".PY", ".SH"].iter().any(|end| name.ends_with(end));
    let begins = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
    !is_code && begins.iter().any(|word| name.starts_with(word))
}

/// Without the differences in line ends and margins that make equal texts differ.
fn normal(text: &str) -> String {
    let lines: Vec<&str> = text.trim_start_matches('\u{feff}').lines().map(str::trim_end).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

fn render(crates: &[(&Crate, Vec<String>)]) -> Result<String> {
    let mut out = RUNTIME.to_owned();
    let mut users: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    out.push_str("\nCrates:\n");
    for (one, texts) in crates {
        let terms = one.license.as_deref().map(|l| l.replace('/', " OR "));
        let terms = match terms {
            Some(terms) => terms,
            None if !texts.is_empty() => "see its text".to_owned(),
            None => return Err(unlicensed(one)),
        };
        let _ = writeln!(out, "  {} {}: {terms}", one.name, one.version);
        for text in texts.iter().collect::<BTreeSet<_>>() {
            users.entry(text.as_str()).or_default().push(one.name.clone());
        }
    }
    let mut texts: Vec<_> = users.into_iter().collect();
    texts.sort_by(|a, b| (&a.1, a.0).cmp(&(&b.1, b.0)));
    for (text, names) in texts {
        let _ = write!(out, "\n{}\n{}\n\n{text}\n", "=".repeat(76), names.join(", "));
    }
    Ok(out)
}

fn unlicensed(one: &Crate) -> Error {
    Error::Program {
        action: "Listing the crates of the programs".to_owned(),
        program: "cargo metadata".to_owned(),
        status: "success".to_owned(),
        output: format!("but crate {} {} names no licence and has no licence file", one.name, one.version),
    }
}

#[cfg(test)]
mod rules;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn package(name: &str, source: Option<&str>, kind: &str) -> Value {
        json!({
            "id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": source,
            "manifest_path": format!("/src/{name}/Cargo.toml"), "targets": [{"name": name, "kind": [kind]}],
        })
    }

    fn node(name: &str, deps: &[(&str, Option<&str>)]) -> Value {
        let deps: Vec<Value> = deps.iter().map(|(n, k)| json!({"pkg": n, "dep_kinds": [{"kind": k}]})).collect();
        json!({"id": name, "deps": deps})
    }

    fn world() -> Metadata {
        let there = Some("registry");
        serde_json::from_value(json!({
            "packages": [
                package("noded", None, "bin"), package("other", None, "bin"), package("model", None, "lib"),
                package("z", there, "lib"), package("serde", there, "lib"), package("derive", there, "proc-macro"),
                package("syn", there, "lib"), package("cc", there, "lib"), package("proptest", there, "lib"),
                package("only-other", there, "lib"),
            ],
            "resolve": {"nodes": [
                node("noded", &[("model", None), ("cc", Some("build")), ("proptest", Some("dev"))]),
                node("other", &[("only-other", None)]), node("model", &[("serde", None)]),
                node("serde", &[("derive", None), ("z", None)]), node("derive", &[("syn", None)]),
                node("z", &[]), node("syn", &[]), node("cc", &[]), node("proptest", &[]), node("only-other", &[]),
            ]},
        }))
        .expect("metadata")
    }

    #[test]
    fn only_what_a_program_has_in_it_is_listed() {
        let world = world();
        let names: Vec<&str> = linked(&world, &["noded"]).iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["serde", "z"]);
    }

    #[test]
    fn equal_texts_are_printed_once_with_all_who_share_them() {
        let world = world();
        let shared = normal("\u{feff}Do as you like.  \r\n\r\n");
        let crates: Vec<_> = linked(&world, &["noded"]).into_iter().map(|c| (c, vec![shared.clone()])).collect();
        let text = render(&crates).expect("rendered");
        assert!(text.contains("  serde 1.0.0: MIT OR Apache-2.0\n  z 1.0.0: MIT OR Apache-2.0\n"), "{text}");
        assert_eq!(text.matches("\nserde, z\n\nDo as you like.\n").count(), 1, "{text}");
    }

    #[test]
    fn a_crate_without_any_terms_is_refused_by_name() {
        let mut world = world();
        world.packages.iter_mut().for_each(|p| p.license = None);
        let crates: Vec<_> = linked(&world, &["noded"]).into_iter().map(|c| (c, vec![])).collect();
        let error = render(&crates).expect_err("no terms").to_string();
        assert!(error.contains("crate serde 1.0.0 names no licence"), "{error}");
    }

    #[test]
    fn licence_files_are_told_by_name() {
        for name in ["LICENSE", "license-mit", "COPYING.txt", "NOTICE", "UNLICENSE", "Copyright"] {
            assert!(is_licence(name), "{name}");
        }
        for name in ["license.rs", "README.md", "mylicense", "notice.c"] {
            assert!(!is_licence(name), "{name}");
        }
    }

    #[test]
    fn the_terms_of_this_workspace_are_the_same_each_time() {
        let first = licences(&["roost"], &crate::programs::source_tree()).expect("terms");
        assert_eq!(first, licences(&["roost"], &crate::programs::source_tree()).expect("terms"));
        assert!(first.contains("  ring 0.") && first.contains("Apache License"), "ring is in roost");
        assert!(!first.contains("  proptest "), "tests are in no program");
    }
}
