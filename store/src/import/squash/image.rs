//! The tables of a squashfs, each field read within its bounds.

use super::super::{BYTES_MAX, tarball};
use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, Cursor, Read},
    os::unix::fs::FileExt,
};

/// Bytes of a metadata block, unpacked.
const META: usize = 8192;
/// Metadata blocks kept unpacked.
const KEPT: usize = 256;
/// "None" as an index.
pub const NONE: u32 = u32::MAX;
/// Largest value of an attribute, as the kernel has it.
const XATTR_MAX: u32 = 65_536;

pub fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[derive(Clone, Copy)]
enum Compressor {
    Gzip,
    Xz,
    Zstd,
}

pub struct Superblock {
    block_size: u32,
    fragments: u32,
    pub root: u64,
    id_table: u64,
    xattr_table: u64,
    inode_table: u64,
    directory_table: u64,
    fragment_table: u64,
}

pub struct Image<'a> {
    file: &'a File,
    pub superblock: Superblock,
    compressor: Compressor,
    ids: Vec<u32>,
    meta: HashMap<u64, (Vec<u8>, u64)>,
    /// The fragment read last: the ends of many files that follow each other lie in one.
    fragment: Option<(u32, Vec<u8>)>,
}

/// What an inode says.
pub struct Inode {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u32,
    pub xattr: u32,
    pub links: u32,
    pub kind: Kind,
}

pub enum Kind {
    Dir { block: u32, offset: u16, bytes: u32 },
    File { start: u64, bytes: u64, fragment: u32, offset: u32, blocks: Vec<u32> },
    Symlink(Vec<u8>),
    Device,
    Fifo,
    Socket,
}

impl<'a> Image<'a> {
    pub fn open(file: &'a File) -> io::Result<Self> {
        let mut head = [0; 96];
        file.read_exact_at(&mut head, 0)?;
        let mut head = Cursor::new(&head[..]);
        let _magic = u32_of(&mut head)?;
        let (_inodes, _mtime) = (u32_of(&mut head)?, u32_of(&mut head)?);
        let (block_size, fragments) = (u32_of(&mut head)?, u32_of(&mut head)?);
        let compressor = match u16_of(&mut head)? {
            1 => Compressor::Gzip,
            4 => Compressor::Xz,
            6 => Compressor::Zstd,
            other => return Err(bad(&format!("compressor {other} is not read here: use gzip, xz or zstd"))),
        };
        let (_log, _flags, ids) = (u16_of(&mut head)?, u16_of(&mut head)?, u16_of(&mut head)?);
        let version = (u16_of(&mut head)?, u16_of(&mut head)?);
        if version != (4, 0) {
            return Err(bad(&format!("squashfs {}.{} is not read here: expected 4.0", version.0, version.1)));
        }
        if !block_size.is_power_of_two() || !(4096..=1 << 20).contains(&block_size) {
            return Err(bad("the block size is out of range"));
        }
        let mut next = || u64_of(&mut head);
        let (root, _used, id_table, xattr_table) = (next()?, next()?, next()?, next()?);
        let (inode_table, directory_table, fragment_table) = (next()?, next()?, next()?);
        let superblock = Superblock {
            block_size,
            fragments,
            root,
            id_table,
            xattr_table,
            inode_table,
            directory_table,
            fragment_table,
        };
        let mut image = Self { file, superblock, compressor, ids: Vec::new(), meta: HashMap::new(), fragment: None };
        image.ids = (0..u64::from(ids))
            .map(|n| image.lookup(image.superblock.id_table, n, 4).and_then(|b| u32_of(&mut &b[..])))
            .collect::<io::Result<_>>()?;
        Ok(image)
    }

    fn expand(&self, packed: &[u8], limit: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let most = limit as u64 + 1;
        match self.compressor {
            Compressor::Gzip => flate2::read::ZlibDecoder::new(packed).take(most).read_to_end(&mut out)?,
            Compressor::Xz => lzma_rust2::XzReader::new(packed, false).take(most).read_to_end(&mut out)?,
            Compressor::Zstd => zstd::Decoder::with_buffer(packed)?.take(most).read_to_end(&mut out)?,
        };
        if out.len() > limit { Err(bad("a block unpacks to more than it may")) } else { Ok(out) }
    }

    /// The metadata block at an absolute position, and where the next one is.
    fn block(&mut self, at: u64) -> io::Result<&(Vec<u8>, u64)> {
        if !self.meta.contains_key(&at) {
            let mut head = [0; 2];
            self.file.read_exact_at(&mut head, at)?;
            let head = u16::from_le_bytes(head);
            let mut bytes = vec![0; usize::from(head & 0x7fff)];
            if bytes.is_empty() || bytes.len() > META {
                return Err(bad("a metadata block has no legal length"));
            }
            self.file.read_exact_at(&mut bytes, at + 2)?;
            let next = at + 2 + bytes.len() as u64;
            let bytes = if head & 0x8000 != 0 { bytes } else { self.expand(&bytes, META)? };
            if self.meta.len() >= KEPT {
                self.meta.clear();
            }
            self.meta.insert(at, (bytes, next));
        }
        self.meta.get(&at).ok_or_else(|| bad("a metadata block is gone"))
    }

    /// `bytes` of metadata from a block's offset on, over as many blocks as it takes; then where it goes on.
    fn metadata(&mut self, mut at: u64, mut offset: usize, bytes: usize) -> io::Result<(Vec<u8>, u64, usize)> {
        let mut out = Vec::with_capacity(bytes.min(1 << 20));
        loop {
            let (block, next) = self.block(at)?;
            let rest = block.get(offset..).ok_or_else(|| bad("an offset lies behind its metadata block"))?;
            let take = rest.len().min(bytes - out.len());
            out.extend_from_slice(&rest[..take]);
            if out.len() == bytes {
                return Ok((out, at, offset + take));
            }
            (at, offset) = (*next, 0);
        }
    }

    /// Entry `n` of a table whose blocks are listed at `table`.
    fn lookup(&mut self, table: u64, n: u64, size: usize) -> io::Result<Vec<u8>> {
        let per_block = (META / size) as u64;
        let mut pointer = [0; 8];
        let at = table.checked_add(n / per_block * 8).ok_or_else(|| bad("a table lies nowhere"))?;
        self.file.read_exact_at(&mut pointer, at)?;
        let offset = (n % per_block) as usize * size;
        Ok(self.metadata(u64::from_le_bytes(pointer), offset, size)?.0)
    }

    pub fn inode(&mut self, reference: u64) -> io::Result<Inode> {
        let start = self.superblock.inode_table;
        MetaReader::at(self, start, reference)?.inode()
    }

    pub fn xattrs(&mut self, index: u32) -> io::Result<BTreeMap<String, Vec<u8>>> {
        let table = self.superblock.xattr_table;
        if index == NONE || table == u64::MAX {
            return Ok(BTreeMap::new());
        }
        let mut head = [0; 16];
        self.file.read_exact_at(&mut head, table)?;
        let (start, count) = (u64_of(&mut &head[..])?, u32_of(&mut &head[8..])?);
        if index >= count {
            return Err(bad("an inode's attributes are not in the table"));
        }
        let entry = self.lookup(table + 16, u64::from(index), 16)?;
        let (reference, pairs) = (u64_of(&mut &entry[..])?, u32_of(&mut &entry[8..])?);
        let mut reader = MetaReader::at(self, start, reference)?;
        let mut found = BTreeMap::new();
        for _ in 0..pairs.min(1024) {
            let (kind, name) = (reader.u16()?, reader.u16()?);
            let name = reader.bytes(usize::from(name))?;
            let value = reader.xattr_value(start, kind & 0x100 != 0)?;
            let prefix = match kind & 0xff {
                0 => "user.",
                1 => "trusted.",
                2 => "security.",
                _ => return Err(bad("an attribute has an unknown prefix")),
            };
            let name = String::from_utf8(name).map_err(|_| bad("an attribute's name is no text"))?;
            found.insert(format!("{prefix}{name}"), value);
        }
        Ok(found)
    }

    fn data(&self, at: u64, size: u32) -> io::Result<Vec<u8>> {
        let (packed, limit) = (size & 0xff_ffff, self.superblock.block_size);
        if packed > limit {
            return Err(bad("a data block is longer than it may be"));
        }
        let mut bytes = vec![0; packed as usize];
        self.file.read_exact_at(&mut bytes, at)?;
        if size & 0x100_0000 != 0 { Ok(bytes) } else { self.expand(&bytes, limit as usize) }
    }

    fn fragment(&mut self, index: u32) -> io::Result<&[u8]> {
        if index >= self.superblock.fragments {
            return Err(bad("a fragment is not in the table"));
        }
        let bytes = match self.fragment.take().filter(|(kept, _)| *kept == index) {
            Some((_, bytes)) => bytes,
            None => {
                let entry = self.lookup(self.superblock.fragment_table, u64::from(index), 16)?;
                self.data(u64_of(&mut &entry[..])?, u32_of(&mut &entry[8..])?)?
            }
        };
        Ok(&self.fragment.insert((index, bytes)).1)
    }
}

/// Metadata read one field after the other.
struct MetaReader<'i, 'a> {
    image: &'i mut Image<'a>,
    at: u64,
    offset: usize,
}

impl<'i, 'a> MetaReader<'i, 'a> {
    fn at(image: &'i mut Image<'a>, start: u64, reference: u64) -> io::Result<Self> {
        let at = start.checked_add(reference >> 16).ok_or_else(|| bad("a reference leads nowhere"))?;
        Ok(Self { image, at, offset: (reference & 0xffff) as usize })
    }

    fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let (bytes, at, offset) = self.image.metadata(self.at, self.offset, count)?;
        (self.at, self.offset) = (at, offset);
        Ok(bytes)
    }

    fn u16(&mut self) -> io::Result<u16> {
        u16_of(&mut &self.bytes(2)?[..])
    }

    fn u32(&mut self) -> io::Result<u32> {
        u32_of(&mut &self.bytes(4)?[..])
    }

    fn u64(&mut self) -> io::Result<u64> {
        u64_of(&mut &self.bytes(8)?[..])
    }

    fn xattr_value(&mut self, start: u64, elsewhere: bool) -> io::Result<Vec<u8>> {
        let size = self.u32()?;
        if size > XATTR_MAX {
            return Err(bad("an attribute is longer than 64 KiB"));
        }
        if !elsewhere {
            return self.bytes(size as usize);
        }
        let reference = self.u64()?;
        MetaReader::at(self.image, start, reference)?.xattr_value(start, false)
    }

    fn inode(&mut self) -> io::Result<Inode> {
        let (number, mode, uid, gid) = (self.u16()?, self.u16()?, self.u16()?, self.u16()?);
        let (mtime, _inode) = (self.u32()?, self.u32()?);
        let id = |image: &Image<'_>, index: u16| {
            image.ids.get(usize::from(index)).copied().ok_or_else(|| bad("an owner is not in the table"))
        };
        let (uid, gid) = (id(self.image, uid)?, id(self.image, gid)?);
        let mut inode = Inode { mode, uid, gid, mtime, xattr: NONE, links: 1, kind: Kind::Device };
        let extended = number > 7;
        inode.kind = match number {
            1 => {
                let (block, _links, bytes, offset) = (self.u32()?, self.u32()?, self.u16()?, self.u16()?);
                Kind::Dir { block, offset, bytes: u32::from(bytes) }
            }
            8 => {
                let (_links, bytes, block, _parent) = (self.u32()?, self.u32()?, self.u32()?, self.u32()?);
                let (_index, offset) = (self.u16()?, self.u16()?);
                inode.xattr = self.u32()?;
                Kind::Dir { block, offset, bytes }
            }
            2 => {
                let (start, fragment, offset, bytes) = (self.u32()?, self.u32()?, self.u32()?, self.u32()?);
                self.file(u64::from(start), u64::from(bytes), fragment, offset)?
            }
            9 => {
                let (start, bytes, _sparse) = (self.u64()?, self.u64()?, self.u64()?);
                inode.links = self.u32()?;
                let (fragment, offset) = (self.u32()?, self.u32()?);
                inode.xattr = self.u32()?;
                self.file(start, bytes, fragment, offset)?
            }
            3 | 10 => {
                inode.links = self.u32()?;
                let size = self.u32()?;
                if size > 65_535 {
                    return Err(bad("a symbolic link is longer than 65535 bytes"));
                }
                let target = self.bytes(size as usize)?;
                inode.xattr = if extended { self.u32()? } else { NONE };
                Kind::Symlink(target)
            }
            4 | 5 | 11 | 12 => Kind::Device,
            6 | 7 | 13 | 14 => {
                inode.links = self.u32()?;
                inode.xattr = if extended { self.u32()? } else { NONE };
                if matches!(number, 6 | 13) { Kind::Fifo } else { Kind::Socket }
            }
            other => return Err(bad(&format!("an inode has the unknown type {other}"))),
        };
        Ok(inode)
    }

    fn file(&mut self, start: u64, bytes: u64, fragment: u32, offset: u32) -> io::Result<Kind> {
        let size = u64::from(self.image.superblock.block_size);
        let count = if fragment == NONE { bytes.div_ceil(size) } else { bytes / size };
        // A list longer than the file it lies in is a lie, found out before it is read.
        if count * 4 > self.image.file.metadata()?.len().saturating_mul(1024) || bytes > BYTES_MAX {
            return Err(bad("a file is longer than any can be"));
        }
        let blocks = (0..count).map(|_| self.u32()).collect::<io::Result<_>>()?;
        Ok(Kind::File { start, bytes, fragment, offset, blocks })
    }
}

/// A file's contents, block by block.
pub struct Contents<'i, 'a> {
    pub image: &'i mut Image<'a>,
    pub at: u64,
    pub blocks: std::vec::IntoIter<u32>,
    pub tail: Option<(u32, u32)>,
    pub left: u64,
    pub now: Cursor<Vec<u8>>,
}

impl Contents<'_, '_> {
    /// The next block; empty at the end.
    fn next(&mut self) -> io::Result<Vec<u8>> {
        let block_size = u64::from(self.image.superblock.block_size);
        let wanted = self.left.min(block_size);
        let bytes = match (self.blocks.next(), self.tail) {
            _ if wanted == 0 => return Ok(Vec::new()),
            (Some(0), _) => vec![0; wanted as usize],
            (Some(size), _) => {
                let bytes = self.image.data(self.at, size)?;
                self.at += u64::from(size & 0xff_ffff);
                bytes
            }
            (None, Some((fragment, offset))) => {
                let whole = self.image.fragment(fragment)?;
                let piece =
                    (offset as usize).checked_add(wanted as usize).and_then(|end| whole.get(offset as usize..end));
                piece.ok_or_else(|| bad("a file's end lies outside of its fragment"))?.to_vec()
            }
            (None, None) => return Err(bad("a file has too few blocks")),
        };
        if bytes.len() as u64 != wanted {
            return Err(bad("a block has not the length it should have"));
        }
        self.left -= wanted;
        Ok(bytes)
    }
}

impl Read for Contents<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.now.position() == self.now.get_ref().len() as u64 {
            self.now = Cursor::new(self.next()?);
        }
        self.now.read(buffer)
    }
}

/// Names in a directory with references to their inodes.
pub fn list(image: &mut Image<'_>, block: u32, offset: u16, bytes: u32) -> io::Result<Vec<(Vec<u8>, u64)>> {
    // The length counts three bytes for "." and "..", which are not there.
    let mut left = u64::from(bytes).saturating_sub(3);
    let start = image.superblock.directory_table;
    let mut reader = MetaReader::at(image, start, u64::from(block) << 16 | u64::from(offset))?;
    let mut spend = |bytes: u64| {
        left = left.checked_sub(bytes).ok_or_else(|| bad("a directory is longer than it says"))?;
        Ok::<_, io::Error>(left)
    };
    let mut names = Vec::new();
    while spend(0)? > 0 {
        spend(12)?;
        let (count, start, _inode) = (reader.u32()?, reader.u32()?, reader.u32()?);
        if count >= 256 {
            return Err(bad("a directory's run is longer than 256 names"));
        }
        for _ in 0..=count {
            let (offset, _number, _kind, size) = (reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?);
            let name = reader.bytes(usize::from(size) + 1)?;
            spend(8 + name.len() as u64)?;
            if name.len() > 255 || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
                return Err(bad(&format!("{:?} is no file name", tarball::lossy(&name))));
            }
            names.push((name, u64::from(start) << 16 | u64::from(offset)));
        }
    }
    Ok(names)
}

fn u16_of(reader: &mut impl Read) -> io::Result<u16> {
    let mut bytes = [0; 2];
    reader.read_exact(&mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}

fn u32_of(reader: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    reader.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn u64_of(reader: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    reader.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
