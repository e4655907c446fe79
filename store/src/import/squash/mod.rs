//! A squashfs 4.0 as input: read with distrust, entry by entry, into our writer.
//!
//! Only what the format says is believed, and within bounds: a table is never read beyond a block, a
//! block never becomes longer than it may, a directory is entered once, and names are checked as any
//! tar's. Compressors: gzip, xz, zstd.

mod image;

use self::image::{Contents, Image, Inode, Kind, NONE, bad, list};
use super::{Counts, ImportError, Progress, Result, Writer, guests_id, tarball};
use ::image::squashfs::{Attrs, Special};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    io::{self, Cursor},
    sync::atomic::Ordering,
};

/// Directories within directories.
const DEPTH: usize = 256;

pub(super) fn unpack(file: &File, progress: &Progress, writer: &mut Writer, counts: &mut Counts) -> Result<()> {
    let broken = |source| ImportError::Archive { entries: 0, source };
    let mut image = Image::open(file).map_err(broken)?;
    let root = image.superblock.root;
    let mut walk = Walk { progress, writer, counts, entered: HashSet::new(), links: HashMap::new() };
    walk.entry(&mut image, Vec::new(), root, 0)
}

struct Walk<'w> {
    progress: &'w Progress,
    writer: &'w mut Writer,
    counts: &'w mut Counts,
    entered: HashSet<u64>,
    links: HashMap<u64, Vec<u8>>,
}

impl Walk<'_> {
    fn broken(&self, source: io::Error) -> ImportError {
        ImportError::Archive { entries: self.counts.entries, source }
    }

    fn entry(&mut self, image: &mut Image<'_>, path: Vec<u8>, reference: u64, depth: usize) -> Result<()> {
        if self.progress.stop.load(Ordering::Relaxed) {
            return Err(ImportError::Stopped);
        }
        let inode = image.inode(reference).map_err(|e| self.broken(e))?;
        if inode.links > 1 && !matches!(inode.kind, Kind::Dir { .. } | Kind::Device) {
            if let Some(first) = self.links.get(&reference) {
                self.counts.entry(0)?;
                return self.writer.hard_link(&path, first).map_err(ImportError::Write);
            }
            self.links.insert(reference, path.clone());
        }
        let attrs = self.attributes(image, &inode, &path)?;
        match inode.kind {
            Kind::Dir { block, offset, bytes } => {
                if !self.entered.insert(reference) || depth > DEPTH {
                    return Err(self.broken(bad("a directory contains itself, or is too deep")));
                }
                self.counts.entry(0)?;
                self.writer.dir(&path, &attrs).map_err(ImportError::Write)?;
                let list = list(image, block, offset, bytes).map_err(|e| self.broken(e))?;
                for (name, child) in list {
                    let path = if path.is_empty() { name } else { [&path[..], b"/", &name].concat() };
                    self.entry(image, path, child, depth + 1)?;
                }
                Ok(())
            }
            Kind::File { start, bytes, fragment, offset, blocks } => {
                self.counts.entry(bytes)?;
                let tail = (fragment != NONE).then_some((fragment, offset));
                let (blocks, now) = (blocks.into_iter(), Cursor::new(Vec::new()));
                let contents = Contents { image, at: start, blocks, tail, left: bytes, now };
                self.writer.file(&path, &attrs, contents).map_err(ImportError::Write)
            }
            Kind::Symlink(target) => {
                self.counts.entry(0)?;
                let refuse = |reason| ImportError::Entry { path: tarball::lossy(&path), reason };
                tarball::check_symlink(&path, &target).map_err(refuse)?;
                self.writer.symlink(&path, &attrs, target).map_err(ImportError::Write)
            }
            Kind::Device => {
                self.counts.dropped_devices += 1;
                Ok(())
            }
            Kind::Fifo | Kind::Socket => {
                self.counts.entry(0)?;
                let fifo = matches!(inode.kind, Kind::Fifo);
                let special = if fifo { Special::Fifo } else { Special::Socket };
                self.writer.special(&path, &attrs, special).map_err(ImportError::Write)
            }
        }
    }

    fn attributes(&mut self, image: &mut Image<'_>, inode: &Inode, path: &[u8]) -> Result<Attrs> {
        for (what, id) in [("uid", inode.uid), ("gid", inode.gid)] {
            let refuse = |reason| ImportError::Entry { path: tarball::lossy(path), reason };
            guests_id(what, id.into()).map_err(refuse)?;
        }
        let all = image.xattrs(inode.xattr).map_err(|e| self.broken(e))?;
        let before = all.len() as u64;
        let xattrs: BTreeMap<_, _> = all.into_iter().filter(|(name, _)| tarball::keeps(name)).collect();
        self.counts.dropped_xattrs += before - xattrs.len() as u64;
        Ok(Attrs { mode: inode.mode & 0o7777, uid: inode.uid, gid: inode.gid, mtime: i64::from(inode.mtime), xattrs })
    }
}
