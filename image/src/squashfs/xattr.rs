//! Extended attributes: each distinct set is stored once, and an inode names it by number.

use std::collections::BTreeMap;
use std::io::Write;

use super::meta::MetaWriter;
use super::{Result, SquashfsError, lossy, write};

/// In an inode: no attributes.
pub const NONE: u32 = u32::MAX;
const VALUE_MAX: usize = 65536;

/// Whether squashfs can hold an attribute of this name. POSIX ACLs (`system.`) it cannot.
#[must_use]
pub fn is_storable(name: &str) -> bool {
    prefix(name).is_some()
}

/// The prefix as a number, and the rest of the name.
fn prefix(name: &str) -> Option<(u16, &str)> {
    let (number, rest) = [("user.", 0), ("trusted.", 1), ("security.", 2)]
        .iter()
        .find_map(|(prefix, number)| Some((*number, name.strip_prefix(prefix)?)))?;
    (!rest.is_empty() && rest.len() <= 255).then_some((number, rest))
}

/// All sets seen so far.
#[derive(Default)]
pub struct Xattrs {
    /// Encoded pairs of each set with their number, by order of first sight.
    sets: Vec<(Vec<u8>, u32)>,
    known: BTreeMap<Vec<u8>, u32>,
}

impl Xattrs {
    /// The number of a set; equal sets have one number.
    pub fn intern(&mut self, path: &[u8], set: &BTreeMap<String, Vec<u8>>) -> Result<u32> {
        if set.is_empty() {
            return Ok(NONE);
        }
        let encoded = encode(path, set)?;
        if let Some(number) = self.known.get(&encoded) {
            return Ok(*number);
        }
        let number = u32::try_from(self.sets.len()).unwrap_or(NONE - 1);
        self.known.insert(encoded.clone(), number);
        self.sets.push((encoded, u32::try_from(set.len()).unwrap_or_default()));
        Ok(number)
    }

    /// Writes the table at `at`. Gives where its head lies (`u64::MAX`: there is none) and what comes after.
    pub fn write(self, out: &mut impl Write, at: u64, level: i32) -> Result<(u64, u64)> {
        if self.sets.is_empty() {
            return Ok((u64::MAX, at));
        }
        let mut pairs = MetaWriter::new(level)?;
        let mut ids = MetaWriter::new(level)?;
        for (encoded, count) in &self.sets {
            let size = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
            ids.write(&pairs.position()?.reference().to_le_bytes())?;
            ids.write(&count.to_le_bytes())?;
            ids.write(&size.to_le_bytes())?;
            pairs.write(encoded)?;
        }
        let (pairs, _) = pairs.finish()?;
        let (ids, starts) = ids.finish()?;
        write(out, &pairs)?;
        write(out, &ids)?;
        let ids_at = at + pairs.len() as u64;
        let head = ids_at + ids.len() as u64;
        let count = u32::try_from(self.sets.len()).unwrap_or(u32::MAX);
        write(out, &at.to_le_bytes())?;
        write(out, &count.to_le_bytes())?;
        write(out, &0u32.to_le_bytes())?;
        for start in &starts {
            write(out, &(ids_at + u64::from(*start)).to_le_bytes())?;
        }
        Ok((head, head + 16 + starts.len() as u64 * 8))
    }
}

fn encode(path: &[u8], set: &BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for (name, value) in set {
        let Some((number, rest)) = prefix(name).filter(|_| value.len() <= VALUE_MAX) else {
            return Err(SquashfsError::Xattr { path: lossy(path), name: name.clone() });
        };
        out.extend(number.to_le_bytes());
        out.extend(u16::try_from(rest.len()).unwrap_or_default().to_le_bytes());
        out.extend(rest.as_bytes());
        out.extend(u32::try_from(value.len()).unwrap_or_default().to_le_bytes());
        out.extend(value);
    }
    Ok(out)
}
