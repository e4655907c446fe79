//! Where things lie in a node's root image: blocks that a boot cannot do without.

use super::{LabError, file};
use backhand::{FilesystemReader, InnerNode, SquashfsFileReader};
use image::verity::{BLOCK, Verity};
use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

/// The program that every boot executes from the root.
const PID_1: &str = "/usr/lib/roost/node-init";

/// Offsets in the root partition, each of a byte that every boot reads.
#[derive(Clone, Debug)]
pub struct Landmarks {
    /// In squashfs' superblock.
    pub superblock: u64,
    /// In the block of inodes that is written last, where the root folder's is.
    pub inodes: u64,
    /// In the table of owners.
    pub owners: u64,
    /// In the code of PID 1.
    pub pid_1: u64,
    /// In the top block of the hash tree, of which the root hash is made.
    pub tree_top: u64,
    /// In the hash of the superblock's block.
    pub tree_leaf: u64,
}

impl Landmarks {
    /// Those of a node image's root.
    pub fn of(image: &Path) -> Result<Self, LabError> {
        let path = image.with_extension("root.squashfs");
        let verity = verity(&image.with_extension("cmdline"))?;
        let mut start = [0; 96];
        file("read", &path, |p| File::open(p)?.read_exact(&mut start))?;
        let word = |at: usize| start[at..at + 8].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        // Position of the root folder's inode: the block's distance from the table's start, then 16 bits within it.
        let inodes = word(64) + (word(32) >> 16);
        let top = verity.data_blocks * BLOCK;
        // The superblock's own level is the last and widest: each block of it covers 128 blocks.
        let leaves = verity.data_blocks.div_ceil(128);
        let blocks = verity.data_blocks + verity.tree_blocks();
        Ok(Self {
            // The image's date: nothing but its hash would tell that it changed.
            superblock: 8,
            inodes: inodes + 2,
            owners: word(48) - 4,
            pid_1: pid_1(&path)?,
            tree_top: top,
            tree_leaf: (blocks - leaves) * BLOCK,
        })
    }
}

fn verity(cmdline: &Path) -> Result<Verity, LabError> {
    let text = file("read", cmdline, std::fs::read_to_string)?;
    let value = text.split_whitespace().find_map(|w| w.strip_prefix("roost.verity="));
    value.and_then(|v| v.parse().ok()).ok_or_else(|| LabError::Answer {
        peer: cmdline.display().to_string(),
        found: text.clone(),
        expected: "roost.verity=...".to_owned(),
    })
}

/// A byte of the first block of PID 1's code.
fn pid_1(path: &Path) -> Result<u64, LabError> {
    let image = BufReader::new(file("open", path, File::open)?);
    let misfit = |found: String| LabError::Answer {
        peer: path.display().to_string(),
        found,
        expected: format!("a squashfs with {PID_1}"),
    };
    let reader = FilesystemReader::from_reader(image).map_err(|e| misfit(e.to_string()))?;
    let node = reader.files().find(|node| node.fullpath == Path::new(PID_1));
    match node.map(|node| &node.inner) {
        Some(InnerNode::File(SquashfsFileReader::Basic(file))) => Ok(u64::from(file.blocks_start) + 64),
        Some(InnerNode::File(SquashfsFileReader::Extended(file))) => Ok(file.blocks_start + 64),
        _ => Err(misfit("none".to_owned())),
    }
}
