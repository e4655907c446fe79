//! What may not be in a finished tree. Each rule has exceptions by name in the recipe's `[checks]`.

use image::{Entry, Tree};

use crate::closure::{is_run_time, missing_libraries};
use crate::error::{Error, Result};
use crate::executables::is_interpreter;
use crate::pool::{Glob, Pool, trace};
use crate::recipe::{Kind, Recipe};

/// Checks every rule and tells all that is broken at once.
pub fn check(recipe: &Recipe, pool: &Pool, tree: &Tree) -> Result<()> {
    let mut problems = Vec::new();
    let dangling = Glob::all(&recipe.checks.dangling).unwrap_or_default();
    for (path, entry) in tree.walk() {
        problems.extend(permission_problem(recipe, path, entry));
        problems.extend(link_problem(&dangling, tree, path, entry));
        problems.extend(duplicate_problem(recipe, pool, path, entry));
    }
    problems.extend(service_problems(recipe, tree));
    match recipe.kind {
        Kind::Node => {
            problems.extend(script_problems(tree));
            problems.extend(interpreter_problems(recipe, tree));
        }
        Kind::Guest => problems.extend(library_problems(recipe, tree)?),
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Unfit { recipe: recipe.name.clone(), problems }) }
}

fn permission_problem(recipe: &Recipe, path: &str, entry: &Entry) -> Option<String> {
    let excused = |list: &[String]| list.iter().any(|p| p.trim_start_matches('/') == path);
    let is_file = entry.content().is_some();
    if is_file && entry.mode & 0o6000 != 0 && !excused(&recipe.checks.setuid) {
        return Some(format!(
            "/{path} is set-uid or set-gid (mode {:04o}): leave it out or name it in checks.setuid",
            entry.mode
        ));
    }
    let open = entry.link_target().is_none() && entry.mode & 0o002 != 0 && entry.mode & 0o1000 == 0;
    (open && !excused(&recipe.checks.world_writable)).then(|| {
        format!("/{path} may be written by all (mode {:04o}): name it in checks.world-writable if meant", entry.mode)
    })
}

fn link_problem(dangling: &[Glob], tree: &Tree, path: &str, entry: &Entry) -> Option<String> {
    let target = entry.link_target()?;
    let real = trace(tree, path, true).real;
    let fine = tree.exists(path) || is_run_time(&real) || dangling.iter().any(|g| g.matches(path));
    (!fine).then(|| format!("/{path} links to {target}, which is not in the image"))
}

fn duplicate_problem(recipe: &Recipe, pool: &Pool, path: &str, entry: &Entry) -> Option<String> {
    let owners = pool.duplicates.get(path)?;
    let from_package = entry.origin.as_deref().is_some_and(|o| owners.contains(o));
    let excused = recipe.checks.duplicates.iter().any(|p| p.trim_start_matches('/') == path);
    let names: Vec<&str> = owners.iter().map(String::as_str).collect();
    (from_package && !excused).then(|| format!("/{path} is in several packages: {}", names.join(", ")))
}

fn service_problems(recipe: &Recipe, tree: &Tree) -> Vec<String> {
    let runs = |program: &str| tree.lookup(program).is_ok_and(|(_, e)| e.content().is_some() && e.mode & 0o111 != 0);
    let lost = recipe.services.iter().filter(|s| !runs(&s.program));
    lost.map(|s| format!("service '{}': its program {} is not in the image, or may not be run", s.name, s.program))
        .collect()
}

/// A node has no shell and no interpreter: a script in it could not run.
fn script_problems(tree: &Tree) -> Vec<String> {
    let is_script = |e: &&Entry| {
        let mut start = [0; 2];
        let content = e.content().filter(|_| e.mode & 0o111 != 0);
        content
            .and_then(|c| c.open().ok())
            .is_some_and(|mut r| std::io::Read::read_exact(&mut r, &mut start).is_ok() && &start == b"#!")
    };
    tree.walk()
        .filter(|(_, e)| is_script(e))
        .map(|(path, _)| format!("/{path} is a script, but a node has no interpreter"))
        .collect()
}

/// What gets into a node runs what it brings and nothing else: an interpreter would run anything.
fn interpreter_problems(recipe: &Recipe, tree: &Tree) -> Vec<String> {
    let excused = |path: &str| recipe.checks.interpreters.iter().any(|p| p.trim_start_matches('/') == path);
    let runs = |e: &Entry| e.link_target().is_some() || e.content().is_some() && e.mode & 0o111 != 0;
    tree.walk()
        .filter(|(path, e)| runs(e) && is_interpreter(path) && !excused(path))
        .map(|(path, _)| {
            format!("/{path} is a shell or an interpreter: leave it out, or, in a debug image, name it in checks.interpreters")
        })
        .collect()
}

fn library_problems(recipe: &Recipe, tree: &Tree) -> Result<Vec<String>> {
    let missing = missing_libraries(tree)?;
    let unexcused = missing.into_iter().filter(|(name, _)| !recipe.checks.absent_libraries.contains(name));
    Ok(unexcused
        .map(|(name, user)| format!("library {name}, needed by {user}, is not in the image: add its package, or name it in checks.absent-libraries"))
        .collect())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use super::*;
    use crate::pool::merged_tree;

    fn recipe(kind: &str, rest: &str) -> Recipe {
        let node = "[boot]\ncmdline = \"\"\ninit = \"i\"\n[modules]\ninitrd = []\n[modules.root]\n[[program]]\nname = \"i\"\npath = \"/i\"\n";
        let node = if kind == "node" { node } else { "" };
        let text = format!("name = \"x\"\nkind = \"{kind}\"\n[packages]\ninstall = [\"aa\"]\n{node}{rest}");
        Recipe::parse(&text, Path::new("x.toml")).expect("a recipe")
    }

    fn pool() -> Pool {
        let owners = BTreeSet::from(["aa".to_owned(), "bb".to_owned()]);
        Pool { tree: merged_tree(), duplicates: BTreeMap::from([("usr/x".to_owned(), owners)]) }
    }

    #[track_caller]
    fn broken(kind: &str, rest: &str, entries: &[(&str, Entry)]) -> Vec<String> {
        let mut tree = merged_tree();
        for (path, entry) in entries {
            tree.insert_with_parents(path, entry.clone()).expect("inserted");
        }
        match check(&recipe(kind, rest), &pool(), &tree) {
            Ok(()) => Vec::new(),
            Err(Error::Unfit { problems, .. }) => problems,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn each_rule_names_what_breaks_it() {
        let entries = [
            ("usr/bin/su", Entry::file(0o4755, "x")),
            ("usr/open", Entry::file(0o666, "x")),
            ("usr/tmp", Entry::dir(0o1777)),
            ("usr/lost", Entry::symlink("nowhere")),
            ("usr/later", Entry::symlink("/run/x")),
            ("usr/x", Entry::file(0o644, "x").from_origin("bb")),
            ("usr/bin/s", Entry::file(0o755, "#!/bin/sh\n")),
            ("usr/bin/python3.13", Entry::file(0o755, "ELF")),
            ("usr/bin/sh", Entry::symlink("python3.13")),
            ("usr/share/doc/dash", Entry::file(0o644, "about it")),
        ];
        let service = "[[service]]\nname = \"d\"\nprogram = \"/usr/bin/d\"\n";
        assert_eq!(
            broken("node", service, &entries),
            [
                "/usr/bin/su is set-uid or set-gid (mode 4755): leave it out or name it in checks.setuid",
                "/usr/lost links to nowhere, which is not in the image",
                "/usr/open may be written by all (mode 0666): name it in checks.world-writable if meant",
                "/usr/x is in several packages: aa, bb",
                "service 'd': its program /usr/bin/d is not in the image, or may not be run",
                "/usr/bin/s is a script, but a node has no interpreter",
                "/usr/bin/python3.13 is a shell or an interpreter: leave it out, or, in a debug image, name it in checks.interpreters",
                "/usr/bin/sh is a shell or an interpreter: leave it out, or, in a debug image, name it in checks.interpreters",
            ]
        );
    }

    #[test]
    fn the_recipe_may_excuse_each_by_name() {
        let entries = [
            ("usr/bin/su", Entry::file(0o4755, "#!")),
            ("usr/open", Entry::file(0o666, "x")),
            ("usr/lost", Entry::symlink("nowhere")),
            ("usr/x", Entry::file(0o644, "x").from_origin("bb")),
        ];
        let checks = "[checks]\nsetuid = [\"/usr/bin/su\"]\nworld-writable = [\"/usr/open\"]\ndangling = [\"/usr/l*\"]\nduplicates = [\"/usr/x\"]";
        assert_eq!(broken("guest", checks, &entries), [""; 0]);
        let shell = [("usr/bin/dash", Entry::file(0o755, "ELF"))];
        assert_eq!(broken("node", "[checks]\ninterpreters = [\"/usr/bin/dash\"]", &shell), [""; 0]);
    }
}
