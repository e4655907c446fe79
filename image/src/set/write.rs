//! A set, written: what is in it is measured first, for the manifest comes before it.

use std::io::{self, Read, Seek, SeekFrom, Write};

use sha2::{Digest, Sha256};

use super::header::{HEADER, Header, SIGNATURES_MAX, Section};
use super::manifest::{Blob, Chunks, Patch};
use super::{Manifest, Set, SetError};
use crate::chunks::{self, Chunk};
use crate::verity::hex;

/// What a UKI and a root come to.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The UKI.
    pub uki: Blob,
    /// The root.
    pub root: Blob,
    /// The table of both.
    pub chunks: Chunks,
    table: Vec<u8>,
    patches: Vec<(Patch, Vec<u8>)>,
}

/// Reads both to their ends.
///
/// # Errors
/// When one cannot be read.
pub fn measure(uki: impl Read, root: impl Read) -> Result<Contents, SetError> {
    let (uki, mut table) = blob(uki)?;
    let (root, more) = blob(root)?;
    table.extend(more);
    let count = table.len() as u64;
    let table = chunks::to_bytes(&table);
    let chunks = Chunks { bytes: table.len() as u64, sha256: hex(&Sha256::digest(&table)), count };
    Ok(Contents { uki, root, chunks, table, patches: Vec::new() })
}

impl Contents {
    /// Adds a patch ([`crate::patch`]) for nodes that run the root of this hash.
    pub fn patch(&mut self, from: &[u8; 32], patch: Vec<u8>) {
        let about = Patch { from: hex(from), bytes: patch.len() as u64, sha256: hex(&Sha256::digest(&patch)) };
        self.patches.push((about, patch));
    }

    pub(super) fn patches(&self) -> impl Iterator<Item = Patch> {
        self.patches.iter().map(|(about, _)| about.clone())
    }

    /// Holds what was measured against what a manifest says.
    ///
    /// # Errors
    /// Names the section that differs.
    pub fn check(&self, manifest: &Manifest) -> Result<(), SetError> {
        let pair = |sha256: &str, bytes: u64| format!("SHA-256 {sha256} and {bytes} bytes");
        let blobs = [(Section::Uki, &self.uki, &manifest.uki), (Section::Root, &self.root, &manifest.root)];
        let mut all = blobs
            .map(|(section, found, said)| (section, pair(&found.sha256, found.bytes), pair(&said.sha256, said.bytes)));
        let (found, said) = (&self.chunks, &manifest.chunks);
        let table = (Section::Chunks, pair(&found.sha256, found.bytes), pair(&said.sha256, said.bytes));
        match all.iter_mut().chain([&mut { table }]).find(|(_, found, expected)| found != expected) {
            None => Ok(()),
            Some((section, found, expected)) => Err(SetError::Differs {
                section: section.name(),
                found: std::mem::take(found),
                expected: std::mem::take(expected),
            }),
        }
    }
}

fn blob(reader: impl Read) -> Result<(Blob, Vec<Chunk>), SetError> {
    let mut hashing = Hashing { inner: reader, hash: Sha256::new(), bytes: 0 };
    let chunks = chunks::cut(&mut hashing).collect::<Result<Vec<_>, _>>()?;
    Ok((Blob { bytes: hashing.bytes, sha256: hex(&hashing.hash.finalize()) }, chunks))
}

/// Digests what is read through it.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

/// Writes a set over nothing: a new file. `manifest` must say of `contents` what these are.
///
/// # Errors
/// When an input does not have the length that was measured, or the output cannot be written.
pub fn write(
    out: &mut (impl Write + Seek),
    manifest: &Manifest,
    signatures: &[String],
    contents: &Contents,
    uki: impl Read,
    root: impl Read,
) -> Result<Header, SetError> {
    let manifest = manifest.to_json()?;
    let signatures = joined(signatures)?;
    let lengths = [
        manifest.len() as u64,
        signatures.len() as u64,
        contents.chunks.bytes,
        contents.uki.bytes,
        contents.root.bytes,
        contents.patches().map(|patch| patch.bytes).sum(),
    ];
    let header = Header::of_lengths(lengths);
    put(out, 0, HEADER as u64, &header.to_bytes()[..], "header")?;
    let patches: Vec<&[u8]> = contents.patches.iter().map(|(_, bytes)| bytes.as_slice()).collect();
    let sections: [(Section, &mut dyn Read); 6] = [
        (Section::Manifest, &mut &manifest[..]),
        (Section::Signatures, &mut &signatures[..]),
        (Section::Chunks, &mut &contents.table[..]),
        (Section::Uki, &mut { uki }),
        (Section::Root, &mut { root }),
        (Section::Patches, &mut &patches.concat()[..]),
    ];
    for (section, reader) in sections {
        put(out, header.range(section).start, header.len(section), reader, section.name())?;
    }
    out.flush().map_err(SetError::Write)?;
    Ok(header)
}

/// Adds one signature to a set in place; nothing else moves. Another by the same key takes the old one's place.
///
/// # Errors
/// When it is no set, has no room, or cannot be written.
pub fn sign(file: &mut (impl Read + Write + Seek), signature: &str) -> Result<(), SetError> {
    file.seek(SeekFrom::Start(0)).map_err(SetError::Write)?;
    let mut set = Set::open(&mut *file)?;
    let key = |text: &str| text.lines().nth(1).and_then(|line| line.get(..13)).map(str::to_owned);
    set.signatures.retain(|old| key(old) != key(signature));
    set.signatures.push(signature.to_owned());
    let mut signatures = joined(&set.signatures)?;
    let len = signatures.len() as u64;
    signatures.resize(usize::try_from(SIGNATURES_MAX).unwrap_or_default(), 0);
    let start = set.header.range(Section::Signatures).start;
    put(file, start, SIGNATURES_MAX, &signatures[..], "signatures")?;
    put(file, 0, HEADER as u64, &set.header.with_signatures(len).to_bytes()[..], "header")?;
    file.flush().map_err(SetError::Write)
}

fn joined(signatures: &[String]) -> Result<Vec<u8>, SetError> {
    let text: String = signatures.iter().flat_map(|text| [text.trim_end(), "\n"]).collect();
    if text.len() as u64 > SIGNATURES_MAX {
        return Err(SetError::SignaturesFull { room: SIGNATURES_MAX, found: text.len() });
    }
    Ok(text.into_bytes())
}

fn put(
    out: &mut (impl Write + Seek),
    at: u64,
    len: u64,
    reader: impl Read,
    section: &'static str,
) -> Result<(), SetError> {
    out.seek(SeekFrom::Start(at)).map_err(SetError::Write)?;
    let found = io::copy(&mut reader.take(len), out).map_err(SetError::Write)?;
    if found == len {
        return Ok(());
    }
    Err(SetError::Section { section, found: format!("{found} bytes"), expected: format!("{len}, as measured") })
}
