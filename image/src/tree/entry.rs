//! One name in a tree, and what a file system stores of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Content;

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

    pub(super) fn owner_name(&self) -> String {
        self.origin.as_deref().unwrap_or("the recipe").to_owned()
    }
}
