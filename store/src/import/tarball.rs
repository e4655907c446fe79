//! A tar stream into a squashfs.

use super::{Counts, ImportError, Result, Writer, guests_id};
use image::squashfs::{Attrs, Special, xattr_is_storable};
use std::{
    cell::Cell,
    collections::BTreeMap,
    io::{self, Read},
    rc::Rc,
};
use tar::{Archive, Entry, EntryType};

/// Bytes that an entry's headers may take: long names and attributes are read into memory.
const HEADERS_MAX: u64 = 8 << 20;
/// Prefix of extended attributes in pax headers.
const XATTR: &str = "SCHILY.xattr.";

pub(super) fn unpack(reader: impl Read, writer: &mut Writer, counts: &mut Counts) -> Result<()> {
    let allowance = Rc::new(Cell::new(None));
    let mut archive = Archive::new(Rationed { inner: reader, left: allowance.clone() });
    let broken = |counts: &Counts, source| ImportError::Archive { entries: counts.entries, source };
    let mut entries = archive.entries().map_err(|e| broken(counts, e))?;
    loop {
        allowance.set(Some(HEADERS_MAX));
        let next = entries.next();
        allowance.set(None);
        let Some(entry) = next else { break };
        let mut entry = entry.map_err(|e| broken(counts, e))?;
        add(&mut entry, writer, counts)?;
        // What was not wanted of it, so that only headers are left for the next step.
        io::copy(&mut entry, &mut io::sink()).map_err(|e| broken(counts, e))?;
    }
    // Behind the end mark: padding, whose reading makes the decoder check its sums.
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(|e| broken(counts, e))?;
    Ok(())
}

fn add<R: Read>(entry: &mut Entry<'_, R>, writer: &mut Writer, counts: &mut Counts) -> Result<()> {
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::XGlobalHeader) {
        return Ok(());
    }
    let raw = entry.path_bytes().into_owned();
    let path = inside(&raw, &raw, "leaves the tree")?;
    let refuse = |reason: String| ImportError::Entry { path: lossy(&raw), reason };
    let attrs = attributes(entry, counts).map_err(refuse)?;
    let target = entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
    counts.entry(if kind.is_file() { entry.size() } else { 0 })?;
    let done = match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            // Of old: a name that ends in '/' is a directory.
            if raw.ends_with(b"/") { writer.dir(&path, &attrs) } else { writer.file(&path, &attrs, &mut *entry) }
        }
        EntryType::Directory => writer.dir(&path, &attrs),
        EntryType::Symlink => {
            check_symlink(&path, &target).map_err(|reason| ImportError::Entry { path: lossy(&raw), reason })?;
            writer.symlink(&path, &attrs, &target)
        }
        EntryType::Link => {
            let target = inside(&target, &raw, "is a hard link that leaves the tree")?;
            writer.hard_link(&path, &target)
        }
        EntryType::Fifo => writer.special(&path, &attrs, Special::Fifo),
        EntryType::Char | EntryType::Block => {
            counts.entries -= 1;
            counts.dropped_devices += 1;
            Ok(())
        }
        other => {
            let reason = format!("is an entry of unknown type {:?}", char::from(other.as_byte()));
            return Err(ImportError::Entry { path: lossy(&raw), reason });
        }
    };
    done.map_err(ImportError::Write)
}

/// The path without `.` and empty parts; it must be relative and without `..`.
fn inside(path: &[u8], name: &[u8], wrong: &str) -> Result<Vec<u8>> {
    let refuse = |why: &str| ImportError::Entry { path: lossy(name), reason: format!("{wrong}: {why}") };
    if path.starts_with(b"/") {
        return Err(refuse(&format!("{:?} is absolute", lossy(path))));
    }
    let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&&b".."[..]) {
        return Err(refuse(&format!("{:?} has a '..'", lossy(path))));
    }
    Ok(parts.join(&b'/'))
}

/// A symbolic link may be absolute (that is the guest's own root) but may not climb above it.
pub(super) fn check_symlink(path: &[u8], target: &[u8]) -> std::result::Result<(), String> {
    if target.starts_with(b"/") {
        return Ok(());
    }
    let mut depth = path.split(|b| *b == b'/').count() as i64 - 1;
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return Err(format!("is a symbolic link that leaves the tree: {:?}", lossy(target)));
        }
    }
    Ok(())
}

fn attributes<R: Read>(entry: &mut Entry<'_, R>, counts: &mut Counts) -> std::result::Result<Attrs, String> {
    let pax = pax(entry)?;
    if pax.contains_key("GNU.sparse.major") || pax.contains_key("GNU.sparse.map") {
        return Err("is a sparse file in a form that is not read here: pack without -S".to_owned());
    }
    let text = |e: io::Error| format!("has a bad header: {e}");
    let header = entry.header();
    let id = |key: &str, own: io::Result<u64>| -> std::result::Result<u32, String> {
        let id = match pax.get(key).and_then(|v| std::str::from_utf8(v).ok()?.parse::<u64>().ok()) {
            Some(id) => id,
            None => own.map_err(text)?,
        };
        guests_id(key, id)
    };
    let (uid, gid) = (id("uid", header.uid())?, id("gid", header.gid())?);
    let mode = u16::try_from(header.mode().map_err(text)? & 0o7777).unwrap_or_default();
    // Seconds are enough; pax may have fractions.
    let precise = pax.get("mtime").and_then(|v| std::str::from_utf8(v).ok()?.split('.').next()?.parse().ok());
    let mtime = precise.unwrap_or(i64::try_from(header.mtime().map_err(text)?).unwrap_or(i64::MAX));
    let mut xattrs = BTreeMap::new();
    for (name, value) in pax.iter().filter_map(|(key, value)| Some((key.strip_prefix(XATTR)?, value))) {
        if keeps(name) {
            xattrs.insert(name.to_owned(), value.clone());
        } else {
            counts.dropped_xattrs += 1;
        }
    }
    Ok(Attrs { mode, uid, gid, mtime, xattrs })
}

/// Attributes that mean something in a guest. `trusted.` means something only outside of it, and
/// overlayfs would believe its own ones in the lower layer.
pub(super) fn keeps(name: &str) -> bool {
    xattr_is_storable(name) && !name.starts_with("trusted.") && !name.starts_with("user.overlay.")
}

fn pax<R: Read>(entry: &mut Entry<'_, R>) -> std::result::Result<BTreeMap<String, Vec<u8>>, String> {
    let bad = |e: io::Error| format!("has a bad pax header: {e}");
    let mut found = BTreeMap::new();
    if let Some(extensions) = entry.pax_extensions().map_err(bad)? {
        for extension in extensions {
            let extension = extension.map_err(bad)?;
            let key = extension.key().map_err(|e| format!("has a bad pax header: {e}"))?;
            found.insert(key.to_owned(), extension.value_bytes().to_vec());
        }
    }
    Ok(found)
}

pub(super) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// A reader that, while it is rationed, gives an error instead of more than its allowance.
struct Rationed<R> {
    inner: R,
    left: Rc<Cell<Option<u64>>>,
}

impl<R: Read> Read for Rationed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if let Some(left) = self.left.get() {
            let less = left.checked_sub(read as u64);
            self.left.set(Some(less.ok_or_else(|| io::Error::other("an entry's headers take more than 8 MiB"))?));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_link(path: &str, target: &str, ok: bool) {
        assert_eq!(check_symlink(path.as_bytes(), target.as_bytes()).is_ok(), ok, "{path} -> {target}");
    }

    #[test]
    fn symbolic_links_stay_below_the_root() {
        check_link("bin", "usr/bin", true);
        check_link("etc/mtab", "../proc/self/mounts", true);
        check_link("etc/mtab", "/proc/self/mounts", true);
        check_link("etc/x", "../../etc", false);
        check_link("x", "..", false);
        check_link("a/b/c", "../../../x", false);
        check_link("a/b/c", ".././../x", true);
        check_link("a/b", "c/../../..", false);
    }

    #[test]
    fn paths_are_relative_and_plain() {
        let ok = |path: &str| String::from_utf8(inside(path.as_bytes(), b"", "").expect("fine")).expect("text");
        assert_eq!([ok("./usr//bin/"), ok("."), ok("a/./b")], ["usr/bin", "", "a/b"]);
        for bad in ["/etc/passwd", "../x", "a/../../x", "a/.."] {
            assert!(inside(bad.as_bytes(), bad.as_bytes(), "leaves the tree").is_err(), "{bad}");
        }
    }
}
