//! dm-verity: a tree of SHA-256 digests over 4096-byte blocks, so that no altered byte of a root is ever read as data.
//!
//! The tree stands behind the data in the same partition, without a superblock: hash block `data_blocks`
//! is the top one, and the levels follow downwards, as `veritysetup --no-superblock` and the kernel's
//! target of version 1 expect. What a node needs besides, root digest, salt and number of blocks, is on
//! its signed command line as `roost.verity=` ([`Verity`] prints and parses the value).

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::str::FromStr;

use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;

/// Bytes of a data block and of a hash block.
pub const BLOCK: u64 = 4096;
const BLOCK_LEN: usize = 4096;
const DIGEST: usize = 32;
const PER_BLOCK: usize = BLOCK_LEN / DIGEST;
/// The kernel's limit.
const SALT_MAX: usize = 256;

/// Why a tree could not be made, or what does not fit it.
#[derive(Debug, Error)]
pub enum VerityError {
    /// The image could not be read.
    #[error("Cannot read block {block} of the verity image")]
    Read {
        /// Block number from the start of the data.
        block: u64,
        /// Why not.
        source: io::Error,
    },
    /// The tree could not be written.
    #[error("Cannot write the verity tree")]
    Write(#[source] io::Error),
    /// Data must be whole blocks.
    #[error("The data is {len} bytes long, expected a multiple of {BLOCK} above 0")]
    Length {
        /// Its length.
        len: u64,
    },
    /// A block of data is not the one that was hashed.
    #[error("Data block {block} is altered: its SHA-256 differs from the one in the verity tree")]
    Data {
        /// Block number.
        block: u64,
    },
    /// A block of the tree is not the one that was made.
    #[error("Block {block} of the verity tree is altered (level {level}): its SHA-256 differs from the one above it")]
    Tree {
        /// Block number from the start of the data.
        block: u64,
        /// 0 is just above the data.
        level: usize,
    },
    /// The top of the tree does not belong to the root hash.
    #[error("The verity tree's top is {found}, expected root hash {expected}")]
    Root {
        /// What the image holds.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// The text is not `ROOT:SALT:BLOCKS`.
    #[error(
        "Verity parameters {text:?} are unusable: {reason}; expected <root hash>:<salt>:<data blocks>, hexadecimal and decimal"
    )]
    Parse {
        /// The text.
        text: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// What identifies a verified image. Its text form is `<root hash hex>:<salt hex>:<data blocks>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verity {
    /// Digest of the top block.
    pub root: [u8; DIGEST],
    /// Hashed before each block; up to 256 bytes.
    pub salt: Vec<u8>,
    /// Number of data blocks; the tree starts at this block.
    pub data_blocks: u64,
}

/// What a kernel command line says of its root: the value of the last `roost.verity=`. Everybody who asks takes it
/// from here, so that what boots, what runs and what is in a slot are never told apart by another word.
#[must_use]
pub fn on_cmdline(text: &str) -> Option<&str> {
    let words = text.split(|c: char| c.is_whitespace() || c == '\0');
    words.filter_map(|word| word.strip_prefix("roost.verity=")).next_back()
}

impl Verity {
    /// The PARTUUID of a partition with this image: the root hash's first 16 bytes, read in the order of the text form.
    #[must_use]
    pub fn partition_uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.root[..16]);
        Uuid::from_bytes(bytes)
    }

    /// Number of blocks in the tree.
    #[must_use]
    pub fn tree_blocks(&self) -> u64 {
        levels(self.data_blocks).iter().sum()
    }

    /// Bytes of data and tree together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        (self.data_blocks + self.tree_blocks()) * BLOCK
    }
}

impl fmt::Display for Verity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", hex(&self.root), hex(&self.salt), self.data_blocks)
    }
}

impl FromStr for Verity {
    type Err = VerityError;

    fn from_str(text: &str) -> Result<Self, VerityError> {
        let bad = |reason| VerityError::Parse { text: text.to_owned(), reason };
        let mut parts = text.split(':');
        let (Some(root), Some(salt), Some(blocks), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad("it has not three parts"));
        };
        let root = unhex(root).and_then(|root| root.try_into().ok()).ok_or(bad("the root hash is not 64 digits"))?;
        let salt = unhex(salt).filter(|salt| salt.len() <= SALT_MAX).ok_or(bad("the salt is not hexadecimal"))?;
        let data_blocks = blocks.parse().ok().filter(|blocks| (1..=u64::MAX / BLOCK / 2).contains(blocks));
        Ok(Self { root, salt, data_blocks: data_blocks.ok_or(bad("the number of blocks is not a usable number"))? })
    }
}

/// Blocks of each level, from the one above the data to the top. One data block needs no level.
fn levels(data_blocks: u64) -> Vec<u64> {
    let mut levels = Vec::new();
    let mut blocks = data_blocks;
    while blocks > 1 {
        blocks = blocks.div_ceil(PER_BLOCK as u64);
        levels.push(blocks);
    }
    levels
}

/// Reads `len` bytes of data from the image's start, and appends their tree behind them.
///
/// # Errors
/// When the data is not whole blocks, or cannot be read, or the tree cannot be written.
pub fn append<F: Read + Write + Seek>(image: &mut F, len: u64, salt: &[u8]) -> Result<Verity, VerityError> {
    if len == 0 || !len.is_multiple_of(BLOCK) {
        return Err(VerityError::Length { len });
    }
    image.seek(SeekFrom::Start(0)).map_err(|source| VerityError::Read { block: 0, source })?;
    let (verity, tree) = tree(image, len / BLOCK, salt)?;
    image.seek(SeekFrom::Start(len)).map_err(VerityError::Write)?;
    image.write_all(&tree).map_err(VerityError::Write)?;
    Ok(verity)
}

/// The tree over the next `data_blocks` blocks of a reader. Held in memory: 1/127 of the data.
///
/// # Errors
/// When the data cannot be read.
pub fn tree(data: &mut impl Read, data_blocks: u64, salt: &[u8]) -> Result<(Verity, Vec<u8>), VerityError> {
    let salted = Sha256::new().chain_update(salt);
    let mut digests = Vec::new();
    let mut block = vec![0; BLOCK_LEN];
    for number in 0..data_blocks {
        data.read_exact(&mut block).map_err(|source| VerityError::Read { block: number, source })?;
        digests.push(digest(&salted, &block));
    }
    let mut levels: Vec<Vec<u8>> = Vec::new();
    while digests.len() > 1 {
        let mut level = Vec::with_capacity(digests.len().div_ceil(PER_BLOCK) * BLOCK_LEN);
        for group in digests.chunks(PER_BLOCK) {
            level.extend(group.as_flattened());
            level.resize(level.len().next_multiple_of(BLOCK_LEN), 0);
        }
        digests = level.chunks(BLOCK_LEN).map(|block| digest(&salted, block)).collect();
        levels.push(level);
    }
    levels.reverse();
    let root = digests.first().copied().unwrap_or_default();
    Ok((Verity { root, salt: salt.to_vec(), data_blocks }, levels.concat()))
}

/// Reads an image, data and tree, from the reader's present position, and checks every digest in it.
///
/// # Errors
/// Names the first block that was altered, or that is missing.
pub fn verify(image: &mut (impl Read + Seek), verity: &Verity) -> Result<(), VerityError> {
    let read = |block, source| VerityError::Read { block, source };
    let base = image.stream_position().map_err(|source| read(0, source))?;
    let expected = levels(verity.data_blocks);
    let mut at = verity.data_blocks;
    image.seek(SeekFrom::Start(base + at * BLOCK)).map_err(|source| read(at, source))?;
    let salted = Sha256::new().chain_update(&verity.salt);
    let mut above: Vec<u8> = verity.root.to_vec();
    for (level, blocks) in expected.iter().enumerate().rev() {
        let mut here = Vec::new();
        for index in 0..*blocks {
            let block = read_block(image).map_err(|source| read(at, source))?;
            let found = digest(&salted, &block);
            if found != above[usize_of(index) * DIGEST..][..DIGEST] {
                return Err(wrong_hash_block(at, level, level + 1 == expected.len(), &found, verity));
            }
            here.extend(block);
            at += 1;
        }
        above = here;
    }
    image.seek(SeekFrom::Start(base)).map_err(|source| read(0, source))?;
    for number in 0..verity.data_blocks {
        let block = read_block(image).map_err(|source| read(number, source))?;
        if digest(&salted, &block) != above[usize_of(number) * DIGEST..][..DIGEST] {
            return Err(VerityError::Data { block: number });
        }
    }
    Ok(())
}

fn wrong_hash_block(block: u64, level: usize, top: bool, found: &[u8], verity: &Verity) -> VerityError {
    if top {
        return VerityError::Root { found: hex(found), expected: hex(&verity.root) };
    }
    VerityError::Tree { block, level }
}

fn read_block(image: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut block = vec![0; BLOCK_LEN];
    image.read_exact(&mut block)?;
    Ok(block)
}

fn digest(salted: &Sha256, block: &[u8]) -> [u8; DIGEST] {
    salted.clone().chain_update(block).finalize().into()
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::process::Command;

    use super::*;

    fn image(blocks: u64) -> (Cursor<Vec<u8>>, Verity) {
        let data: Vec<u8> = (0..blocks * BLOCK).map(|at| (at / 7 + at / 4096) as u8).collect();
        let len = data.len() as u64;
        let mut image = Cursor::new(data);
        let verity = append(&mut image, len, &[7; 32]).unwrap();
        image.set_position(0);
        (image, verity)
    }

    #[track_caller]
    fn check_against_veritysetup(blocks: u64) {
        let (image, verity) = image(blocks);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), image.get_ref()).unwrap();
        let Ok(output) = Command::new("/usr/sbin/veritysetup")
            .args(["verify", "--no-superblock", "--hash=sha256", "--data-block-size=4096", "--hash-block-size=4096"])
            .arg(format!("--data-blocks={blocks}"))
            .arg(format!("--hash-offset={}", blocks * BLOCK))
            .arg(format!("--salt={}", hex(&verity.salt)))
            .args([file.path(), file.path()])
            .arg(hex(&verity.root))
            .output()
        else {
            return;
        };
        assert!(output.status.success(), "{blocks}: {}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn veritysetup_agrees_at_every_depth() {
        for blocks in [2, 127, 128, 129, 128 * 128, 128 * 128 + 1] {
            check_against_veritysetup(blocks);
        }
    }

    #[test]
    fn one_flipped_bit_anywhere_is_found_and_named() {
        let (image, verity) = image(300);
        verify(&mut image.clone(), &verity).unwrap();
        for (at, expect) in [
            (5 * 4096 + 9, "Data block 5 is altered"),
            (300 * 4096 + 1, "The verity tree's top is"),
            (302 * 4096 + 4000, "Block 302 of the verity tree is altered (level 0)"),
        ] {
            let mut bytes = image.get_ref().clone();
            bytes[at] ^= 1;
            let error = verify(&mut Cursor::new(bytes), &verity).unwrap_err().to_string();
            assert!(error.starts_with(expect), "{error}");
        }
    }

    #[test]
    fn a_cut_image_names_the_block_that_is_missing() {
        let (image, verity) = image(300);
        let cut = image.get_ref()[..303 * 4096].to_vec();
        let error = verify(&mut Cursor::new(cut), &verity).unwrap_err();
        assert_eq!(error.to_string(), "Cannot read block 303 of the verity image");
    }

    #[test]
    fn parameters_read_back_from_their_text() {
        let (_, verity) = image(3);
        assert_eq!(verity.to_string().parse::<Verity>().unwrap(), verity);
        assert_eq!(verity.total_bytes(), 4 * BLOCK);
        let uuid = verity.partition_uuid().simple().to_string();
        assert!(verity.to_string().starts_with(&uuid));
        for bad in ["", "ab:cd:3", &verity.to_string()[1..], &format!("{verity}x"), &format!("{verity}:")] {
            assert!(bad.parse::<Verity>().is_err(), "{bad}");
        }
    }
}
