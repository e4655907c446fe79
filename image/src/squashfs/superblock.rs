//! The 96 bytes at the start of an image.

const MAGIC: u32 = 0x7371_7368;
const ZSTD: u16 = 6;

pub const FLAG_NO_FRAGMENTS: u16 = 0x0010;
pub const FLAG_DUPLICATES: u16 = 0x0040;
pub const FLAG_EXPORTABLE: u16 = 0x0080;
pub const FLAG_NO_XATTRS: u16 = 0x0200;

/// Length on disk; the data follows it.
pub const LEN: u64 = 96;

/// What the start of an image tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Bytes of the image, without padding.
    pub used: u64,
    /// Inodes in it.
    pub inodes: u32,
    /// Bytes per data block.
    pub block_size: u32,
    /// Time of its making, seconds since 1970.
    pub mtime: u32,
    /// Whether blocks are compressed by zstd, as ours are.
    pub zstd: bool,
}

/// Reads the first 96 bytes of an image. `None`: this is no squashfs 4.0.
#[must_use]
pub fn info(start: &[u8]) -> Option<Info> {
    let bytes: &[u8; 96] = start.get(..96)?.try_into().ok()?;
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if word(0) != MAGIC || bytes[28..32] != [4, 0, 0, 0] {
        return None;
    }
    let used = u64::from(word(40)) | u64::from(word(44)) << 32;
    let zstd = u16::from_le_bytes([bytes[20], bytes[21]]) == ZSTD;
    Some(Info { used, inodes: word(4), block_size: word(12), mtime: word(8), zstd })
}

pub struct Superblock {
    pub inodes: u32,
    pub mtime: u32,
    pub block_size: u32,
    pub fragments: u32,
    pub flags: u16,
    pub ids: u16,
    /// Reference of the root's inode.
    pub root: u64,
    pub used: u64,
    pub id_table: u64,
    pub xattr_table: u64,
    pub inode_table: u64,
    pub directory_table: u64,
    pub fragment_table: u64,
    pub export_table: u64,
}

impl Superblock {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        for word in [MAGIC, self.inodes, self.mtime, self.block_size, self.fragments] {
            out.extend(word.to_le_bytes());
        }
        let log = u16::try_from(self.block_size.trailing_zeros()).unwrap_or_default();
        for half in [ZSTD, log, self.flags, self.ids, 4, 0] {
            out.extend(half.to_le_bytes());
        }
        for long in [
            self.root,
            self.used,
            self.id_table,
            self.xattr_table,
            self.inode_table,
            self.directory_table,
            self.fragment_table,
            self.export_table,
        ] {
            out.extend(long.to_le_bytes());
        }
        out
    }
}
