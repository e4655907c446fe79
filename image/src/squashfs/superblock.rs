//! The 96 bytes at the start of an image.

const MAGIC: u32 = 0x7371_7368;
const ZSTD: u16 = 6;

pub const FLAG_NO_FRAGMENTS: u16 = 0x0010;
pub const FLAG_DUPLICATES: u16 = 0x0040;
pub const FLAG_EXPORTABLE: u16 = 0x0080;
pub const FLAG_NO_XATTRS: u16 = 0x0200;

/// Length on disk; the data follows it.
pub const LEN: u64 = 96;

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
