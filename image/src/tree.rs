//! A file tree in memory: what a root, an initrd or a guest image will contain, before any format is chosen.
//!
//! Every producer (package unpacker, recipe steps) fills a [`Tree`]; every writer (squashfs, cpio, tar,
//! manifest) reads one. Paths are relative, `/`-separated and normalised; the root itself is the empty
//! path. The map is sorted, so two trees with equal entries give equal images whatever the order of
//! insertion. Nothing here touches a disk, except reading the contents of a file when asked.
//!
//! Debian's `/bin` is a link to `usr/bin`: [`Tree::insert`] and the other operations that take a path follow links in
//! every component but the last, so `bin/sh` and `usr/bin/sh` are one file, and its second owner is noticed.

mod content;
mod entry;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub use content::{Content, ContentReader};
pub use entry::{Entry, Kind};

/// Links followed in one lookup before it is called a loop; the kernel's own limit.
const MAX_LINKS: usize = 40;

/// What cannot be done with a tree, and where.
#[derive(Debug, Error)]
pub enum TreeError {
    /// The path leaves the tree, or is not a path.
    #[error("Path {path:?} is not usable in an image: {reason}")]
    BadPath {
        /// The path as given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Something is there already.
    #[error("{path} of {new} exists already: {found} of {old}")]
    Exists {
        /// The normalised path.
        path: String,
        /// What stands there.
        found: &'static str,
        /// Who put it there.
        old: String,
        /// Who wants to put another.
        new: String,
    },
    /// A component of the path is no directory.
    #[error("{path} needs {parent} to be a directory, but it is a {found}")]
    NotADirectory {
        /// The path asked for.
        path: String,
        /// The component in the way.
        parent: String,
        /// What it is.
        found: &'static str,
    },
    /// Nothing is there.
    #[error("{path} does not exist in the tree: {missing} is missing")]
    Missing {
        /// The path asked for.
        path: String,
        /// The first component that is absent.
        missing: String,
    },
    /// Links lead in a circle.
    #[error("{path} passes more than {MAX_LINKS} symbolic links")]
    LinkLoop {
        /// The path asked for.
        path: String,
    },
    /// A file's contents cannot be read.
    #[error("Cannot read {path}")]
    Read {
        /// Where the contents lie on this machine.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A sorted file tree. See the module.
#[derive(Clone, Debug)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

/// `/usr//lib/./x` becomes `usr/lib/x`; the root is the empty string.
///
/// # Errors
/// When a component is `..` or holds a zero byte.
pub fn normalise(path: &str) -> Result<String, TreeError> {
    let bad = |reason| TreeError::BadPath { path: path.to_owned(), reason };
    if path.contains('\0') {
        return Err(bad("it contains a zero byte"));
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(bad("it contains '..'")),
            name if name.len() > 255 => return Err(bad("a name is longer than 255 bytes")),
            name => parts.push(name),
        }
    }
    Ok(parts.join("/"))
}

/// Parent directory and last name of a normalised path; `None` for the root.
#[must_use]
pub fn split(path: &str) -> Option<(&str, &str)> {
    match path.rsplit_once('/') {
        Some(pair) => Some(pair),
        None if path.is_empty() => None,
        None => Some(("", path)),
    }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

impl Tree {
    /// A tree with nothing but its root, `0755` of root.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: BTreeMap::from([(String::new(), Entry::dir(0o755))]) }
    }

    /// Adds an entry, and gives the real path it got (links in its parents are followed).
    /// A directory may be added where a directory stands: it then takes the new owner and mode.
    ///
    /// # Errors
    /// When the parent is missing or no directory, or when something is there already.
    pub fn insert(&mut self, path: &str, entry: Entry) -> Result<String, TreeError> {
        let real = self.place(path)?;
        if let Some(old) = self.entries.get(&real)
            && !(old.is_dir() && entry.is_dir())
        {
            return Err(TreeError::Exists {
                found: old.kind.name(),
                old: old.owner_name(),
                new: entry.owner_name(),
                path: real,
            });
        }
        self.entries.insert(real.clone(), entry);
        Ok(real)
    }

    /// Adds an entry with its missing parents (`0755` of root, same time and origin as the entry).
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn insert_with_parents(&mut self, path: &str, entry: Entry) -> Result<String, TreeError> {
        let path = normalise(path)?;
        if let Some((parent, _)) = split(&path) {
            let mut like = Entry::dir(0o755).modified(entry.mtime);
            like.origin.clone_from(&entry.origin);
            self.mkdir_like(parent, &like)?;
        }
        self.insert(&path, entry)
    }

    /// Puts an entry where another may stand. A directory that has entries is replaced only by a directory.
    ///
    /// # Errors
    /// When the parent is missing or no directory, or the entry would hide a full directory.
    pub fn replace(&mut self, path: &str, entry: Entry) -> Result<Option<Entry>, TreeError> {
        let real = self.place(path)?;
        if !entry.is_dir() && self.children(&real).next().is_some() {
            return Err(TreeError::Exists {
                found: "directory with entries",
                old: "the tree".into(),
                new: entry.owner_name(),
                path: real,
            });
        }
        Ok(self.entries.insert(real, entry))
    }

    /// Makes a directory and its missing parents (`0755` of root), and gives its real path.
    ///
    /// # Errors
    /// When a component exists and is no directory.
    pub fn mkdir_p(&mut self, path: &str) -> Result<String, TreeError> {
        self.mkdir_like(path, &Entry::dir(0o755))
    }

    fn mkdir_like(&mut self, path: &str, like: &Entry) -> Result<String, TreeError> {
        let path = normalise(path)?;
        let mut real = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let here = join(&real, name);
            real = match self.entries.get(&here) {
                None => {
                    self.entries.insert(here.clone(), like.clone());
                    here
                }
                Some(entry) if entry.is_dir() => here,
                Some(_) => self.directory(&here, &path)?,
            };
        }
        Ok(real)
    }

    /// Removes an entry with everything below it, and gives how many entries went. 0: it was not there.
    ///
    /// # Errors
    /// When the path is not usable or is the root.
    pub fn remove(&mut self, path: &str) -> Result<usize, TreeError> {
        let path = normalise(path)?;
        if path.is_empty() {
            return Err(TreeError::BadPath { path, reason: "the root cannot be removed" });
        }
        let real = match self.place(&path) {
            Ok(real) => real,
            Err(TreeError::Missing { .. }) => return Ok(0),
            Err(error) => return Err(error),
        };
        let doomed: Vec<String> = self.below(&real).map(|(path, _)| path.to_owned()).collect();
        for path in &doomed {
            self.entries.remove(path);
        }
        Ok(doomed.len() + usize::from(self.entries.remove(&real).is_some()))
    }

    /// The entry at exactly this path, without following any link.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(&normalise(path).ok()?)
    }

    /// As [`Tree::get`], to change it.
    pub fn get_mut(&mut self, path: &str) -> Option<&mut Entry> {
        self.entries.get_mut(&normalise(path).ok()?)
    }

    /// Follows every link, the last one too, and gives the real path and its entry.
    /// Absolute targets start at the tree's root, and `..` stops there.
    ///
    /// # Errors
    /// When a component is missing, no directory, or the links are a loop.
    pub fn lookup(&self, path: &str) -> Result<(String, &Entry), TreeError> {
        let real = self.resolve(path, true)?;
        match self.entries.get(&real) {
            Some(entry) => Ok((real, entry)),
            None => Err(TreeError::Missing { path: path.to_owned(), missing: real }),
        }
    }

    /// Whether something is there after all links were followed.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.lookup(path).is_ok()
    }

    /// The names directly in a directory, sorted by bytes. `dir` is a real path.
    pub fn children<'a>(&'a self, dir: &'a str) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        let skip = if dir.is_empty() { 0 } else { dir.len() + 1 };
        self.below(dir).filter_map(move |(path, entry)| {
            let name = &path[skip..];
            (!name.contains('/')).then_some((name, entry))
        })
    }

    /// Everything below a directory, not the directory itself. `dir` is a real path.
    pub fn below<'a>(&'a self, dir: &'a str) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        // '0' follows '/': the range is exactly the paths that begin with "dir/".
        let (from, to) = match dir {
            "" => ("\0".to_owned(), None),
            _ => (format!("{dir}/"), Some(format!("{dir}0"))),
        };
        let (from, to) =
            (std::ops::Bound::Included(from), to.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded));
        self.entries.range((from, to)).map(|(path, entry)| (path.as_str(), entry))
    }

    /// Every entry, the root first and every directory before what it holds.
    pub fn walk(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// As [`Tree::walk`], to change the entries.
    pub fn walk_mut(&mut self) -> impl Iterator<Item = (&str, &mut Entry)> {
        self.entries.iter_mut().map(|(path, entry)| (path.as_str(), entry))
    }

    /// Number of entries, the root included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is nothing but the root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.len() == 1
    }

    /// Sum of the lengths of all regular files.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.entries.values().filter_map(Entry::content).map(Content::len).sum()
    }

    /// No time later than `epoch` (and none before 1970): what a build needs to be repeatable.
    pub fn clamp_times(&mut self, epoch: i64) {
        for entry in self.entries.values_mut() {
            entry.mtime = entry.mtime.clamp(0, epoch);
        }
    }

    /// Real path for something that may not exist yet: its parents are resolved and must be there.
    fn place(&self, path: &str) -> Result<String, TreeError> {
        let path = normalise(path)?;
        self.resolve(&path, false)
    }

    fn directory(&self, at: &str, path: &str) -> Result<String, TreeError> {
        let (real, entry) = self.lookup(at)?;
        if entry.is_dir() {
            return Ok(real);
        }
        Err(TreeError::NotADirectory { path: path.to_owned(), parent: real, found: entry.kind.name() })
    }

    fn resolve(&self, path: &str, follow_last: bool) -> Result<String, TreeError> {
        let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut real = String::new();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    real = split(&real).map(|(parent, _)| parent.to_owned()).unwrap_or_default();
                    continue;
                }
                _ => {}
            }
            let here = join(&real, &name);
            let last = todo.iter().all(|rest| rest.is_empty() || rest == ".");
            match self.entries.get(&here).map(|entry| &entry.kind) {
                Some(Kind::Symlink(target)) if !last || follow_last => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(TreeError::LinkLoop { path: path.to_owned() });
                    }
                    if target.starts_with('/') {
                        real.clear();
                    }
                    todo.extend(target.split('/').rev().map(str::to_owned));
                }
                Some(Kind::Dir) => real = here,
                _ if last => real = here,
                Some(kind) => {
                    return Err(TreeError::NotADirectory { path: path.to_owned(), parent: here, found: kind.name() });
                }
                None => return Err(TreeError::Missing { path: path.to_owned(), missing: here }),
            }
        }
        Ok(real)
    }
}

#[cfg(test)]
mod tests;
