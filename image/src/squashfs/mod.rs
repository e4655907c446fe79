//! A squashfs 4.0 writer: zstd, in parallel, with extended attributes, and always the same bytes for the same entries.
//!
//! Two kinds of callers. A [`Tree`] is written by [`write_tree`]. A stream (a guest image that arrives
//! as tar) goes through [`Writer`]: entries in any order, each file's bytes read once and compressed at
//! once; names and inodes are kept in memory (some hundred bytes an entry) and written by
//! [`Writer::finish`]. Memory for contents is bounded by [`DEDUPE_LIMIT`] and a few blocks per thread.
//!
//! ```text
//! superblock | data and fragment blocks | inodes | directories | fragments | export | ids | xattrs | pad to 4096
//! ```
//!
//! The result does not depend on the number of threads: blocks are compressed one by one, and written in
//! the order in which they were given.

mod error;
mod inode;
mod kept;
mod meta;
mod names;
mod pack;
mod superblock;
mod xattr;

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};

use crate::tree::{Kind, Tree};
use names::{Names, Node, NodeKind};
use pack::Packer;
use superblock::{FLAG_DUPLICATES, FLAG_EXPORTABLE, FLAG_NO_FRAGMENTS, FLAG_NO_XATTRS, Superblock};

pub use error::SquashfsError;
pub use kept::{Block, Kept, index};
pub use pack::DEDUPE_LIMIT;
pub(crate) use pack::block;
pub use superblock::{Info, info};
pub use xattr::is_storable as xattr_is_storable;

/// Images end on a multiple of this, which is also the block of dm-verity.
const PAD: u64 = 4096;

type Result<T> = std::result::Result<T, SquashfsError>;

/// How to write an image.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes per data block: a power of two from 4 KiB to 1 MiB. Larger compresses better and costs more per random read.
    pub block_size: u32,
    /// Zstd level, 1 to 22. 3 to 6 for development, 15 to 19 for a release.
    pub level: i32,
    /// Compressing threads; 0 takes one per processor. Does not change the result.
    pub threads: usize,
    /// Time of the image itself, seconds since 1970.
    pub mtime: u32,
    /// Also pack the last, short block of large files into fragments: smaller, a little slower to read.
    pub pack_tails: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { block_size: 128 << 10, level: 6, threads: 0, mtime: 0, pack_tails: false }
    }
}

impl Options {
    fn check(&self) -> Result<()> {
        let fail = |name, found, expected| Err(SquashfsError::Option { name, found, expected });
        if !self.block_size.is_power_of_two() || !(4096..=1 << 20).contains(&self.block_size) {
            return fail("block_size", i64::from(self.block_size), "a power of two from 4096 to 1048576");
        }
        if !(1..=22).contains(&self.level) {
            return fail("level", i64::from(self.level), "1 to 22");
        }
        Ok(())
    }
}

/// What every entry has besides its kind.
#[derive(Clone, Debug, Default)]
pub struct Attrs {
    /// Permission bits (`0o7777`).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970, clamped to what 32 bits hold.
    pub mtime: i64,
    /// Extended attributes by full name.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// Entries without contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// A character device, major and minor.
    CharDev(u32, u32),
    /// A block device, major and minor.
    BlockDev(u32, u32),
    /// A named pipe.
    Fifo,
    /// A unix socket's name.
    Socket,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Length of the image, padding included.
    pub bytes: u64,
    /// Length that the superblock names, without padding.
    pub used: u64,
    /// Inodes.
    pub inodes: u32,
    /// Sum of the lengths of all files given.
    pub content_bytes: u64,
    /// Files that shared the blocks of an equal one.
    pub duplicates: u64,
    /// What was compressed, for [`index`]; empty without [`Kept`].
    pub blocks: Vec<Block>,
}

/// Writes an image from entries in any order. Missing parents are made (`0755`, root); a second entry of
/// one name replaces the first, as in tar. A directory put over a directory keeps what that holds; anything
/// else over a directory that holds something is refused.
pub struct Writer<W> {
    packer: Packer<W>,
    names: Names,
    xattrs: xattr::Xattrs,
    options: Options,
}

impl<W: Write + Seek> Writer<W> {
    /// Starts an image at the output's present position.
    ///
    /// # Errors
    /// When an option is out of range, or the output cannot be written.
    pub fn new(out: W, options: Options) -> Result<Self> {
        Self::after(out, options, None)
    }

    /// The same, with what an earlier image has compressed at the same level by the same library. With an empty one
    /// nothing is there to take, and an index for the next image is made.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn after(out: W, options: Options, earlier: Option<Kept>) -> Result<Self> {
        options.check()?;
        let packer = Packer::new(out, &options, earlier)?;
        Ok(Self { packer, names: Names::new(), xattrs: xattr::Xattrs::default(), options })
    }

    /// Adds a directory, or changes the attributes of one (the root is the empty path).
    ///
    /// # Errors
    /// When the path or an attribute cannot be stored.
    pub fn dir(&mut self, path: impl AsRef<[u8]>, attrs: &Attrs) -> Result<()> {
        self.add(path.as_ref(), attrs, NodeKind::Dir(BTreeMap::new()))
    }

    /// Adds a regular file, reading its contents to the end.
    ///
    /// # Errors
    /// When it cannot be read, or the output cannot be written.
    pub fn file(&mut self, path: impl AsRef<[u8]>, attrs: &Attrs, contents: impl Read) -> Result<()> {
        let path = path.as_ref();
        // The name first: a bad one should cost no bytes in the image.
        self.add(path, attrs, NodeKind::Special(Special::Fifo))?;
        let file = self.packer.add_file(path, contents)?;
        self.names.set_kind(path, NodeKind::File(file))
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// When the path, the target or an attribute cannot be stored.
    pub fn symlink(&mut self, path: impl AsRef<[u8]>, attrs: &Attrs, target: impl AsRef<[u8]>) -> Result<()> {
        let target = target.as_ref();
        if target.is_empty() || target.len() > 65535 {
            let path = lossy(path.as_ref());
            return Err(SquashfsError::BadPath { path, reason: "its link target is empty or longer than 65535 bytes" });
        }
        self.add(path.as_ref(), attrs, NodeKind::Symlink(target.into()))
    }

    /// Adds a device, pipe or socket.
    ///
    /// # Errors
    /// When the path or an attribute cannot be stored, or a device number has too many bits.
    pub fn special(&mut self, path: impl AsRef<[u8]>, attrs: &Attrs, special: Special) -> Result<()> {
        if let Special::CharDev(major, minor) | Special::BlockDev(major, minor) = special
            && (major > 0xfff || minor > 0xf_ffff)
        {
            let path = lossy(path.as_ref());
            return Err(SquashfsError::BadPath { path, reason: "its device number is larger than 12 and 20 bits" });
        }
        self.add(path.as_ref(), attrs, NodeKind::Special(special))
    }

    /// Adds a second name of an entry that is no directory.
    ///
    /// # Errors
    /// When the target is not there (yet) or is a directory.
    pub fn hard_link(&mut self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Result<()> {
        self.names.link(path.as_ref(), target.as_ref())
    }

    fn add(&mut self, path: &[u8], attrs: &Attrs, kind: NodeKind) -> Result<()> {
        let xattr = self.xattrs.intern(path, &attrs.xattrs)?;
        let mtime = u32::try_from(attrs.mtime.max(0)).unwrap_or(u32::MAX);
        let node = Node { mode: attrs.mode & 0o7777, uid: attrs.uid, gid: attrs.gid, mtime, xattr, links: 1, kind };
        self.names.insert(path, node)
    }

    /// Writes all that follows the data, and gives the output back, positioned behind the padding.
    ///
    /// # Errors
    /// When the output cannot be written or the format cannot count so many.
    pub fn finish(self) -> Result<(W, Summary)> {
        let Self { packer, names, xattrs, options } = self;
        let packed = packer.finish()?;
        let tables = inode::encode(&names, &packed.files, options.level)?;
        let (mut out, base) = (packed.out, packed.base);
        let mut at = packed.position;

        let inode_table = at;
        let directory_table = inode_table + tables.inodes.len() as u64;
        write(&mut out, &tables.inodes)?;
        write(&mut out, &tables.directories)?;
        at = directory_table + tables.directories.len() as u64;

        let (fragment_table, next) = meta::write_table(&mut out, at, &packed.fragments, options.level)?;
        let (export_table, next) = meta::write_table(&mut out, next, &tables.export, options.level)?;
        let (id_table, next) = meta::write_table(&mut out, next, &tables.ids, options.level)?;
        let (xattr_table, used) = xattrs.write(&mut out, next, options.level)?;

        let padding = used.next_multiple_of(PAD) - used;
        write(&mut out, &vec![0; usize::try_from(padding).unwrap_or_default()])?;
        let fragments = u32::try_from(packed.fragments.len() / 16).unwrap_or(u32::MAX);
        let superblock = Superblock {
            inodes: tables.inode_count,
            mtime: options.mtime,
            block_size: options.block_size,
            fragments,
            flags: FLAG_DUPLICATES
                | FLAG_EXPORTABLE
                | if fragments == 0 { FLAG_NO_FRAGMENTS } else { 0 }
                | if xattr_table == u64::MAX { FLAG_NO_XATTRS } else { 0 },
            ids: u16::try_from(tables.ids.len() / 4).unwrap_or(u16::MAX),
            root: tables.root,
            used,
            id_table,
            xattr_table,
            inode_table,
            directory_table,
            fragment_table,
            export_table,
        };
        out.seek(SeekFrom::Start(base)).map_err(SquashfsError::Write)?;
        write(&mut out, &superblock.to_bytes())?;
        out.seek(SeekFrom::Start(base + used + padding)).map_err(SquashfsError::Write)?;
        out.flush().map_err(SquashfsError::Write)?;
        let summary = Summary {
            bytes: used + padding,
            used,
            inodes: tables.inode_count,
            content_bytes: packed.content_bytes,
            duplicates: packed.duplicates,
            blocks: packed.blocks,
        };
        Ok((out, summary))
    }
}

/// Writes a whole tree.
///
/// # Errors
/// When a file cannot be read, an entry cannot be stored, or the output cannot be written.
pub fn write_tree<W: Write + Seek>(out: W, tree: &Tree, options: Options) -> Result<(W, Summary)> {
    write_tree_after(out, tree, options, None)
}

/// The same, with what an earlier image has compressed: see [`Writer::after`].
///
/// # Errors
/// As [`write_tree`].
pub fn write_tree_after<W: Write + Seek>(
    out: W,
    tree: &Tree,
    options: Options,
    earlier: Option<Kept>,
) -> Result<(W, Summary)> {
    let mut writer = Writer::after(out, options, earlier)?;
    for (path, entry) in tree.walk() {
        let attrs = Attrs {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: entry.xattrs.clone(),
        };
        match &entry.kind {
            Kind::Dir => writer.dir(path, &attrs)?,
            Kind::File(content) => writer.file(path, &attrs, content.open()?)?,
            Kind::Symlink(target) => writer.symlink(path, &attrs, target)?,
            Kind::CharDev { major, minor } => writer.special(path, &attrs, Special::CharDev(*major, *minor))?,
            Kind::BlockDev { major, minor } => writer.special(path, &attrs, Special::BlockDev(*major, *minor))?,
            Kind::Fifo => writer.special(path, &attrs, Special::Fifo)?,
            Kind::Socket => writer.special(path, &attrs, Special::Socket)?,
        }
    }
    writer.finish()
}

fn write(out: &mut impl Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).map_err(SquashfsError::Write)
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests;
