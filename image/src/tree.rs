//! A file tree in memory: what a root, an initrd or a guest image will contain, before any format is chosen.
//!
//! Every producer (package unpacker, recipe steps) fills a [`Tree`]; every writer (squashfs, cpio, tar,
//! manifest) reads one. Paths are relative, `/`-separated and normalised; the root itself is the empty
//! path. The map is sorted, so two trees with equal entries give equal images whatever the order of
//! insertion. Nothing here touches a disk, except reading the contents of a file when asked.
//!
//! Debian's `/bin` is a link to `usr/bin`: [`Tree::insert`] and the other operations that take a path follow links in
//! every component but the last, so `bin/sh` and `usr/bin/sh` are one file, and its second owner is noticed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use thiserror::Error;

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

/// The bytes of a regular file: in memory, or still on this machine's disk.
#[derive(Clone)]
pub enum Content {
    /// In memory, shared between equal files.
    Bytes(Arc<[u8]>),
    /// On disk. It must not change until the image is written; a changed length is an error.
    File {
        /// Where.
        path: PathBuf,
        /// Its length when it was added.
        len: u64,
    },
    /// A piece of a file on disk, such as a member of an unpacked archive. The file must not change.
    Part {
        /// Where.
        path: Arc<Path>,
        /// First byte of the piece.
        offset: u64,
        /// Its length; a file that ends earlier is an error.
        len: u64,
    },
}

impl Content {
    /// Refers to a file on disk, taking its length now.
    ///
    /// # Errors
    /// When it cannot be examined.
    pub fn from_path(path: impl Into<PathBuf>) -> Result<Self, TreeError> {
        let path = path.into();
        match std::fs::metadata(&path) {
            Ok(meta) => Ok(Self::File { len: meta.len(), path }),
            Err(source) => Err(TreeError::Read { path, source }),
        }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { len, .. } | Self::Part { len, .. } => *len,
        }
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A reader from the start. It gives exactly [`Content::len`] bytes, or an error.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(&self) -> Result<ContentReader, TreeError> {
        Ok(match self {
            Self::Bytes(bytes) => ContentReader(Source::Bytes(Cursor::new(bytes.clone()))),
            Self::File { path, len } => {
                let file = File::open(path).map_err(|source| TreeError::Read { path: path.clone(), source })?;
                ContentReader(Source::File { file, left: *len, path: path.clone() })
            }
            Self::Part { path, offset, len } => {
                let read_error = |source| TreeError::Read { path: path.to_path_buf(), source };
                let mut file = File::open(path).map_err(read_error)?;
                file.seek(SeekFrom::Start(*offset)).map_err(read_error)?;
                ContentReader(Source::Part { file, left: *len, path: path.clone() })
            }
        })
    }

    /// All bytes in memory.
    ///
    /// # Errors
    /// When the file cannot be read or has another length than when it was added.
    pub fn read(&self) -> Result<Arc<[u8]>, TreeError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File { len, .. } | Self::Part { len, .. } => {
                let mut bytes = Vec::with_capacity(usize::try_from(*len).unwrap_or(0));
                self.open()?
                    .read_to_end(&mut bytes)
                    .map_err(|source| TreeError::Read { path: self.source_path(), source })?;
                Ok(bytes.into())
            }
        }
    }

    /// SHA-256 of the bytes.
    ///
    /// # Errors
    /// As [`Content::read`].
    pub fn sha256(&self) -> Result<[u8; 32], TreeError> {
        let mut reader = self.open()?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = reader.read(&mut buffer).map_err(|source| TreeError::Read { path: self.source_path(), source })?;
            if n == 0 {
                return Ok(hash.finalize().into());
            }
            hash.update(&buffer[..n]);
        }
    }

    fn source_path(&self) -> PathBuf {
        match self {
            Self::Bytes(_) => PathBuf::from("(memory)"),
            Self::File { path, .. } => path.clone(),
            Self::Part { path, .. } => path.to_path_buf(),
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::File { path, len } => write!(f, "File({}, {len} bytes)", path.display()),
            Self::Part { path, offset, len } => write!(f, "Part({} at {offset}, {len} bytes)", path.display()),
        }
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

/// Reads the bytes of a [`Content`]; a file that shrank or grew since it was added is an error.
#[derive(Debug)]
pub struct ContentReader(Source);

#[derive(Debug)]
enum Source {
    Bytes(Cursor<Arc<[u8]>>),
    File { file: File, left: u64, path: PathBuf },
    Part { file: File, left: u64, path: Arc<Path> },
}

impl Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Source::Bytes(cursor) => cursor.read(buffer),
            Source::File { file, left, path } => {
                let n = file.read(buffer)?;
                if buffer.is_empty() {
                    return Ok(0);
                }
                let changed = if n == 0 { *left != 0 } else { n as u64 > *left };
                if changed {
                    let text = format!("{} changed its length while the image was written", path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                *left -= n as u64;
                Ok(n)
            }
            Source::Part { file, left, path } => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                let n = file.read(&mut buffer[..most])?;
                if n == 0 && most > 0 {
                    let text = format!("{} ends before the piece that belongs in the image", path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                *left -= n as u64;
                Ok(n)
            }
        }
    }
}

/// What an entry is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A directory.
    Dir,
    /// A regular file.
    File(Content),
    /// A symbolic link and its target, as stored.
    Symlink(String),
    /// A character device.
    CharDev {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDev {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A unix socket's name.
    Socket,
}

impl Kind {
    /// One word for people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Dir => "directory",
            Self::File(_) => "file",
            Self::Symlink(_) => "symbolic link",
            Self::CharDev { .. } => "character device",
            Self::BlockDev { .. } => "block device",
            Self::Fifo => "named pipe",
            Self::Socket => "socket",
        }
    }
}

/// One name in the tree with all that a file system stores of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Permission bits with setuid, setgid and sticky (`0o7777`); the type is in `kind`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Extended attributes by full name (`security.capability`).
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// What it is.
    pub kind: Kind,
    /// The package or recipe step it came from.
    pub origin: Option<Arc<str>>,
}

impl Entry {
    fn new(mode: u16, kind: Kind) -> Self {
        Self { mode, uid: 0, gid: 0, mtime: 0, xattrs: BTreeMap::new(), kind, origin: None }
    }

    /// A directory of root with these permissions.
    #[must_use]
    pub fn dir(mode: u16) -> Self {
        Self::new(mode, Kind::Dir)
    }

    /// A regular file of root.
    #[must_use]
    pub fn file(mode: u16, content: impl Into<Content>) -> Self {
        Self::new(mode, Kind::File(content.into()))
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(target: impl Into<String>) -> Self {
        Self::new(0o777, Kind::Symlink(target.into()))
    }

    /// A character device of root.
    #[must_use]
    pub fn char_dev(mode: u16, major: u32, minor: u32) -> Self {
        Self::new(mode, Kind::CharDev { major, minor })
    }

    /// With an owner and group.
    #[must_use]
    pub fn owned_by(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// With a modification time in seconds since 1970.
    #[must_use]
    pub fn modified(mut self, mtime: i64) -> Self {
        self.mtime = mtime;
        self
    }

    /// With the package or step it came from.
    #[must_use]
    pub fn from_origin(mut self, origin: impl Into<Arc<str>>) -> Self {
        self.origin = Some(origin.into());
        self
    }

    /// With one extended attribute more.
    #[must_use]
    pub fn with_xattr(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.xattrs.insert(name.into(), value.into());
        self
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Dir)
    }

    /// The contents, when it is a regular file.
    #[must_use]
    pub fn content(&self) -> Option<&Content> {
        match &self.kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }

    /// The target, when it is a symbolic link.
    #[must_use]
    pub fn link_target(&self) -> Option<&str> {
        match &self.kind {
            Kind::Symlink(target) => Some(target),
            _ => None,
        }
    }

    fn owner_name(&self) -> String {
        self.origin.as_deref().unwrap_or("the recipe").to_owned()
    }
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
mod tests {
    use super::*;

    fn debian() -> Tree {
        let mut tree = Tree::new();
        for dir in ["usr/bin", "usr/lib", "etc"] {
            tree.mkdir_p(dir).unwrap();
        }
        tree.insert("bin", Entry::symlink("usr/bin")).unwrap();
        tree.insert("usr/lib64", Entry::symlink("/usr/lib")).unwrap();
        tree.insert("usr/bin/sh", Entry::symlink("dash")).unwrap();
        tree.insert("usr/bin/dash", Entry::file(0o755, "#!").from_origin("dash")).unwrap();
        tree
    }

    #[track_caller]
    fn check(path: &str, expect: &str) {
        assert_eq!(debian().lookup(path).unwrap().0, expect);
    }

    #[test]
    fn lookups_follow_links_in_every_component() {
        check("bin/sh", "usr/bin/dash");
        check("/usr/lib64", "usr/lib");
        check("usr/lib64/../bin/./dash", "usr/bin/dash");
        check("../../bin", "usr/bin");
        check("", "");
    }

    #[test]
    fn a_second_owner_is_noticed_through_a_merged_usr_link() {
        let error = debian().insert("bin/dash", Entry::file(0o755, "x").from_origin("other")).unwrap_err();
        assert_eq!(error.to_string(), "usr/bin/dash of other exists already: file of dash");
    }

    #[test]
    fn an_insert_lands_behind_the_link_and_needs_its_parent() {
        let mut tree = debian();
        assert_eq!(tree.insert("bin/ls", Entry::file(0o755, "")).unwrap(), "usr/bin/ls");
        let error = tree.insert("opt/x/y", Entry::dir(0o755)).unwrap_err();
        assert_eq!(error.to_string(), "opt/x/y does not exist in the tree: opt is missing");
        let error = tree.insert("usr/bin/dash/x", Entry::dir(0o755)).unwrap_err();
        assert_eq!(error.to_string(), "usr/bin/dash/x needs usr/bin/dash to be a directory, but it is a file");
        assert_eq!(tree.insert_with_parents("opt/x/y", Entry::file(0o644, "y")).unwrap(), "opt/x/y");
        assert_eq!(
            tree.mkdir_p("/bin/../x").unwrap_err().to_string(),
            "Path \"/bin/../x\" is not usable in an image: it contains '..'"
        );
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        let mut tree = Tree::new();
        tree.insert("a", Entry::symlink("b")).unwrap();
        tree.insert("b", Entry::symlink("a")).unwrap();
        assert!(matches!(tree.lookup("a"), Err(TreeError::LinkLoop { .. })));
        assert!(matches!(tree.mkdir_p("a/x"), Err(TreeError::LinkLoop { .. })));
    }

    #[test]
    fn children_are_only_the_directory_s_own_names() {
        let mut tree = debian();
        tree.insert("usr/bin-old", Entry::dir(0o755)).unwrap();
        let names: Vec<_> = tree.children("usr/bin").map(|(name, _)| name.to_owned()).collect();
        assert_eq!(names, ["dash", "sh"]);
        let names: Vec<_> = tree.children("").map(|(name, _)| name.to_owned()).collect();
        assert_eq!(names, ["bin", "etc", "usr"]);
    }

    #[test]
    fn removing_a_directory_takes_all_below_it_and_nothing_else() {
        let mut tree = debian();
        tree.insert("usr/bin-old", Entry::dir(0o755)).unwrap();
        assert_eq!(tree.remove("bin").unwrap(), 1);
        assert_eq!(tree.remove("usr/bin").unwrap(), 3);
        assert_eq!(tree.remove("usr/bin").unwrap(), 0);
        assert!(tree.get("usr/bin-old").is_some());
    }

    #[test]
    fn a_file_that_changed_its_length_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"hello").unwrap();
        let content = Content::from_path(&path).unwrap();
        assert_eq!(&*content.read().unwrap(), b"hello");
        for changed in ["hell", "hello!"] {
            std::fs::write(&path, changed).unwrap();
            assert!(matches!(content.read(), Err(TreeError::Read { .. })), "{changed}");
        }
    }

    #[test]
    fn a_piece_of_a_file_is_read_and_one_beyond_its_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path: Arc<Path> = dir.path().join("f").into();
        std::fs::write(&path, b"hello world").unwrap();
        let part = |offset, len| Content::Part { path: path.clone(), offset, len };
        assert_eq!(&*part(6, 5).read().unwrap(), b"world");
        assert_eq!(&*part(3, 0).read().unwrap(), b"");
        assert!(matches!(part(6, 6).read(), Err(TreeError::Read { .. })));
    }
}
