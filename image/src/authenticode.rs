//! Where an EFI program has its signature, and the digest that is signed. No cryptography but SHA-256.
//!
//! Firmware hashes a PE file without its checksum, without the directory entry that names the certificate table, and
//! without that table, which stands at the end. All else counts, in the order of the file. Sections must follow each
//! other without gaps: what a firmware makes of gaps differs from one to the next.

use std::ops::Range;

use sha2::{Digest, Sha256};
use thiserror::Error;

/// `wRevision` 2.0 and `wCertificateType` PKCS#7 of a certificate in the table.
const PKCS7: [u8; 4] = [0x00, 0x02, 0x02, 0x00];
/// Bytes before a certificate's PKCS#7.
const CERTIFICATE_HEADER: usize = 8;
/// The table begins at a multiple of this, and so does each certificate in it.
const ALIGN: usize = 8;
const PE32_PLUS: u16 = 0x20b;
const SECTION_HEADER: usize = 40;

/// Why an EFI program cannot be signed or its signature not be found.
#[derive(Debug, Error)]
pub enum AuthenticodeError {
    /// It is none, or cut off.
    #[error("This is no 64-bit EFI program: {reason}")]
    NotPe {
        /// What was found, and where.
        reason: String,
    },
    /// It has one already.
    #[error("The EFI program is signed already ({bytes} bytes at {at}): take the signature off first")]
    Signed {
        /// Where the table begins.
        at: usize,
        /// Its length.
        bytes: usize,
    },
    /// Its certificate table makes no sense.
    #[error("The EFI program's signature is damaged: {reason}")]
    Damaged {
        /// What was found.
        reason: String,
    },
}

/// Where the parts of a PE file are that signing is about.
struct Layout {
    checksum: Range<usize>,
    /// The entry of the certificate table in the list of directories.
    entry: Range<usize>,
    /// The table; empty when there is none.
    table: Range<usize>,
}

impl Layout {
    fn of(pe: &[u8]) -> Result<Self, AuthenticodeError> {
        let bad = |reason: String| AuthenticodeError::NotPe { reason };
        let cut = |at: usize| bad(format!("it ends at {}, and its headers reach beyond {at}", pe.len()));
        let word = |at: usize| word(pe, at).ok_or_else(|| cut(at));
        if !pe.starts_with(b"MZ") {
            return Err(bad("it does not begin with 'MZ'".into()));
        }
        let header = word(0x3c)? as usize;
        if pe.get(header..header + 4) != Some(b"PE\0\0") {
            return Err(bad(format!("there is no 'PE' at {header}")));
        }
        let (sections, optional) = ((word(header + 4)? >> 16) as usize, header + 24);
        let magic = (word(optional)? & 0xffff) as u16;
        if magic != PE32_PLUS || word(optional + 108)? < 5 {
            return Err(bad(format!("its optional header has magic {magic:#x} and too few directories")));
        }
        let entry = optional + 144..optional + 152;
        let (at, len) = (word(entry.start)? as usize, word(entry.start + 4)? as usize);
        let table = if len == 0 { pe.len()..pe.len() } else { at..at.saturating_add(len) };
        if table.end != pe.len() {
            return Err(AuthenticodeError::Damaged {
                reason: format!("its table is {table:?}, and the file ends at {}", pe.len()),
            });
        }
        let size_of_optional = (word(header + 20)? & 0xffff) as usize;
        let first = optional + size_of_optional;
        gapless(pe, word(optional + 60)? as usize, first, sections, table.start)?;
        Ok(Self { checksum: optional + 64..optional + 68, entry, table })
    }
}

/// Every section begins where headers or the one before it end.
fn gapless(pe: &[u8], headers: usize, first: usize, count: usize, end: usize) -> Result<(), AuthenticodeError> {
    let bad = |reason: String| AuthenticodeError::NotPe { reason };
    let mut raw: Vec<(usize, usize)> = Vec::new();
    for index in 0..count {
        let at = first + index * SECTION_HEADER;
        let len = word(pe, at + 16).ok_or_else(|| bad("its section table is cut off".into()))? as usize;
        let start = word(pe, at + 20).ok_or_else(|| bad("its section table is cut off".into()))? as usize;
        if len > 0 {
            raw.push((start, len));
        }
    }
    raw.sort_unstable();
    let mut at = headers;
    for (start, len) in raw {
        if start != at {
            return Err(bad(format!("a section begins at {start}, and what is before it ends at {at}")));
        }
        at = start.saturating_add(len);
    }
    if at > end { Err(bad(format!("its sections end at {at}, and the file at {end}"))) } else { Ok(()) }
}

fn word(pe: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*pe.get(at..)?.first_chunk()?))
}

/// The SHA-256 that a signature is about: the same for the program with and without one.
///
/// # Errors
/// When it is no EFI program.
pub fn digest(pe: &[u8]) -> Result<[u8; 32], AuthenticodeError> {
    let layout = Layout::of(pe)?;
    let mut hash = Sha256::new();
    hash.update(&pe[..layout.checksum.start]);
    hash.update(&pe[layout.checksum.end..layout.entry.start]);
    hash.update(&pe[layout.entry.end..layout.table.start]);
    // The table begins at a multiple of 8, and the zeros before it count.
    hash.update(&[0; ALIGN][..layout.table.start.next_multiple_of(ALIGN) - layout.table.start]);
    Ok(hash.finalize().into())
}

/// Adds a signature, DER of PKCS#7, to a program that has none. The checksum stays what it was: no firmware looks at it.
///
/// # Errors
/// When it is no EFI program, or is signed already.
pub fn attach(pe: &[u8], pkcs7: &[u8]) -> Result<Vec<u8>, AuthenticodeError> {
    let layout = Layout::of(pe)?;
    if !layout.table.is_empty() {
        return Err(AuthenticodeError::Signed { at: layout.table.start, bytes: layout.table.len() });
    }
    let too_large = |_| AuthenticodeError::NotPe { reason: "it would be larger than 4 GiB".into() };
    let mut signed = pe.to_vec();
    signed.resize(pe.len().next_multiple_of(ALIGN), 0);
    let at = u32::try_from(signed.len()).map_err(too_large)?;
    let len = u32::try_from(CERTIFICATE_HEADER + pkcs7.len()).map_err(too_large)?;
    signed.extend(len.to_le_bytes());
    signed.extend(PKCS7);
    signed.extend(pkcs7);
    signed.resize(signed.len().next_multiple_of(ALIGN), 0);
    let table = u32::try_from(signed.len()).map_err(too_large)? - at;
    signed[layout.entry].copy_from_slice(&[at.to_le_bytes(), table.to_le_bytes()].concat());
    Ok(signed)
}

/// The signature, DER of PKCS#7; `None` when there is none.
///
/// # Errors
/// When it is no EFI program, or the table is damaged.
pub fn signature(pe: &[u8]) -> Result<Option<&[u8]>, AuthenticodeError> {
    let table = Layout::of(pe)?.table;
    if table.is_empty() {
        return Ok(None);
    }
    let damaged = || AuthenticodeError::Damaged { reason: format!("no PKCS#7 in its table at {}", table.start) };
    let len = word(pe, table.start).ok_or_else(damaged)? as usize;
    let whole = pe.get(table.start..table.start.saturating_add(len)).ok_or_else(damaged)?;
    match whole.split_at_checked(CERTIFICATE_HEADER) {
        Some((header, pkcs7)) if header[4..] == PKCS7 => Ok(Some(pkcs7)),
        _ => Err(damaged()),
    }
}

/// The program as it was before [`attach`], padded to a multiple of 8 bytes; as it is when it has no signature.
///
/// # Errors
/// When it is no EFI program.
pub fn strip(pe: &[u8]) -> Result<Vec<u8>, AuthenticodeError> {
    let layout = Layout::of(pe)?;
    let mut plain = pe[..layout.table.start].to_vec();
    plain[layout.entry].fill(0);
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Headers, one section of 512 bytes, and some bytes behind it.
    fn program(behind: usize) -> Vec<u8> {
        let mut pe = vec![0; 0x400];
        let mut put = |at: usize, bytes: &[u8]| pe[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3c, &[0x80]);
        put(0x80, b"PE\0\0");
        put(0x86, &1u16.to_le_bytes());
        put(0x94, &0xf0u16.to_le_bytes());
        put(0x98, &PE32_PLUS.to_le_bytes());
        put(0x98 + 60, &0x200u32.to_le_bytes());
        put(0x98 + 64, &[9, 9, 9, 9]);
        put(0x98 + 108, &16u32.to_le_bytes());
        put(0x188 + 16, &[0x200u32, 0x200].map(u32::to_le_bytes).concat());
        put(0x300, b"code");
        pe.resize(0x400 + behind, 7);
        pe
    }

    #[test]
    fn a_signature_goes_on_and_comes_off_without_touching_what_is_signed() {
        for behind in [0, 1, 8, 13] {
            let plain = program(behind);
            let signed = attach(&plain, b"not really DER").expect("signed");
            assert_eq!(signature(&signed).expect("a program"), Some(&b"not really DER"[..]));
            assert_eq!(digest(&signed).expect("a program"), digest(&plain).expect("a program"), "{behind}");
            let mut padded = plain.clone();
            padded.resize(plain.len().next_multiple_of(8), 0);
            assert_eq!(strip(&signed).expect("a program"), padded);
            assert_eq!(strip(&plain).expect("a program"), plain);
            assert!(signed.len().is_multiple_of(8));
            assert!(matches!(attach(&signed, b"x"), Err(AuthenticodeError::Signed { .. })));
        }
    }

    #[test]
    fn every_byte_but_checksum_and_entry_counts() {
        let plain = program(5);
        let before = digest(&plain).expect("a program");
        for at in [0x10, 0x98 + 63, 0x98 + 68, 0x98 + 143, 0x98 + 152, 0x300, 0x404] {
            let mut other = plain.clone();
            other[at] ^= 1;
            assert_ne!(digest(&other).ok(), Some(before), "{at:#x}");
        }
        let mut other = plain.clone();
        other[0x98 + 64] ^= 1;
        assert_eq!(digest(&other).expect("a program"), before);
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Vec<u8>), expect: &str) {
        let mut pe = attach(&program(0), b"signature").expect("signed");
        change(&mut pe);
        let error = digest(&pe).map(|_| ()).and_then(|()| signature(&pe).map(|_| ())).expect_err("refused").to_string();
        assert!(error.contains(expect), "{error}");
    }

    #[test]
    fn what_is_no_program_or_no_signature_is_told() {
        check(|pe| pe[0] = 0, "does not begin with 'MZ'");
        check(|pe| pe[0x3c] = 0x70, "there is no 'PE' at 112");
        check(|pe| pe.truncate(0x90), "it ends at 144");
        check(|pe| pe[0x99] = 1, "magic 0x10b");
        check(|pe| pe.truncate(0x404), "and the file ends at 1028");
        check(|pe| pe[0x98 + 149] = 1, "its table is");
        check(|pe| pe[0x188 + 21] = 3, "a section begins at 768, and what is before it ends at 512");
        check(|pe| pe[0x188 + 17] = 0x40, "its sections end at");
        check(|pe| pe[0x401] = 0xff, "no PKCS#7 in its table at 1024");
        check(|pe| pe[0x406] = 0xff, "no PKCS#7 in its table at 1024");
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let pe = attach(&program(3), b"signature").expect("signed");
        for at in 0..pe.len() {
            let mut other = pe.clone();
            other[at] = 0xff;
            let _ = (digest(&other), signature(&other), strip(&other), attach(&other, b"x"));
            let _ = (digest(&pe[..at]), strip(&pe[..at]));
        }
    }
}
