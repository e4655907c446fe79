//! Unified kernel images: Debian's systemd-stub with kernel, initrd and command line as sections of one PE file.
//!
//! Sections are appended to the stub; nothing of it is moved, so that its own relocations stay right. The
//! time stamp stays the stub's and the checksum 0: same input, same bytes. Signing comes after.

use object::LittleEndian as LE;
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, PeFile64};
use object::read::{Object, ObjectSection};
use thiserror::Error;

const SECTION_HEADER: usize = 40;
const COFF_HEADER: usize = 20;
/// `IMAGE_SCN_CNT_INITIALIZED_DATA` and `IMAGE_SCN_MEM_READ`.
const READ_DATA: u32 = 0x4000_0040;

/// Why a UKI cannot be made or read.
#[derive(Debug, Error)]
pub enum UkiError {
    /// It is no PE file, or its headers are cut.
    #[error("{what} is not a 64-bit PE file: {reason}")]
    NotPe {
        /// Which file.
        what: &'static str,
        /// What the parser found.
        reason: String,
    },
    /// The stub has no room for more section headers.
    #[error("The stub has header room for {room} more sections, and {wanted} are needed")]
    NoRoom {
        /// Free slots.
        room: usize,
        /// Slots needed.
        wanted: usize,
    },
    /// The stub has such a section already.
    #[error("The stub already has a section {name}")]
    Occupied {
        /// Its name.
        name: String,
    },
    /// PE counts in 32 bits.
    #[error("The UKI would be larger than 4 GiB")]
    TooLarge,
    /// A section is not there.
    #[error("The UKI has no section {name}")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// A section's bytes are not all in the file.
    #[error("Section {name} of the UKI is cut off or damaged: {reason}")]
    Cut {
        /// Its name.
        name: String,
        /// What the parser found.
        reason: String,
    },
}

/// What goes into a UKI.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Text of os-release; systemd-boot takes the entry's title and version from it.
    pub os_release: &'a str,
    /// Kernel command line.
    pub cmdline: &'a str,
    /// A cpio archive.
    pub initrd: &'a [u8],
    /// The kernel's release, as `uname -r` prints it.
    pub uname: &'a str,
    /// The kernel image (bzImage with its EFI header).
    pub linux: &'a [u8],
}

/// Puts the parts behind the stub.
///
/// # Errors
/// When the stub is no PE file or has no room, or the result would be too large.
pub fn build(stub: &[u8], parts: &Parts<'_>) -> Result<Vec<u8>, UkiError> {
    let sections: [(&str, &[u8]); 5] = [
        (".osrel", parts.os_release.as_bytes()),
        (".cmdline", parts.cmdline.as_bytes()),
        (".initrd", parts.initrd),
        (".uname", parts.uname.as_bytes()),
        (".linux", parts.linux),
    ];
    let mut image = Image::parse(stub)?;
    if image.room() < sections.len() {
        return Err(UkiError::NoRoom { room: image.room(), wanted: sections.len() });
    }
    for (name, data) in sections {
        image.append(name, data)?;
    }
    Ok(image.bytes)
}

/// A stub that grows.
struct Image {
    bytes: Vec<u8>,
    /// Offset of the COFF header.
    coff: usize,
    /// Offset of the first section header.
    table: usize,
    count: u16,
    headers_end: u32,
    section_alignment: u32,
    file_alignment: u32,
    /// Where the next section goes in memory.
    next_address: u32,
    names: Vec<String>,
}

impl Image {
    fn parse(stub: &[u8]) -> Result<Self, UkiError> {
        let bad = |reason: String| UkiError::NotPe { what: "The stub", reason };
        let file = PeFile64::parse(stub).map_err(|error| bad(error.to_string()))?;
        let optional = file.nt_headers().optional_header();
        let coff = file.dos_header().nt_headers_offset() as usize + 4;
        let table = coff + COFF_HEADER + usize::from(file.nt_headers().file_header().size_of_optional_header.get(LE));
        let mut next_address = 0u32;
        let mut file_end = 0u32;
        for section in file.section_table().iter() {
            let address = section.virtual_address.get(LE).checked_add(section.virtual_size.get(LE));
            let end = section.pointer_to_raw_data.get(LE).checked_add(section.size_of_raw_data.get(LE));
            next_address = next_address.max(address.ok_or(UkiError::TooLarge)?);
            file_end = file_end.max(end.ok_or(UkiError::TooLarge)?);
        }
        let alignments = (optional.section_alignment(), optional.file_alignment());
        if !alignments.0.is_power_of_two() || !alignments.1.is_power_of_two() {
            return Err(bad(format!("its alignments are {alignments:?}")));
        }
        // What stands behind the last section (symbols of the stub's build) would be a gap for a signer.
        if optional.size_of_headers() as usize > stub.len() || optional.size_of_headers() > file_end {
            return Err(bad("its headers are cut off".into()));
        }
        let bytes = stub.get(..file_end as usize).ok_or_else(|| bad("its last section is cut off".into()))?.to_vec();
        Ok(Self {
            bytes,
            coff,
            table,
            count: file.nt_headers().file_header().number_of_sections.get(LE),
            headers_end: optional.size_of_headers(),
            section_alignment: alignments.0,
            file_alignment: alignments.1,
            next_address,
            names: file.sections().filter_map(|section| section.name().ok().map(str::to_owned)).collect(),
        })
    }

    fn room(&self) -> usize {
        let slots = (self.headers_end as usize).saturating_sub(self.table) / SECTION_HEADER;
        slots.saturating_sub(usize::from(self.count))
    }

    fn append(&mut self, name: &str, data: &[u8]) -> Result<(), UkiError> {
        if self.names.iter().any(|known| known == name) {
            return Err(UkiError::Occupied { name: name.to_owned() });
        }
        let len = u32::try_from(data.len()).map_err(|_| UkiError::TooLarge)?;
        let address = aligned(self.next_address, self.section_alignment)?;
        let offset = aligned(u32::try_from(self.bytes.len()).map_err(|_| UkiError::TooLarge)?, self.file_alignment)?;
        let raw = aligned(len, self.file_alignment)?;
        self.bytes.resize(offset as usize, 0);
        self.bytes.extend_from_slice(data);
        self.bytes.resize(offset.checked_add(raw).ok_or(UkiError::TooLarge)? as usize, 0);
        self.header(name, [len, address, raw, offset]);
        self.next_address = address.checked_add(len).ok_or(UkiError::TooLarge)?;
        self.count += 1;
        self.update_totals(raw)
    }

    /// Writes the next section header: name, virtual size, address, raw size and offset, flags.
    fn header(&mut self, name: &str, words: [u32; 4]) {
        let at = self.table + usize::from(self.count) * SECTION_HEADER;
        let mut header = [0; SECTION_HEADER];
        header[..name.len()].copy_from_slice(name.as_bytes());
        for (index, word) in words.iter().enumerate() {
            header[8 + index * 4..][..4].copy_from_slice(&word.to_le_bytes());
        }
        header[36..].copy_from_slice(&READ_DATA.to_le_bytes());
        self.bytes[at..at + SECTION_HEADER].copy_from_slice(&header);
    }

    fn update_totals(&mut self, added: u32) -> Result<(), UkiError> {
        let optional = self.coff + COFF_HEADER;
        self.bytes[self.coff + 2..][..2].copy_from_slice(&self.count.to_le_bytes());
        // Symbols were cut off with the rest.
        self.bytes[self.coff + 8..][..8].fill(0);
        let initialized = self.word(optional + 8).checked_add(added).ok_or(UkiError::TooLarge)?;
        self.set_word(optional + 8, initialized);
        let size = aligned(self.next_address, self.section_alignment)?;
        self.set_word(optional + 56, size);
        self.set_word(optional + 64, 0);
        Ok(())
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]])
    }

    fn set_word(&mut self, at: usize, word: u32) {
        self.bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
}

fn aligned(value: u32, alignment: u32) -> Result<u32, UkiError> {
    value.checked_next_multiple_of(alignment).ok_or(UkiError::TooLarge)
}

/// One section as a reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section<'a> {
    /// Its name with the dot.
    pub name: String,
    /// Its bytes, without the padding of the file.
    pub data: &'a [u8],
}

/// All sections of a PE file, in the file's order.
///
/// # Errors
/// When it is no PE file, or a section's bytes are not all there; the error names it.
pub fn sections(image: &[u8]) -> Result<Vec<Section<'_>>, UkiError> {
    let file =
        PeFile64::parse(image).map_err(|error| UkiError::NotPe { what: "The UKI", reason: error.to_string() })?;
    file.sections()
        .map(|section| {
            let cut = |reason: String| UkiError::Cut { name: section.name().unwrap_or("?").to_owned(), reason };
            let name = section.name().map_err(|error| cut(error.to_string()))?.to_owned();
            let data = section.data().map_err(|error| cut(error.to_string()))?;
            Ok(Section { name, data })
        })
        .collect()
}

/// The bytes of one section.
///
/// # Errors
/// As [`sections`], and when there is none of this name.
pub fn section<'a>(image: &'a [u8], name: &'static str) -> Result<&'a [u8], UkiError> {
    let found = sections(image)?.into_iter().find(|section| section.name == name);
    found.map(|section| section.data).ok_or(UkiError::Missing { name })
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The smallest PE file with this many bytes of headers and one section.
    pub fn stub(headers: u32) -> Vec<u8> {
        let mut pe = vec![0; 0x800];
        let mut put = |at: usize, bytes: &[u8]| pe[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3c, &[0x80]);
        put(0x80, b"PE\0\0");
        for (at, half) in [(0x84, 0x8664u16), (0x86, 1), (0x94, 0xf0), (0x98, 0x20b)] {
            put(at, &half.to_le_bytes());
        }
        for (at, word) in [(32, 0x1000u32), (36, 0x200), (56, 0x2000), (60, headers), (64, 77), (108, 16)] {
            put(0x98 + at, &word.to_le_bytes());
        }
        put(0x188, b".text");
        put(0x190, &[0x100u32, 0x1000, 0x200, 0x600].map(u32::to_le_bytes).concat());
        pe
    }

    const PARTS: Parts<'static> =
        Parts { os_release: "ID=roost\n", cmdline: "quiet", initrd: &[5; 5000], uname: "6.12", linux: &[7; 10_000] };

    #[test]
    fn sections_follow_the_stub_s_in_order_and_read_back() {
        let image = build(&stub(0x600), &PARTS).unwrap();
        let found: Vec<_> = sections(&image).unwrap().into_iter().map(|s| (s.name, s.data.len())).collect();
        let expect =
            [(".text", 256), (".osrel", 9), (".cmdline", 5), (".initrd", 5000), (".uname", 4), (".linux", 10_000)];
        assert_eq!(found, expect.map(|(name, len)| (name.to_owned(), len)));
        assert_eq!(section(&image, ".linux").unwrap(), PARTS.linux);
        assert!(matches!(section(&image, ".dtb"), Err(UkiError::Missing { name: ".dtb" })));
    }

    #[test]
    fn addresses_are_aligned_and_totals_are_kept() {
        let image = build(&stub(0x600), &PARTS).unwrap();
        let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
        assert_eq!(image.len() % 0x200, 0);
        assert_eq!(image[0x86], 6);
        // .text at 0x1000, then one page each but two for .initrd and three for .linux.
        assert_eq!(
            (0..6).map(|n| word(0x188 + n * 40 + 12)).collect::<Vec<_>>(),
            [0x1000, 0x2000, 0x3000, 0x4000, 0x6000, 0x7000]
        );
        assert_eq!(word(0x98 + 56), 0xa000, "size of the image in memory");
        assert_eq!(word(0x98 + 64), 0, "checksum");
    }

    #[test]
    fn a_stub_without_room_or_with_such_a_section_is_refused() {
        assert!(matches!(build(&stub(0x200), &PARTS), Err(UkiError::NoRoom { room: 2, wanted: 5 })));
        let mut taken = stub(0x600);
        taken[0x188..0x190].copy_from_slice(b".linux\0\0");
        assert!(matches!(build(&taken, &PARTS), Err(UkiError::Occupied { name }) if name == ".linux"));
        assert!(matches!(build(b"MZ", &PARTS), Err(UkiError::NotPe { .. })));
    }

    #[test]
    fn a_cut_uki_names_the_section() {
        let image = build(&stub(0x600), &PARTS).unwrap();
        let error = sections(&image[..image.len() - 4096]).unwrap_err().to_string();
        assert!(error.starts_with("Section .linux of the UKI is cut off"), "{error}");
    }

    proptest! {
        #[test]
        fn no_stub_and_no_uki_is_a_crash(at in 0usize..0x300, bytes in prop::collection::vec(any::<u8>(), 1..30), cut in 0usize..0x900) {
            let mut stub = stub(0x600);
            stub[at..at + bytes.len()].copy_from_slice(&bytes);
            stub.truncate(cut);
            if let Ok(image) = build(&stub, &PARTS) {
                let _may_be_damaged = sections(&image);
            }
            let _may_be_damaged = sections(&stub);
        }
    }
}
