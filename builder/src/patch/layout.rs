//! Where a squashfs has its files' blocks.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek};

use backhand::{BackhandError, DataSize, FilesystemReader, InnerNode};
use image::patch::Extent;

/// In an inode: nothing of it is in a fragment.
const NO_FRAGMENT: usize = u32::MAX as usize;

/// One squashfs.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// Bytes of a block, unpacked.
    pub block_size: u32,
    /// Files with bytes, by path without a slash in front.
    pub files: BTreeMap<String, Content>,
    /// Blocks that hold the short files, several each.
    pub fragments: Vec<Extent>,
}

/// What a file consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Its blocks; none for one of zeros, which is nowhere.
    pub blocks: Vec<Option<Extent>>,
    /// Bytes in its blocks, unpacked.
    pub bytes: u64,
    /// The fragment with the rest of it.
    pub fragment: Option<usize>,
}

impl Layout {
    /// Reads the tables of a squashfs.
    pub fn read(squashfs: impl Read + Seek + Send) -> Result<Self, BackhandError> {
        let reader = FilesystemReader::from_reader(BufReader::new(squashfs))?;
        let mut layout = Self { block_size: reader.block_size, ..Self::default() };
        let fragments = reader.fragments.iter().flatten();
        layout.fragments = fragments.map(|fragment| extent(fragment.start, fragment.size)).collect();
        for node in reader.files() {
            let InnerNode::File(file) = &node.inner else { continue };
            let mut at = file.blocks_start();
            let mut content = Content::default();
            for size in file.block_sizes() {
                content.blocks.push((size.size() > 0).then(|| extent(at, *size)));
                at += u64::from(size.size());
            }
            content.fragment = (file.frag_index() != NO_FRAGMENT).then(|| file.frag_index());
            content.bytes = match content.fragment {
                Some(_) => content.blocks.len() as u64 * u64::from(layout.block_size),
                None => file.file_len() as u64,
            };
            let path = node.fullpath.to_string_lossy().trim_start_matches('/').to_owned();
            layout.files.insert(path, content);
        }
        Ok(layout)
    }
}

fn extent(at: u64, size: DataSize) -> Extent {
    Extent { at, len: size.size(), stored: size.uncompressed() }
}
