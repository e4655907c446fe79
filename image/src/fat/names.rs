//! Directory slots: short names, and the long ones in front of them.

use std::collections::BTreeSet;

/// 1980-01-01, the first date FAT knows; times of day stay 0.
const DATE: u16 = 1 << 5 | 1;
/// UTF-16 units in one slot of a long name.
const UNITS: usize = 13;
/// Where these units lie in the slot.
const UNIT_AT: [usize; UNITS] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
pub const LONG_NAME: u8 = 0x0f;

/// One 32-byte directory entry.
pub struct Slot {
    pub short: [u8; 11],
    pub attributes: u8,
    pub cluster: u32,
    pub len: u32,
}

impl Slot {
    pub fn to_bytes(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out[..11].copy_from_slice(&self.short);
        out[11] = self.attributes;
        let cluster = self.cluster.to_le_bytes();
        for at in [16, 18, 24] {
            out[at..at + 2].copy_from_slice(&DATE.to_le_bytes());
        }
        out[20..22].copy_from_slice(&cluster[2..]);
        out[26..28].copy_from_slice(&cluster[..2]);
        out[28..].copy_from_slice(&self.len.to_le_bytes());
        out
    }
}

/// A name that can be stored as a long one.
pub fn checked(name: &str) -> Result<&str, &'static str> {
    let forbidden = |c: char| c < ' ' || "\"*:<>?\\|/".contains(c);
    if name == "." || name == ".." || name.contains(forbidden) {
        return Err("it has a part that is '.', '..' or holds one of \"*:<>?\\|");
    }
    if name.ends_with(['.', ' ']) {
        return Err("a part of it ends in a dot or a space");
    }
    if name.encode_utf16().count() > 255 {
        return Err("a part of it is longer than 255");
    }
    Ok(name)
}

/// Short names for all names of one folder, in their order, each once.
pub fn short_names<'a>(names: impl Iterator<Item = &'a String> + Clone) -> Vec<[u8; 11]> {
    // Names that are short already keep theirs, so the made-up ones must avoid them.
    let mut taken: BTreeSet<[u8; 11]> = names.clone().filter_map(|name| exact(name)).collect();
    names.map(|name| exact(name).unwrap_or_else(|| made_up(name, &mut taken))).collect()
}

/// A short name beside those that a folder has already.
pub fn short_name(name: &str, taken: impl Iterator<Item = [u8; 11]>) -> [u8; 11] {
    exact(name).unwrap_or_else(|| made_up(name, &mut taken.collect()))
}

/// The short name that finds a file of this name, if its length allows one.
pub fn as_short(name: &str) -> Option<[u8; 11]> {
    let (base, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let fits = name.is_ascii() && !base.is_empty() && base.len() <= 8 && extension.len() <= 3;
    fits.then(|| padded(base.to_ascii_uppercase().as_bytes(), extension.to_ascii_uppercase().as_bytes()))
}

/// The short form of a name that needs no long one.
fn exact(name: &str) -> Option<[u8; 11]> {
    let (base, extension) = name.split_once('.').unwrap_or((name, ""));
    let plain = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
    };
    let fits = !base.is_empty() && base.len() <= 8 && extension.len() <= 3 && plain(base) && plain(extension);
    (fits && !name.ends_with('.')).then(|| padded(base.as_bytes(), extension.as_bytes()))
}

fn made_up(name: &str, taken: &mut BTreeSet<[u8; 11]>) -> [u8; 11] {
    let letters = |text: &str| -> Vec<u8> {
        let keep = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        text.chars().filter(keep).map(|c| c.to_ascii_uppercase() as u8).collect()
    };
    let (base, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let (base, mut extension) = (letters(base), letters(extension));
    extension.truncate(3);
    let mut number = 1u32;
    loop {
        let suffix = format!("~{number}");
        let mut short = base[..base.len().min(8 - suffix.len())].to_vec();
        short.extend(suffix.as_bytes());
        let candidate = padded(&short, &extension);
        if taken.insert(candidate) {
            return candidate;
        }
        number += 1;
    }
}

fn padded(base: &[u8], extension: &[u8]) -> [u8; 11] {
    let mut out = [b' '; 11];
    out[..base.len()].copy_from_slice(base);
    out[8..8 + extension.len()].copy_from_slice(extension);
    out
}

/// Slots that a name takes, the short one included.
pub fn slots(name: &str, short: &[u8; 11]) -> usize {
    long_slots(name, short).len() / 32 + 1
}

/// The slots in front of the short one; none when the short name says it all.
pub fn long_slots(name: &str, short: &[u8; 11]) -> Vec<u8> {
    if exact(name).as_ref() == Some(short) {
        return Vec::new();
    }
    let mut units: Vec<u16> = name.encode_utf16().collect();
    if !units.len().is_multiple_of(UNITS) {
        units.push(0);
        units.resize(units.len().next_multiple_of(UNITS), 0xffff);
    }
    let count = units.len() / UNITS;
    let mut out = Vec::with_capacity(count * 32);
    for (index, part) in units.chunks(UNITS).enumerate().rev() {
        let mut slot = [0; 32];
        let last = if index + 1 == count { 0x40 } else { 0 };
        slot[0] = last | u8::try_from(index + 1).unwrap_or_default();
        slot[11] = LONG_NAME;
        slot[13] = checksum(short);
        for (at, unit) in UNIT_AT.iter().zip(part) {
            slot[*at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        out.extend(slot);
    }
    out
}

/// The units of a long slot, up to the name's end.
pub fn long_units(slot: &[u8]) -> Vec<u16> {
    let units = UNIT_AT.iter().map(|at| u16::from_le_bytes([slot[*at], slot[at + 1]]));
    units.take_while(|unit| *unit != 0 && *unit != 0xffff).collect()
}

/// Binds a long name to its short one.
pub fn checksum(short: &[u8; 11]) -> u8 {
    short.iter().fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(names: &[&str], expect: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let short = short_names(names.iter());
        let short: Vec<_> = short.iter().map(|name| std::str::from_utf8(name).unwrap()).collect();
        assert_eq!(short, expect);
    }

    #[test]
    fn short_names_are_kept_where_they_say_it_all_and_unique_elsewhere() {
        check(&["EFI", "BOOTX64.EFI", "loader"], &["EFI        ", "BOOTX64 EFI", "LOADER~1   "]);
        check(&["node_1.efi", "node_1.x.efi", "node_2.efi"], &["NODE_1~1EFI", "NODE_1~2EFI", "NODE_2~1EFI"]);
        check(&["A~1", "é.tar.gz"], &["A1~1       ", "TAR~1   GZ "]);
    }
}
