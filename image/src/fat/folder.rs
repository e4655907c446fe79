//! What the bytes of a folder say. Any bytes may be in it.

use std::ops::Range;

use super::names::{self, LONG_NAME};

/// Bytes of one slot.
pub const SLOT: usize = 32;
/// First byte of a slot that is free.
pub const DELETED: u8 = 0xe5;

/// A file or a folder in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub name: String,
    pub short: [u8; 11],
    pub is_folder: bool,
    pub cluster: u32,
    pub len: u32,
    /// Its slots in the folder, the long name's in front.
    pub slots: Range<usize>,
}

impl Found {
    /// FAT does not know `a` from `A`, and finds a file by either of its names.
    pub fn is_called(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name) || short_name(&self.short, 0).eq_ignore_ascii_case(name)
    }
}

/// Files and folders but `.` and `..`, in the folder's order.
pub fn entries(bytes: &[u8]) -> Vec<Found> {
    scan(bytes).0
}

/// Slots of long names that belong to no entry: what a power cut leaves of a removal.
pub fn strays(bytes: &[u8]) -> Vec<usize> {
    scan(bytes).1
}

/// Number of slots before the end mark.
pub fn used_slots(bytes: &[u8]) -> usize {
    let count = bytes.len() / SLOT;
    bytes.chunks_exact(SLOT).position(|slot| slot[0] == 0).unwrap_or(count)
}

fn scan(bytes: &[u8]) -> (Vec<Found>, Vec<usize>) {
    let (mut found, mut strays, mut long) = (Vec::new(), Vec::new(), Long::default());
    for (at, slot) in bytes.chunks_exact(SLOT).enumerate() {
        match (slot[0], slot[11]) {
            (0, _) => break,
            (DELETED, _) => strays.append(&mut long.slots),
            (_, attributes) if attributes & 0x3f == LONG_NAME => {
                if !long.continues(slot) {
                    strays.append(&mut long.slots);
                    long = Long::starting(slot);
                }
                long.push(at, slot);
            }
            // A label, or a folder's names for itself and its parent.
            (first, attributes) if attributes & 0x08 != 0 || first == b'.' => strays.append(&mut long.slots),
            (_, attributes) => {
                let mut short = [0; 11];
                short.copy_from_slice(&slot[..11]);
                let name = long.name(&short);
                let from = name.as_ref().and(long.slots.first().copied()).unwrap_or(at);
                if name.is_some() {
                    long.slots.clear();
                }
                strays.append(&mut long.slots);
                found.push(Found {
                    name: name.unwrap_or_else(|| short_name(&short, slot[12])),
                    short,
                    is_folder: attributes & 0x10 != 0,
                    cluster: u32::from(u16::from_le_bytes([slot[20], slot[21]])) << 16
                        | u32::from(u16::from_le_bytes([slot[26], slot[27]])),
                    len: u32::from_le_bytes([slot[28], slot[29], slot[30], slot[31]]),
                    slots: from..at + 1,
                });
            }
        }
    }
    strays.append(&mut long.slots);
    (found, strays)
}

/// A long name being put together: its last part comes first.
#[derive(Default)]
struct Long {
    slots: Vec<usize>,
    units: Vec<u16>,
    /// The number that the slot before the last one read has; 0 when the name is whole.
    missing: u8,
    checksum: u8,
}

impl Long {
    fn starting(slot: &[u8]) -> Self {
        let missing = if slot[0] & 0x40 == 0 { u8::MAX } else { slot[0] & 0x3f };
        Self { slots: Vec::new(), units: Vec::new(), missing, checksum: slot[13] }
    }

    fn continues(&self, slot: &[u8]) -> bool {
        !self.slots.is_empty() && self.missing > 0 && slot[0] == self.missing && slot[13] == self.checksum
    }

    fn push(&mut self, at: usize, slot: &[u8]) {
        self.slots.push(at);
        self.units.splice(0..0, names::long_units(slot));
        self.missing = self.missing.wrapping_sub(1);
    }

    /// The name, when it is whole and belongs to this short one.
    fn name(&self, short: &[u8; 11]) -> Option<String> {
        let whole = !self.slots.is_empty() && self.missing == 0 && self.checksum == names::checksum(short);
        whole.then(|| String::from_utf16_lossy(&self.units))
    }
}

/// `case` says which parts are to be shown in small letters; Windows and the firmware's driver set it.
fn short_name(short: &[u8; 11], case: u8) -> String {
    let text = |bytes: &[u8], small: bool| {
        let text = String::from_utf8_lossy(bytes).trim_end().to_owned();
        if small { text.to_ascii_lowercase() } else { text }
    };
    let (base, extension) = (text(&short[..8], case & 0x08 != 0), text(&short[8..], case & 0x10 != 0));
    if extension.is_empty() { base } else { format!("{base}.{extension}") }
}
