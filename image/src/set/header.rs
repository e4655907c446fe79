//! The first 4096 bytes: where the sections are.

use std::ops::Range;

use super::SetError;

/// Bytes of the header, and what every section's offset is a multiple of.
pub const HEADER: usize = 4096;
/// Bytes kept for signatures, so that one more can be added without moving what follows.
pub const SIGNATURES_MAX: u64 = 16 << 10;
/// A manifest is some hundred bytes.
const MANIFEST_MAX: u64 = 64 << 10;
/// More than any root's chunks need.
const CHUNKS_MAX: u64 = 16 << 20;
/// PE counts in 32 bits; a root has its slot's limit elsewhere.
const UKI_MAX: u64 = 1 << 32;

const MAGIC: &[u8; 8] = b"ROOSTSET";
const VERSION: u32 = 1;

/// The sections, in the order in which they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// What is signed.
    Manifest,
    /// By whom.
    Signatures,
    /// The chunk table.
    Chunks,
    /// The kernel with its initrd and command line.
    Uki,
    /// Squashfs and verity tree.
    Root,
    /// What makes the root out of earlier ones. Who does not know it misses nothing.
    Patches,
}

/// How many sections there are.
const COUNT: usize = 6;
const ALL: [Section; COUNT] =
    [Section::Manifest, Section::Signatures, Section::Chunks, Section::Uki, Section::Root, Section::Patches];

impl Section {
    /// For messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        ["manifest", "signatures", "chunk table", "UKI", "root", "patches"][self as usize]
    }

    fn max(self) -> u64 {
        [MANIFEST_MAX, SIGNATURES_MAX, CHUNKS_MAX, UKI_MAX, u64::MAX / 4, u64::MAX / 4][self as usize]
    }

    /// Bytes that it occupies at least: the signatures' room stays theirs.
    fn room(self, len: u64) -> u64 {
        if self == Self::Signatures { SIGNATURES_MAX } else { len.next_multiple_of(HEADER as u64) }
    }
}

/// Where each section is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    sections: [Range<u64>; COUNT],
}

impl Header {
    /// Sections of these lengths, each right behind the one before.
    #[must_use]
    pub fn of_lengths(lengths: [u64; COUNT]) -> Self {
        let mut at = HEADER as u64;
        let sections = std::array::from_fn(|index| {
            let start = at;
            at += ALL[index].room(lengths[index]);
            start..start + lengths[index]
        });
        Self { sections }
    }

    /// Reads the first [`HEADER`] bytes.
    ///
    /// # Errors
    /// When they are not a set's, or a section is not behind the one before it.
    pub fn from_bytes(bytes: &[u8; HEADER]) -> Result<Self, SetError> {
        if !bytes.starts_with(MAGIC) {
            return Err(SetError::Magic { found: bytes[..8].escape_ascii().to_string() });
        }
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let found = u32::try_from(word(8)).unwrap_or(u32::MAX);
        if found != VERSION {
            return Err(SetError::Format { what: "layout", found, known: VERSION });
        }
        let mut end = HEADER as u64;
        let mut sections = std::array::from_fn(|_| 0..0);
        for (section, range) in ALL.into_iter().zip(&mut sections) {
            let at = 16 + section as usize * 16;
            let (offset, len) = (word(at), word(at + 8));
            if section == Section::Patches && len == 0 {
                *range = end..end;
                break;
            }
            place(section, offset, len, end)?;
            *range = offset..offset + len;
            end = offset + section.room(len);
        }
        Ok(Self { sections })
    }

    /// What [`Header::from_bytes`] reads.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        // Zeros where there are no patches: so was it before there was such a section.
        for (index, range) in
            self.sections.iter().enumerate().filter(|(index, range)| *index + 1 < COUNT || !range.is_empty())
        {
            let at = 16 + index * 16;
            bytes[at..at + 8].copy_from_slice(&range.start.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&(range.end - range.start).to_le_bytes());
        }
        bytes
    }

    /// Where a section's bytes are in the file.
    #[must_use]
    pub fn range(&self, section: Section) -> Range<u64> {
        self.sections[section as usize].clone()
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self, section: Section) -> u64 {
        let range = self.range(section);
        range.end - range.start
    }

    /// Length of the whole file.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.range(if self.len(Section::Patches) > 0 { Section::Patches } else { Section::Root }).end
    }

    pub(super) fn with_signatures(mut self, len: u64) -> Self {
        let range = &mut self.sections[Section::Signatures as usize];
        range.end = range.start + len;
        self
    }
}

fn place(section: Section, offset: u64, len: u64, end: u64) -> Result<(), SetError> {
    let wrong = |found: String, expected: String| Err(SetError::Section { section: section.name(), found, expected });
    if len > section.max() {
        return wrong(format!("{len} bytes"), format!("at most {}", section.max()));
    }
    if offset < end || !offset.is_multiple_of(HEADER as u64) || offset > u64::MAX / 4 {
        return wrong(format!("offset {offset}"), format!("a multiple of {HEADER} from {end} on"));
    }
    Ok(())
}
