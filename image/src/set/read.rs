//! A set, read from its beginning on.

use std::io::{self, Read};
use std::ops::Range;

use sha2::{Digest, Sha256};

use super::header::{HEADER, Header, SIGNATURES_MAX, Section};
use super::manifest::{Blob, Keys, Manifest, Patch};
use super::{Expect, SetError};
use crate::chunks::{self, Chunk};
use crate::digest::digest;
use crate::verity::hex;

/// Bytes that hold header, manifest and signatures of every set: what to fetch first.
pub const HEAD_MAX: u64 = HEADER as u64 + (64 << 10) + SIGNATURES_MAX;

/// A set's beginning. Nothing in it is to be believed before [`Set::verify`].
#[derive(Clone, Debug)]
pub struct Set {
    /// Where the sections are.
    pub header: Header,
    /// What the manifest says.
    pub manifest: Manifest,
    /// Its bytes, which are signed.
    pub manifest_bytes: Vec<u8>,
    /// The signatures' texts.
    pub signatures: Vec<String>,
}

/// A set that enough trusted keys signed, and that is one for this node.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Where the sections are: still only the header's word, held against the manifest's lengths.
    pub header: Header,
    /// What was signed.
    pub manifest: Manifest,
    /// Ids of the keys that signed.
    pub signed_by: Vec<String>,
}

impl Set {
    /// Reads header, manifest and signatures from the set's first byte on: at most [`HEAD_MAX`] bytes.
    ///
    /// # Errors
    /// When it is no set, is cut off before the signatures' end, or its lengths contradict each other.
    pub fn open(mut reader: impl Read) -> Result<Self, SetError> {
        let mut bytes = [0; HEADER];
        reader.read_exact(&mut bytes).map_err(|source| SetError::Read { section: "header", source })?;
        let header = Header::from_bytes(&bytes)?;
        let mut at = HEADER as u64;
        let manifest_bytes = section(&mut reader, &header, Section::Manifest, &mut at)?;
        let signatures = section(&mut reader, &header, Section::Signatures, &mut at)?;
        let manifest = Manifest::from_json(&manifest_bytes)?;
        fits(&header, &manifest)?;
        let signatures = String::from_utf8_lossy(&signatures).lines().collect::<Vec<_>>().chunks(4).map(text).collect();
        Ok(Self { header, manifest, manifest_bytes, signatures })
    }

    /// The patches, and where each lies in the file.
    pub fn patches(&self) -> impl Iterator<Item = (&Patch, Range<u64>)> {
        placed(&self.header, &self.manifest)
    }

    /// The patch against the root of this hash, and where it lies in the file.
    #[must_use]
    pub fn patch(&self, from: &[u8; 32]) -> Option<(&Patch, Range<u64>)> {
        against(&self.header, &self.manifest, from)
    }

    /// Decides whether a node with these keys and expectations takes it. Pure.
    ///
    /// # Errors
    /// Says what was found and what was expected.
    pub fn verify(self, trusted: &Keys, expect: &Expect<'_>) -> Result<Verified, SetError> {
        let signed_by = trusted.check(&self.manifest_bytes, &self.signatures)?;
        expect.check(&self.manifest)?;
        Ok(Verified { header: self.header, manifest: self.manifest, signed_by })
    }
}

impl Verified {
    /// The patch for a node that runs the root of this hash, and where it lies in the file.
    #[must_use]
    pub fn patch(&self, from: &[u8; 32]) -> Option<(&Patch, Range<u64>)> {
        against(&self.header, &self.manifest, from)
    }

    /// The chunks of UKI and of root, from the bytes of [`Section::Chunks`].
    ///
    /// # Errors
    /// When the bytes are not those that were signed.
    pub fn chunks(&self, bytes: &[u8]) -> Result<(Vec<Chunk>, Vec<Chunk>), SetError> {
        let said = &self.manifest.chunks;
        same("chunk table", (&hex(&Sha256::digest(bytes)), bytes.len() as u64), (&said.sha256, said.bytes))?;
        let all = chunks::from_bytes(bytes)?;
        let (uki, root) = chunks::split(&all, self.manifest.uki.bytes, self.manifest.root.bytes)?;
        Ok((uki.to_vec(), root.to_vec()))
    }

    /// Reads a UKI to its end (one put together, or read back) and holds it against the manifest.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was signed.
    pub fn check_uki(&self, reader: impl Read) -> Result<(), SetError> {
        check(Section::Uki, reader, &self.manifest.uki)
    }

    /// The same of a root: squashfs and verity tree, without what a slot has behind them.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was signed.
    pub fn check_root(&self, reader: impl Read) -> Result<(), SetError> {
        check(Section::Root, reader, &self.manifest.root)
    }
}

impl Patch {
    /// Reads a patch to its end and holds it against what was signed.
    ///
    /// # Errors
    /// When it cannot be read, or is another.
    pub fn check(&self, reader: impl Read) -> Result<(), SetError> {
        let (sha256, bytes) = digest(reader).map_err(|source| SetError::Read { section: "patch", source })?;
        same("patch", (&hex(&sha256), bytes), (&self.sha256, self.bytes))
    }
}

fn against<'a>(header: &Header, manifest: &'a Manifest, from: &[u8; 32]) -> Option<(&'a Patch, Range<u64>)> {
    let from = hex(from);
    placed(header, manifest).find(|(patch, _)| patch.from == from)
}

fn placed<'a>(header: &Header, manifest: &'a Manifest) -> impl Iterator<Item = (&'a Patch, Range<u64>)> + use<'a> {
    let mut at = header.range(Section::Patches).start;
    manifest.patches.iter().map(move |patch| {
        let start = at;
        // No overflow: their sum is the section's length.
        at = at.saturating_add(patch.bytes);
        (patch, start..at)
    })
}

fn check(section: Section, reader: impl Read, said: &Blob) -> Result<(), SetError> {
    let (sha256, bytes) = digest(reader).map_err(|source| SetError::Read { section: section.name(), source })?;
    same(section.name(), (&hex(&sha256), bytes), (&said.sha256, said.bytes))
}

fn same(section: &'static str, found: (&String, u64), said: (&String, u64)) -> Result<(), SetError> {
    let words = |(sha256, bytes): (&String, u64)| format!("SHA-256 {sha256} and {bytes} bytes");
    if found == said { Ok(()) } else { Err(SetError::Differs { section, found: words(found), expected: words(said) }) }
}

fn text(lines: &[&str]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

fn section(reader: &mut impl Read, header: &Header, section: Section, at: &mut u64) -> Result<Vec<u8>, SetError> {
    let failed = |source| SetError::Read { section: section.name(), source };
    let range = header.range(section);
    if range.end > HEAD_MAX {
        let (found, expected) = (format!("its end at {}", range.end), format!("an end by {HEAD_MAX}"));
        return Err(SetError::Section { section: section.name(), found, expected });
    }
    io::copy(&mut reader.take(range.start - *at), &mut io::sink()).map_err(failed)?;
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
    reader.read_exact(&mut bytes).map_err(failed)?;
    *at = range.end;
    Ok(bytes)
}

/// Header and manifest speak of the same lengths.
fn fits(header: &Header, manifest: &Manifest) -> Result<(), SetError> {
    let said = [
        (Section::Chunks, manifest.chunks.bytes),
        (Section::Uki, manifest.uki.bytes),
        (Section::Root, manifest.root.bytes),
        (Section::Patches, manifest.patches.iter().fold(0, |sum, patch| patch.bytes.saturating_add(sum))),
    ];
    for (section, expected) in said {
        let found = header.len(section);
        if found != expected {
            let (found, expected) = (format!("{found} bytes"), format!("{expected}, as the manifest says"));
            return Err(SetError::Section { section: section.name(), found, expected });
        }
    }
    Ok(())
}
