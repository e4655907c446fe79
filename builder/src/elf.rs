//! What the dynamic loader will read from an ELF file, and stripping programs of ours.

use std::ops::Range;

use object::elf::{self, FileHeader64, ProgramHeader64};
use object::endian::LittleEndian as Little;
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};

/// What a file needs from others to be loaded.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Its loader, an absolute path; only programs have one.
    pub interpreter: Option<String>,
    /// Names of libraries (DT_NEEDED).
    pub libraries: Vec<String>,
    /// Folders to look in first (DT_RUNPATH, or DT_RPATH), possibly with `$ORIGIN`.
    pub run_path: Vec<String>,
}

/// Whether bytes begin as an ELF file does.
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// Reads the needs of a 64-bit little-endian ELF file by its program headers, as the loader does.
pub fn needs(bytes: &[u8]) -> Result<Needs, object::read::Error> {
    let header = FileHeader64::<Little>::parse(bytes)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, bytes)?;
    let mut needs = Needs::default();
    for segment in segments {
        if let Some(path) = segment.interpreter(endian, bytes)? {
            needs.interpreter = Some(String::from_utf8_lossy(path).into_owned());
        }
        if let Some(entries) = segment.dynamic(endian, bytes)? {
            read_dynamic(entries, segments, bytes, &mut needs)?;
        }
    }
    Ok(needs)
}

fn read_dynamic(
    entries: &[elf::Dyn64<Little>],
    segments: &[ProgramHeader64<Little>],
    bytes: &[u8],
    needs: &mut Needs,
) -> Result<(), object::read::Error> {
    let live = || entries.iter().take_while(|d| d.d_tag(Little) != elf::DT_NULL);
    let value = |tag| live().find(|d| d.d_tag(Little) == tag).map(|d| d.d_val(Little));
    let (Some(address), Some(size)) = (value(elf::DT_STRTAB), value(elf::DT_STRSZ)) else { return Ok(()) };
    let strings = segments
        .iter()
        .filter(|s| s.p_type(Little) == elf::PT_LOAD)
        .find_map(|s| s.data_range(Little, bytes, address, size).ok().flatten());
    let strings = strings.unwrap_or_default();
    let text = |offset: u64| {
        let tail = strings.get(usize::try_from(offset).ok()?..)?;
        let end = tail.iter().position(|b| *b == 0)?;
        Some(String::from_utf8_lossy(&tail[..end]).into_owned())
    };
    needs.libraries =
        live().filter(|d| d.d_tag(Little) == elf::DT_NEEDED).filter_map(|d| text(d.d_val(Little))).collect();
    let run_path = value(elf::DT_RUNPATH).or_else(|| value(elf::DT_RPATH)).and_then(text).unwrap_or_default();
    needs.run_path = run_path.split(':').filter(|p| !p.is_empty()).map(str::to_owned).collect();
    Ok(())
}

/// Drops symbols and debug information: everything after the last byte that is loaded, the table of sections, and the
/// build id, a digest of all that is dropped: it differs with the folder in which a program was compiled. What the
/// kernel and a static program itself read is unchanged.
pub fn strip(mut bytes: Vec<u8>) -> Result<Vec<u8>, object::read::Error> {
    let header = FileHeader64::<Little>::parse(&*bytes)?;
    let endian = header.endian()?;
    let loaded = header.program_headers(endian, &*bytes)?.iter().map(|s| s.p_offset(endian) + s.p_filesz(endian)).max();
    let end = loaded.unwrap_or(0).max(size_of::<FileHeader64<Little>>() as u64);
    if let Some(id) = build_id(&bytes)? {
        bytes[id].fill(0);
    }
    bytes.truncate(usize::try_from(end).unwrap_or(usize::MAX));
    // e_shoff (8 bytes at 40), e_shnum and e_shstrndx (2 each at 60): no sections.
    bytes[40..48].fill(0);
    bytes[60..64].fill(0);
    Ok(bytes)
}

/// Where the linker's build id is.
fn build_id(bytes: &[u8]) -> Result<Option<Range<usize>>, object::read::Error> {
    let header = FileHeader64::<Little>::parse(bytes)?;
    let endian = header.endian()?;
    for segment in header.program_headers(endian, bytes)? {
        let Some(mut notes) = segment.notes(endian, bytes)? else { continue };
        while let Some(note) = notes.next()? {
            if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
                let start = note.desc().as_ptr().addr() - bytes.as_ptr().addr();
                return Ok(Some(start..start + note.desc().len()));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A minimal ELF file: header, three program headers (load all, interpreter, dynamic), then their contents.
    pub(crate) fn made(interpreter: Option<&str>, libraries: &[&str], run_path: Option<&str>) -> Vec<u8> {
        let mut strings = vec![0];
        let mut intern = |text: &str| {
            let at = strings.len() as u64;
            strings.extend(text.bytes().chain([0]));
            at
        };
        let mut entries: Vec<(u64, u64)> = libraries.iter().map(|l| (1, intern(l))).collect();
        entries.extend(run_path.map(|p| (29, intern(p))));
        let interpreter_at = intern(interpreter.unwrap_or(""));
        let interpreter_len = interpreter.map_or(0, |i| i.len() as u64 + 1);
        let strings_at = 64 + 3 * 56;
        let dynamic_at = strings_at + strings.len() as u64;
        entries.extend([(5, strings_at), (10, strings.len() as u64), (0, 0)]);
        let total = dynamic_at + entries.len() as u64 * 16;
        let mut out = b"\x7fELF\x02\x01\x01".to_vec();
        out.resize(16, 0);
        for half in [3u16, 62] {
            out.extend(half.to_le_bytes());
        }
        out.extend(1u32.to_le_bytes());
        for word in [0u64, 64, total] {
            out.extend(word.to_le_bytes());
        }
        out.extend(0u32.to_le_bytes());
        for half in [64u16, 56, 3, 64, 0, 0] {
            out.extend(half.to_le_bytes());
        }
        let kind_interpreter = if interpreter.is_some() { 3 } else { 0 };
        for (kind, at, len) in [
            (1u32, 0, total),
            (kind_interpreter, strings_at + interpreter_at, interpreter_len),
            (2, dynamic_at, entries.len() as u64 * 16),
        ] {
            out.extend(kind.to_le_bytes());
            out.extend(4u32.to_le_bytes());
            for word in [at, at, at, len, len, 8] {
                out.extend(word.to_le_bytes());
            }
        }
        out.extend(strings);
        for (tag, value) in entries {
            out.extend(tag.to_le_bytes());
            out.extend(value.to_le_bytes());
        }
        out
    }

    #[test]
    fn needs_are_read_as_the_loader_reads_them() {
        let found =
            needs(&made(Some("/lib64/ld.so"), &["liba.so.1", "libb.so.2"], Some("$ORIGIN/x:/opt"))).expect("an ELF");
        assert_eq!(found.interpreter.as_deref(), Some("/lib64/ld.so"));
        assert_eq!(found.libraries, ["liba.so.1", "libb.so.2"]);
        assert_eq!(found.run_path, ["$ORIGIN/x", "/opt"]);
        assert_eq!(needs(&made(None, &[], None)).expect("an ELF"), Needs::default());
    }

    #[test]
    fn stripping_drops_what_is_not_loaded_and_keeps_the_rest() {
        let plain = made(Some("/lib64/ld.so"), &["liba.so.1"], None);
        let mut fat = plain.clone();
        fat.extend(b"symbols and sections");
        let thin = strip(fat).expect("an ELF");
        assert_eq!(thin.len(), plain.len());
        assert_eq!(needs(&thin).expect("an ELF"), needs(&plain).expect("an ELF"));
        assert_eq!(&thin[40..48], &[0; 8]);
    }

    #[test]
    fn stripping_takes_the_build_id_away() {
        let mut bytes = made(None, &["liba.so.1"], None);
        let at = bytes.len() as u64;
        // The second program header, which names no loader here.
        bytes[120..124].copy_from_slice(&elf::PT_NOTE.0.to_le_bytes());
        bytes[128..136].copy_from_slice(&at.to_le_bytes());
        bytes[152..160].copy_from_slice(&36u64.to_le_bytes());
        for word in [4, 20, elf::NT_GNU_BUILD_ID.0] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(b"GNU\0");
        bytes.extend([0xab; 20]);
        let thin = strip(bytes.clone()).expect("an ELF");
        let (before, id) = thin.split_at(bytes.len() - 20);
        assert_eq!(id, [0; 20]);
        assert!(before.ends_with(b"GNU\0") && before[64..] == bytes[64..bytes.len() - 20]);
    }

    proptest::proptest! {
        #[test]
        fn no_file_makes_the_reader_panic(at in 0usize..400, byte: u8, cut in 0usize..400) {
            let mut bytes = made(Some("/lib64/ld.so"), &["liba.so.1"], Some("/x"));
            let (at, cut) = (at % bytes.len(), cut % bytes.len());
            bytes[at] = byte;
            let _ = needs(&bytes);
            let _ = needs(&bytes[..cut]);
            let _ = strip(bytes[..cut].to_vec());
        }
    }
}
