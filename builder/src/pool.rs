//! All files of all packages of a lock, as one tree to pick from.

use std::collections::{BTreeMap, BTreeSet};

use image::tree::split;
use image::{Entry, Kind, Tree};

use crate::cache::Cache;
use crate::deb;
use crate::error::{Error, Result};
use crate::lock::Package;

/// Directories of old that are links into /usr; made before any package is read, so that a package
/// which still names `/lib/x` lands in `/usr/lib/x`.
pub const MERGED: [(&str, &str); 4] =
    [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")];

/// The files of a lock's packages.
#[derive(Debug)]
pub struct Pool {
    /// Every file, with its package as origin.
    pub tree: Tree,
    /// Paths that several packages bring, with those packages; the tree has the last one's file.
    pub duplicates: BTreeMap<String, BTreeSet<String>>,
}

/// A walk along a path that may pass symbolic links.
#[derive(Debug, PartialEq, Eq)]
pub struct Trace {
    /// Real paths of the links passed.
    pub links: Vec<String>,
    /// Where the walk ends, which may not exist.
    pub real: String,
}

impl Pool {
    /// Reads the unpacked packages (see [`deb::unpack`]).
    pub fn open<'a>(packages: impl IntoIterator<Item = &'a Package>, cache: &Cache) -> Result<Self> {
        let mut pool = Self { tree: merged_tree(), duplicates: BTreeMap::new() };
        for package in packages {
            for member in deb::members(package, cache)? {
                pool.add(&member.path, member.entry).map_err(|source| Error::Deb {
                    package: package.to_string(),
                    part: member.path.clone(),
                    source: Box::new(source),
                })?;
            }
        }
        Ok(pool)
    }

    fn add(&mut self, path: &str, entry: Entry) -> std::result::Result<(), image::TreeError> {
        let is_merged_link = MERGED.iter().any(|(link, _)| *link == path);
        if path.is_empty() || is_merged_link {
            return Ok(());
        }
        if let Some((parent, _)) = split(path) {
            self.tree.mkdir_p(parent)?;
        }
        let old = self.tree.get(&trace(&self.tree, path, false).real);
        match old {
            // What one package has as a link to a directory, another may list as that directory.
            Some(old) if entry.is_dir() && !old.is_dir() && self.tree.lookup(path).is_ok_and(|(_, e)| e.is_dir()) => {
                Ok(())
            }
            Some(old) if !(old.is_dir() && entry.is_dir()) => self.collide(path, entry),
            _ => self.tree.insert(path, entry).map(drop),
        }
    }

    fn collide(&mut self, path: &str, entry: Entry) -> std::result::Result<(), image::TreeError> {
        let name = |e: &Entry| e.origin.as_deref().unwrap_or_default().to_owned();
        let new = name(&entry);
        let real = trace(&self.tree, path, false).real;
        if let Some(old) = self.tree.replace(path, entry)? {
            self.duplicates.entry(real).or_default().extend([name(&old), new]);
        }
        Ok(())
    }

    /// Paths (without leading `/`) that match a glob, sorted. A glob without wildcard matches itself if it exists.
    pub fn matches(&self, pattern: &Glob) -> Vec<String> {
        let prefix = pattern.literal_prefix().to_owned();
        let real = trace(&self.tree, &prefix, true).real;
        let folder = if self.tree.get(&real).is_some_and(Entry::is_dir) { real } else { String::new() };
        let below = self.tree.below(&folder).map(|(path, _)| path);
        below.filter(|path| pattern.matches(path)).map(str::to_owned).collect()
    }
}

/// A tree with the four links of a merged /usr.
pub fn merged_tree() -> Tree {
    let mut tree = Tree::new();
    for (link, target) in MERGED {
        // An empty tree has room for them.
        let _ = tree.mkdir_p(target);
        let _ = tree.insert(link, Entry::symlink(target).from_origin("base-files"));
    }
    tree
}

/// Walks a path through the links of a tree; `follow_last` also follows a link at its end. A loop ends the walk.
pub fn trace(tree: &Tree, path: &str, follow_last: bool) -> Trace {
    let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut links = Vec::new();
    let mut real = String::new();
    while let Some(name) = todo.pop() {
        if name == ".." {
            real = split(&real).map(|(parent, _)| parent.to_owned()).unwrap_or_default();
        }
        if name.is_empty() || name == "." || name == ".." {
            continue;
        }
        let here = if real.is_empty() { name } else { format!("{real}/{name}") };
        let last = todo.iter().all(|rest| rest.is_empty() || rest == ".");
        match tree.get(&here).map(|e| &e.kind) {
            Some(Kind::Symlink(target)) if (!last || follow_last) && links.len() < 40 => {
                if target.starts_with('/') {
                    real.clear();
                }
                todo.extend(target.split('/').rev().map(str::to_owned));
                links.push(here);
            }
            _ => real = here,
        }
    }
    Trace { links, real }
}

/// A path pattern: `*` and `?` stay within one name, `**` does not.
#[derive(Debug, Clone)]
pub struct Glob {
    text: String,
    pattern: glob::Pattern,
}

impl Glob {
    /// Compiles a pattern; a leading `/` is dropped.
    pub fn new(text: &str) -> std::result::Result<Self, String> {
        let text = text.trim_start_matches('/').to_owned();
        let pattern = glob::Pattern::new(&text).map_err(|e| format!("'{text}' is no pattern: {}", e.msg))?;
        Ok(Self { text, pattern })
    }

    /// Compiles several.
    pub fn all(texts: &[String]) -> std::result::Result<Vec<Self>, String> {
        texts.iter().map(|t| Self::new(t)).collect()
    }

    /// Whether a path without leading `/` matches.
    pub fn matches(&self, path: &str) -> bool {
        let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
        self.pattern.matches_with(path, options)
    }

    /// Whether a path or one of its parents matches.
    pub fn covers(&self, path: &str) -> bool {
        let parents =
            std::iter::successors(Some(path), |p| split(p).map(|(parent, _)| parent).filter(|p| !p.is_empty()));
        parents.into_iter().any(|p| self.matches(p))
    }

    /// The pattern as written, without leading `/`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The folder that every match is in.
    fn literal_prefix(&self) -> &str {
        let wild = self.text.find(['*', '?', '[']).unwrap_or(self.text.len());
        self.text[..wild].rsplit_once('/').map_or("", |(folder, _)| folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(files: &[(&str, Entry)]) -> Pool {
        let mut pool = Pool { tree: merged_tree(), duplicates: BTreeMap::new() };
        for (path, entry) in files {
            pool.add(path, entry.clone()).expect("a file");
        }
        pool
    }

    fn of(package: &str) -> Entry {
        Entry::file(0o644, "x").from_origin(package)
    }

    #[test]
    fn old_paths_land_in_usr_and_a_second_owner_is_remembered() {
        let pool =
            pool(&[("lib/x", of("aa")), ("usr/lib/x", of("bb")), ("lib", Entry::dir(0o755)), ("lib/y", of("aa"))]);
        assert!(pool.tree.get("usr/lib/y").is_some());
        let owners = BTreeSet::from(["aa".to_owned(), "bb".to_owned()]);
        assert_eq!(pool.duplicates, BTreeMap::from([("usr/lib/x".to_owned(), owners)]));
    }

    #[test]
    fn a_walk_tells_the_links_it_passed() {
        let pool = pool(&[
            ("usr/lib/liba.so", Entry::symlink("liba.so.1")),
            ("usr/lib/liba.so.1", Entry::symlink("/usr/lib/real/liba.so.1.2")),
            ("usr/lib/real/liba.so.1.2", of("aa")),
            ("usr/lib/loop", Entry::symlink("loop")),
        ]);
        let walk = trace(&pool.tree, "lib/liba.so", true);
        assert_eq!(walk.real, "usr/lib/real/liba.so.1.2");
        assert_eq!(walk.links, ["lib", "usr/lib/liba.so", "usr/lib/liba.so.1"]);
        assert_eq!(trace(&pool.tree, "lib/liba.so", false).real, "usr/lib/liba.so");
        assert_eq!(trace(&pool.tree, "usr/lib/loop", true).real, "usr/lib/loop");
    }

    #[track_caller]
    fn check(pattern: &str, expect: &[&str]) {
        let pool = pool(&[("usr/lib/a.so", of("p")), ("usr/lib/b.so", of("p")), ("usr/lib/c/d.so", of("p"))]);
        assert_eq!(pool.matches(&Glob::new(pattern).expect("a pattern")), expect);
    }

    #[test]
    fn a_star_stays_in_its_folder_and_two_do_not() {
        check("/usr/lib/*.so", &["usr/lib/a.so", "usr/lib/b.so"]);
        check("/usr/lib/**/*.so", &["usr/lib/a.so", "usr/lib/b.so", "usr/lib/c/d.so"]);
        check("/usr/lib/a.so", &["usr/lib/a.so"]);
        check("/usr/lib/x", &[]);
        assert!(Glob::new("/usr/lib/**x").is_err());
    }

    #[test]
    fn a_pattern_covers_what_is_below_a_match() {
        let glob = Glob::new("/usr/share/doc").expect("a pattern");
        assert!(glob.covers("usr/share/doc/a/b") && glob.covers("usr/share/doc"));
        assert!(!glob.covers("usr/share/docs"));
    }
}
