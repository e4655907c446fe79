//! Inodes and directory listings.
//!
//! Directories are taken children first. For each, the inodes of all its entries are written next to one
//! another and numbered in the order of their names (small steps, one seek for `ls -l`), then its listing;
//! its own inode follows with its siblings. The root's comes last.

use std::collections::BTreeMap;

use super::meta::{MetaWriter, Position};
use super::names::{Names, Node, NodeId, NodeKind, ROOT};
use super::pack::FileBlocks;
use super::{Result, Special, SquashfsError, xattr};

const BLOCK: u32 = 8192;
/// Entries behind one listing header.
const RUN_MAX: usize = 256;

/// Encoded tables.
pub struct Tables {
    pub inodes: Vec<u8>,
    pub directories: Vec<u8>,
    /// References of all inodes by number.
    pub export: Vec<u8>,
    pub ids: Vec<u8>,
    pub inode_count: u32,
    pub root: u64,
}

#[derive(Clone, Copy, Default)]
struct Listing {
    at: Position,
    len: u32,
}

struct IndexEntry {
    offset: u32,
    block: u32,
    name: Box<[u8]>,
}

struct Encoder<'a> {
    names: &'a Names,
    files: &'a [FileBlocks],
    inodes: MetaWriter,
    directories: MetaWriter,
    /// Inode number by node; 0 is not yet given.
    numbers: Vec<u32>,
    parents: Vec<NodeId>,
    places: Vec<Option<Position>>,
    listings: BTreeMap<NodeId, (Listing, Vec<IndexEntry>)>,
    ids: Vec<u32>,
    id_index: BTreeMap<u32, u16>,
    export: Vec<u8>,
}

/// Encodes all inodes and listings.
pub fn encode(names: &Names, files: &[FileBlocks], level: i32) -> Result<Tables> {
    let mut encoder = Encoder {
        names,
        files,
        inodes: MetaWriter::new(level)?,
        directories: MetaWriter::new(level)?,
        numbers: vec![0; names.len()],
        parents: vec![ROOT; names.len()],
        places: vec![None; names.len()],
        listings: BTreeMap::new(),
        ids: Vec::new(),
        id_index: BTreeMap::new(),
        export: Vec::new(),
    };
    let order = encoder.children_first();
    let inode_count = encoder.give_numbers(&order)?;
    for dir in order {
        encoder.directory(dir)?;
    }
    let root = encoder.inode(ROOT, inode_count)?;
    let Encoder { inodes, directories, export, ids, .. } = encoder;
    Ok(Tables {
        inodes: inodes.finish()?.0,
        directories: directories.finish()?.0,
        export,
        ids: ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
        inode_count,
        root: root.reference(),
    })
}

impl Encoder<'_> {
    /// All directories, each after those it holds. Not recursive: depth comes from the input.
    fn children_first(&mut self) -> Vec<NodeId> {
        let mut order = Vec::new();
        let mut stack = vec![ROOT];
        while let Some(dir) = stack.pop() {
            order.push(dir);
            for child in self.names.node(dir).children().into_iter().flat_map(BTreeMap::values) {
                if self.names.node(*child).children().is_some() {
                    self.parents[*child] = dir;
                    stack.push(*child);
                }
            }
        }
        order.reverse();
        order
    }

    fn give_numbers(&mut self, order: &[NodeId]) -> Result<u32> {
        let mut next: u32 = 1;
        for dir in order {
            for child in self.names.node(*dir).children().into_iter().flat_map(BTreeMap::values) {
                if self.numbers[*child] == 0 {
                    self.numbers[*child] = next;
                    next = next.checked_add(1).ok_or(too_many("inodes", u64::from(u32::MAX)))?;
                }
            }
        }
        self.numbers[ROOT] = next;
        Ok(next)
    }

    /// Writes the inodes of a directory's entries, then its listing.
    fn directory(&mut self, dir: NodeId) -> Result<()> {
        let names = self.names;
        let Some(children) = names.node(dir).children() else { return Ok(()) };
        let mut entries = Vec::with_capacity(children.len());
        for (name, child) in children {
            let place = match self.places[*child] {
                Some(place) => place,
                None => self.inode(*child, 0)?,
            };
            entries.push((&**name, *child, place));
        }
        let listing = self.listing(&entries)?;
        self.listings.insert(dir, listing);
        Ok(())
    }

    fn listing(&mut self, entries: &[(&[u8], NodeId, Position)]) -> Result<(Listing, Vec<IndexEntry>)> {
        let at = self.directories.position()?;
        let mut index: Vec<IndexEntry> = Vec::new();
        let mut len = 0u32;
        let mut rest = entries;
        while let Some((name, first, place)) = rest.first() {
            let base = self.numbers[*first];
            let run = rest
                .iter()
                .take(RUN_MAX)
                .take_while(|(_, node, at)| at.block == place.block && step(base, self.numbers[*node]).is_some())
                .count();
            let (now, later) = rest.split_at(run.max(1));
            rest = later;
            // One index entry for the first header in each further block, so a search can skip to it.
            let block = (u32::from(at.offset) + len) / BLOCK;
            let indexed = index.last().map_or(0, |last| (u32::from(at.offset) + last.offset) / BLOCK);
            if block > indexed && index.len() < usize::from(u16::MAX) {
                index.push(IndexEntry { offset: len, block: self.directories.position()?.block, name: (*name).into() });
            }
            let bytes = self.run(base, place.block, now);
            self.directories.write(&bytes)?;
            len = len
                .checked_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX))
                .filter(|len| *len < u32::MAX - 3)
                .ok_or(too_many("bytes in one directory", u64::from(u32::MAX)))?;
        }
        Ok((Listing { at, len }, index))
    }

    /// One header with the entries behind it.
    fn run(&self, base: u32, block: u32, entries: &[(&[u8], NodeId, Position)]) -> Vec<u8> {
        let mut out = Vec::new();
        let count = u32::try_from(entries.len() - 1).unwrap_or_default();
        for word in [count, block, base] {
            out.extend(word.to_le_bytes());
        }
        for (name, node, place) in entries {
            out.extend(place.offset.to_le_bytes());
            out.extend(step(base, self.numbers[*node]).unwrap_or_default().to_le_bytes());
            out.extend(basic_type(self.names.node(*node)).to_le_bytes());
            out.extend(u16::try_from(name.len() - 1).unwrap_or_default().to_le_bytes());
            out.extend_from_slice(name);
        }
        out
    }

    fn inode(&mut self, id: NodeId, inode_count: u32) -> Result<Position> {
        let names = self.names;
        let node = names.node(id);
        let (extended, body) = match &node.kind {
            NodeKind::Dir(_) => self.dir_body(id, node, inode_count),
            NodeKind::File(file) => file_body(node, &self.files[*file as usize]),
            NodeKind::Symlink(target) => symlink_body(node, target),
            NodeKind::Special(special) => special_body(node, *special),
        };
        let mut head = Vec::with_capacity(16 + body.len());
        head.extend((basic_type(node) + if extended { 7 } else { 0 }).to_le_bytes());
        head.extend(node.mode.to_le_bytes());
        head.extend(self.id(node.uid)?.to_le_bytes());
        head.extend(self.id(node.gid)?.to_le_bytes());
        head.extend(node.mtime.to_le_bytes());
        head.extend(self.numbers[id].to_le_bytes());
        let place = self.inodes.position()?;
        self.inodes.write(&head)?;
        self.inodes.write(&body)?;
        self.places[id] = Some(place);
        let at = (self.numbers[id] as usize - 1) * 8;
        if self.export.len() < at + 8 {
            self.export.resize(at + 8, 0);
        }
        self.export[at..at + 8].copy_from_slice(&place.reference().to_le_bytes());
        Ok(place)
    }

    fn id(&mut self, id: u32) -> Result<u16> {
        if let Some(index) = self.id_index.get(&id) {
            return Ok(*index);
        }
        let index = u16::try_from(self.ids.len()).ok().filter(|index| *index < u16::MAX);
        let index = index.ok_or(too_many("owners and groups", u64::from(u16::MAX)))?;
        self.ids.push(id);
        self.id_index.insert(id, index);
        Ok(index)
    }

    fn dir_body(&self, id: NodeId, node: &Node, inode_count: u32) -> (bool, Vec<u8>) {
        let empty = (Listing::default(), Vec::new());
        let (listing, index) = self.listings.get(&id).unwrap_or(&empty);
        let subdirs = node
            .children()
            .map_or(0, |children| children.values().filter(|id| self.names.node(**id).children().is_some()).count());
        let links = u32::try_from(subdirs + 2).unwrap_or(u32::MAX);
        // The root's parent is a number that no inode has.
        let parent = if id == ROOT { inode_count + 1 } else { self.numbers[self.parents[id]] };
        let size = listing.len + 3;
        let mut out = Vec::new();
        if let (Ok(size), true, NONE) = (u16::try_from(size), index.is_empty(), node.xattr) {
            words(&mut out, &[listing.at.block, links]);
            out.extend(size.to_le_bytes());
            out.extend(listing.at.offset.to_le_bytes());
            words(&mut out, &[parent]);
            return (false, out);
        }
        words(&mut out, &[links, size, listing.at.block, parent]);
        out.extend(u16::try_from(index.len()).unwrap_or_default().to_le_bytes());
        out.extend(listing.at.offset.to_le_bytes());
        words(&mut out, &[node.xattr]);
        for entry in index {
            words(&mut out, &[entry.offset, entry.block, u32::try_from(entry.name.len() - 1).unwrap_or_default()]);
            out.extend_from_slice(&entry.name);
        }
        (true, out)
    }
}

const NONE: u32 = xattr::NONE;

fn file_body(node: &Node, file: &FileBlocks) -> (bool, Vec<u8>) {
    let (fragment, offset) = file.fragment.unwrap_or((u32::MAX, 0));
    let mut out = Vec::new();
    let plain = node.links == 1 && node.xattr == NONE && file.sparse == 0;
    let short = (u32::try_from(file.start), u32::try_from(file.len));
    let extended = match short {
        (Ok(start), Ok(len)) if plain => {
            words(&mut out, &[start, fragment, offset, len]);
            false
        }
        _ => {
            for long in [file.start, file.len, file.sparse] {
                out.extend(long.to_le_bytes());
            }
            words(&mut out, &[node.links, fragment, offset, node.xattr]);
            true
        }
    };
    words(&mut out, &file.sizes);
    (extended, out)
}

fn symlink_body(node: &Node, target: &[u8]) -> (bool, Vec<u8>) {
    let mut out = Vec::new();
    words(&mut out, &[node.links, u32::try_from(target.len()).unwrap_or_default()]);
    out.extend_from_slice(target);
    with_xattr(node, out)
}

fn special_body(node: &Node, special: Special) -> (bool, Vec<u8>) {
    let mut out = Vec::new();
    words(&mut out, &[node.links]);
    if let Special::CharDev(major, minor) | Special::BlockDev(major, minor) = special {
        // The kernel's own packing: eight low bits of the minor, twelve of the major, the minor's rest.
        words(&mut out, &[minor & 0xff | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12]);
    }
    with_xattr(node, out)
}

fn with_xattr(node: &Node, mut out: Vec<u8>) -> (bool, Vec<u8>) {
    let extended = node.xattr != NONE;
    if extended {
        words(&mut out, &[node.xattr]);
    }
    (extended, out)
}

fn basic_type(node: &Node) -> u16 {
    match &node.kind {
        NodeKind::Dir(_) => 1,
        NodeKind::File(_) => 2,
        NodeKind::Symlink(_) => 3,
        NodeKind::Special(Special::BlockDev(..)) => 4,
        NodeKind::Special(Special::CharDev(..)) => 5,
        NodeKind::Special(Special::Fifo) => 6,
        NodeKind::Special(Special::Socket) => 7,
    }
}

/// The step from a header's number to an entry's, when sixteen bits hold it.
fn step(base: u32, number: u32) -> Option<i16> {
    i16::try_from(i64::from(number) - i64::from(base)).ok()
}

fn words(out: &mut Vec<u8>, words: &[u32]) {
    for word in words {
        out.extend(word.to_le_bytes());
    }
}

fn too_many(what: &'static str, limit: u64) -> SquashfsError {
    SquashfsError::TooMany { what, found: limit + 1, limit }
}
