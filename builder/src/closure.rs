//! Picking files out of the pool with all that they need: links on the way, link targets, and for ELF
//! files their loader and libraries.
//!
//! A library is looked for where glibc's loader looks when there is no `ld.so.cache`: the run path of
//! the file that needs it, then Debian's default folders. So an image whose closure is complete needs no
//! cache, and none is written.

use std::collections::{BTreeMap, BTreeSet};

use image::tree::split;
use image::{Entry, Kind, Tree};

use crate::elf::{self, Needs};
use crate::error::{Error, Result};
use crate::pool::{Glob, Pool, trace};

/// Folders that Debian's loader searches by itself.
const LIBRARY_FOLDERS: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "usr/lib"];

/// A tree that grows by picking.
#[derive(Debug)]
pub struct Picker<'a> {
    pool: &'a Pool,
    /// What was picked so far.
    pub tree: Tree,
    /// ELF files whose needs are not looked at yet.
    queue: Vec<String>,
    problems: BTreeSet<String>,
}

impl<'a> Picker<'a> {
    /// Picks into a tree.
    pub fn new(pool: &'a Pool, tree: Tree) -> Self {
        Self { pool, tree, queue: Vec::new(), problems: BTreeSet::new() }
    }

    /// Picks a file by absolute path, with the links that lead to it.
    pub fn file(&mut self, path: &str, who: &str) -> Result<()> {
        let walk = trace(&self.pool.tree, path, true);
        for link in &walk.links {
            self.copy(link)?;
        }
        match self.pool.tree.get(&walk.real) {
            Some(entry) if entry.is_dir() => self.copy(&walk.real),
            Some(_) => {
                self.copy(&walk.real)?;
                self.queue.push(walk.real);
                Ok(())
            }
            None if self.is_made_elsewhere(&walk.real) => Ok(()),
            None => {
                let owner = if walk.links.is_empty() { String::new() } else { format!(" (link to /{})", walk.real) };
                self.problems.insert(format!("{path}{owner}: in no package, needed by {who}"));
                Ok(())
            }
        }
    }

    /// Picks everything that matches; a pattern without a match is a problem.
    pub fn glob(&mut self, pattern: &str, who: &str) -> Result<()> {
        let glob = match Glob::new(pattern) {
            Ok(glob) => glob,
            Err(problem) => {
                self.problems.insert(format!("{who}: {problem}"));
                return Ok(());
            }
        };
        let found = self.pool.matches(&glob);
        if found.is_empty() {
            self.problems.insert(format!("{pattern}: {who} matches nothing in the packages"));
        }
        found.iter().try_for_each(|path| self.file(&format!("/{path}"), who))
    }

    /// Follows what all picked files need, until nothing new comes.
    pub fn follow(&mut self) -> Result<()> {
        let mut seen = BTreeSet::new();
        while let Some(path) = self.queue.pop() {
            if !seen.insert(path.clone()) {
                continue;
            }
            let Some(needs) = needs_of(&self.pool.tree, &path)? else { continue };
            let who = format!("/{path}");
            if let Some(loader) = &needs.interpreter {
                self.file(loader, &who)?;
            }
            for library in &needs.libraries {
                self.library(library, &needs, &path)?;
            }
        }
        Ok(())
    }

    /// The tree, or every problem met on the way.
    pub fn finish(self, recipe: &str) -> Result<Tree> {
        if self.problems.is_empty() {
            return Ok(self.tree);
        }
        Err(Error::Missing { recipe: recipe.to_owned(), problems: self.problems.into_iter().collect() })
    }

    fn library(&mut self, name: &str, needs: &Needs, user: &str) -> Result<()> {
        match find_library(&self.pool.tree, name, needs, user) {
            Some(path) => self.file(&format!("/{path}"), &format!("/{user}")),
            None => {
                self.problems.insert(format!("library {name}: in no package, needed by /{user}"));
                Ok(())
            }
        }
    }

    fn is_made_elsewhere(&self, real: &str) -> bool {
        self.tree.get(real).is_some() || is_run_time(real)
    }

    /// Copies one entry with its parent folders, which keep the mode that their package gave them.
    fn copy(&mut self, path: &str) -> Result<()> {
        let Some(entry) = self.pool.tree.get(path) else { return Ok(()) };
        if self.tree.get(path).is_some_and(|old| old.is_dir() == entry.is_dir()) {
            return Ok(());
        }
        if let Some((parent, _)) = split(path)
            && !parent.is_empty()
        {
            self.copy(parent)?;
        }
        self.tree.insert(path, entry.clone()).map(drop).map_err(|source| Error::Assemble {
            action: format!("put /{path} into the image"),
            source: Box::new(source),
        })
    }
}

/// Whether a path lies where things appear only while the system runs.
pub fn is_run_time(real: &str) -> bool {
    ["proc", "sys", "dev", "run", "tmp", "state"]
        .iter()
        .any(|top| real.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// The needs of a file, when it is an ELF file.
fn needs_of(tree: &Tree, path: &str) -> Result<Option<Needs>> {
    let Some(Entry { kind: Kind::File(content), origin, .. }) = tree.get(path) else { return Ok(None) };
    let broken = |source: Box<dyn std::error::Error + Send + Sync>| Error::Deb {
        package: origin.as_deref().unwrap_or("(recipe)").to_owned(),
        part: format!("/{path}"),
        source,
    };
    let mut magic = [0; 4];
    let mut reader = content.open().map_err(|e| broken(Box::new(e)))?;
    if std::io::Read::read_exact(&mut reader, &mut magic).is_err() || !elf::is_elf(&magic) {
        return Ok(None);
    }
    let bytes = content.read().map_err(|e| broken(Box::new(e)))?;
    // ELF files of other machines and widths (guest firmware, boot code) need nothing of this one.
    if bytes.get(4..6) != Some(&[2, 1]) || bytes.get(18..20) != Some(&[62, 0]) {
        return Ok(None);
    }
    elf::needs(&bytes).map(Some).map_err(|e| broken(Box::new(e)))
}

/// Where the loader will find a library, or `None`.
fn find_library(tree: &Tree, name: &str, needs: &Needs, user: &str) -> Option<String> {
    if name.contains('/') {
        return tree.exists(name).then(|| name.trim_start_matches('/').to_owned());
    }
    let origin = split(user).map_or("", |(folder, _)| folder);
    let run_path = needs.run_path.iter().map(|p| {
        p.replace("$ORIGIN", &format!("/{origin}"))
            .replace("${ORIGIN}", &format!("/{origin}"))
            .trim_start_matches('/')
            .to_owned()
    });
    let folders = run_path.chain(LIBRARY_FOLDERS.iter().map(|f| (*f).to_owned()));
    folders.map(|folder| format!("{folder}/{name}")).find(|path| tree.exists(path))
}

/// Libraries that files of a finished tree need and the loader will not find, each with one file that needs it.
/// For guests, whose trees are whole packages.
pub fn missing_libraries(tree: &Tree) -> Result<BTreeMap<String, String>> {
    let mut missing = BTreeMap::new();
    let candidates = tree.walk().filter(|(path, e)| {
        e.content().is_some() && (e.mode & 0o111 != 0 || path.rsplit('/').next().is_some_and(|n| n.contains(".so")))
    });
    for (path, _) in candidates {
        let Some(needs) = needs_of(tree, path)? else { continue };
        for name in &needs.libraries {
            if find_library(tree, name, &needs, path).is_none() {
                missing.entry(name.clone()).or_insert_with(|| format!("/{path}"));
            }
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::deb;
    use crate::elf::tests::made;
    use crate::pool::merged_tree;
    use crate::report::{Report, Style};

    fn pool(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Pool) {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = Cache::at(dir.path());
        let package = deb::tests::package(&cache, "aa", files);
        deb::unpack(std::slice::from_ref(&package), &cache, &Report::new(Style::Silent)).expect("unpacked");
        let pool = Pool::open([&package], &cache).expect("a pool");
        (dir, pool)
    }

    fn close(pool: &Pool, binary: &str) -> Result<Vec<String>> {
        let mut picker = Picker::new(pool, merged_tree());
        picker.file(binary, "the recipe")?;
        picker.follow()?;
        let tree = picker.finish("tiny")?;
        Ok(tree.walk().filter(|(_, e)| !e.is_dir()).map(|(p, _)| p.to_owned()).skip(4).collect())
    }

    #[test]
    fn a_program_brings_its_loader_its_libraries_and_theirs_through_links() {
        let (_dir, pool) = pool(&[
            ("usr/bin/x", &made(Some("/lib64/ld.so"), &["liba.so.1"], None)),
            ("usr/lib64/ld.so -> ../lib/x86_64-linux-gnu/ld.so", b""),
            ("usr/lib/x86_64-linux-gnu/ld.so", &made(None, &[], None)),
            ("usr/lib/x86_64-linux-gnu/liba.so.1 -> liba.so.1.2", b""),
            ("usr/lib/x86_64-linux-gnu/liba.so.1.2", &made(None, &["libb.so.1"], Some("$ORIGIN/private"))),
            ("usr/lib/x86_64-linux-gnu/private/libb.so.1", &made(None, &[], None)),
            ("usr/lib/x86_64-linux-gnu/unused.so", &made(None, &[], None)),
        ]);
        let expect = [
            "usr/bin/x",
            "usr/lib/x86_64-linux-gnu/ld.so",
            "usr/lib/x86_64-linux-gnu/liba.so.1",
            "usr/lib/x86_64-linux-gnu/liba.so.1.2",
            "usr/lib/x86_64-linux-gnu/private/libb.so.1",
            "usr/lib64/ld.so",
        ];
        assert_eq!(close(&pool, "/usr/bin/x").expect("a closure"), expect);
    }

    #[test]
    fn everything_that_is_missing_is_told_at_once_with_who_needs_it() {
        let (_dir, pool) =
            pool(&[("usr/bin/x", &made(None, &["liba.so.1", "libz.so"], None)), ("usr/lib/liba.so.1 -> gone.so", b"")]);
        let mut picker = Picker::new(&pool, merged_tree());
        picker.file("/usr/bin/x", "take.binaries").expect("picked");
        picker.file("/usr/bin/y", "take.binaries").expect("picked");
        picker.glob("/usr/share/*", "take.globs").expect("picked");
        picker.follow().expect("followed");
        let Err(Error::Missing { problems, .. }) = picker.finish("tiny") else { panic!("things are missing") };
        assert_eq!(
            problems,
            [
                "/usr/bin/y: in no package, needed by take.binaries",
                "/usr/share/*: take.globs matches nothing in the packages",
                "library liba.so.1: in no package, needed by /usr/bin/x",
                "library libz.so: in no package, needed by /usr/bin/x",
            ]
        );
    }

    #[test]
    fn a_link_into_run_time_folders_is_kept_without_its_target() {
        let (_dir, pool) = pool(&[("usr/etc -> /run/etc", b"")]);
        assert_eq!(close(&pool, "/usr/etc/x").expect("a closure"), ["usr/etc"]);
        assert!(is_run_time("run") && is_run_time("run/x") && !is_run_time("runx"));
    }

    #[test]
    fn a_guest_tree_is_searched_for_libraries_nobody_brings() {
        let mut tree = merged_tree();
        tree.insert_with_parents("usr/bin/x", Entry::file(0o755, made(None, &["liba.so"], None))).expect("inserted");
        tree.insert_with_parents("usr/lib/libc.so", Entry::file(0o644, made(None, &[], None))).expect("inserted");
        let missing = missing_libraries(&tree).expect("a search");
        assert_eq!(missing, BTreeMap::from([("liba.so".to_owned(), "/usr/bin/x".to_owned())]));
    }
}
