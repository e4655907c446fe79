//! Initial RAM file systems: cpio in the `newc` form that the kernel unpacks.

use std::io::{self, Write};

use thiserror::Error;

use crate::tree::{Entry, Kind, Tree, TreeError};

/// Why an archive could not be written.
#[derive(Debug, Error)]
pub enum CpioError {
    /// The output refused bytes.
    #[error("Cannot write the cpio archive")]
    Write(#[source] io::Error),
    /// A file's contents could not be opened.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A file's contents could not be read.
    #[error("Cannot read the contents of {path} for the cpio archive")]
    Read {
        /// The file's path in the archive.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The form counts in 32 bits.
    #[error("{path} is {len} bytes long, and a cpio archive holds files below 4 GiB")]
    TooLarge {
        /// The file's path in the archive.
        path: String,
        /// Its length.
        len: u64,
    },
    /// The form has no place for extended attributes.
    #[error("{path} has extended attributes, which a cpio archive cannot hold")]
    Xattrs {
        /// The file's path in the archive.
        path: String,
    },
}

/// Writes a whole tree, sorted by path, inodes numbered in that order, padded to 4 bytes.
///
/// # Errors
/// When an entry cannot be read or stored, or the output cannot be written.
pub fn write_tree<W: Write>(out: W, tree: &Tree) -> Result<W, CpioError> {
    let mut out = Counted { out, written: 0 };
    let mut inode = 0;
    for (path, entry) in tree.walk().filter(|(path, _)| !path.is_empty()) {
        inode += 1;
        if !entry.xattrs.is_empty() {
            return Err(CpioError::Xattrs { path: path.to_owned() });
        }
        let len = match &entry.kind {
            Kind::File(content) => content.len(),
            Kind::Symlink(target) => target.len() as u64,
            _ => 0,
        };
        let len = u32::try_from(len).map_err(|_| CpioError::TooLarge { path: path.to_owned(), len })?;
        out.header(path, entry, inode, len)?;
        match &entry.kind {
            Kind::File(content) => {
                io::copy(&mut content.open()?, &mut out)
                    .map_err(|source| CpioError::Read { path: path.to_owned(), source })?;
            }
            Kind::Symlink(target) => out.bytes(target.as_bytes())?,
            _ => {}
        }
        out.pad()?;
    }
    let end = Entry { mode: 0, kind: Kind::Socket, ..Entry::dir(0) };
    out.header("TRAILER!!!", &end, 0, 0)?;
    Ok(out.out)
}

struct Counted<W> {
    out: W,
    written: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: Write> Counted<W> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), CpioError> {
        self.write_all(bytes).map_err(CpioError::Write)
    }

    fn pad(&mut self) -> Result<(), CpioError> {
        let missing = self.written.next_multiple_of(4) - self.written;
        self.bytes(&[0; 3][..usize::try_from(missing).unwrap_or_default()])
    }

    fn header(&mut self, path: &str, entry: &Entry, inode: u32, len: u32) -> Result<(), CpioError> {
        let (kind, major, minor) = match entry.kind {
            Kind::Dir => (0o040_000, 0, 0),
            Kind::File(_) => (0o100_000, 0, 0),
            Kind::Symlink(_) => (0o120_000, 0, 0),
            Kind::CharDev { major, minor } => (0o020_000, major, minor),
            Kind::BlockDev { major, minor } => (0o060_000, major, minor),
            Kind::Fifo => (0o010_000, 0, 0),
            Kind::Socket => (0o140_000, 0, 0),
        };
        let trailer = inode == 0;
        let mode = if trailer { 0 } else { kind | u32::from(entry.mode & 0o7777) };
        let links = if entry.is_dir() { 2 } else { 1 };
        let mtime = u32::try_from(entry.mtime.max(0)).unwrap_or(u32::MAX);
        let name_len = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        let words = [inode, mode, entry.uid, entry.gid, links, mtime, len, 0, 0, major, minor, name_len, 0];
        let mut text = String::from("070701");
        for word in words {
            text.push_str(&format!("{word:08x}"));
        }
        self.bytes(text.as_bytes())?;
        self.bytes(path.as_bytes())?;
        self.bytes(&[0])?;
        self.pad()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn another_reader_sees_every_entry() {
        let mut tree = Tree::new();
        tree.insert("init", Entry::file(0o755, "#!x").modified(7)).unwrap();
        tree.mkdir_p("dev").unwrap();
        tree.insert("dev/console", Entry::char_dev(0o600, 5, 1)).unwrap();
        tree.insert("sbin", Entry::symlink("usr/bin")).unwrap();
        let bytes = write_tree(Vec::new(), &tree).unwrap();
        let mut rest = &bytes[..];
        let mut seen = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            let entry = reader.entry().clone();
            if entry.is_trailer() {
                break;
            }
            let mut data = String::new();
            reader.read_to_string(&mut data).unwrap();
            seen.push((entry.name().to_owned(), entry.mode(), entry.rdev_minor(), entry.ino(), data));
            rest = reader.finish().unwrap();
        }
        let expect = [
            ("dev", 0o040_755, 0, 1, ""),
            ("dev/console", 0o020_600, 1, 2, ""),
            ("init", 0o100_755, 0, 3, "#!x"),
            ("sbin", 0o120_777, 0, 4, "usr/bin"),
        ];
        assert_eq!(seen, expect.map(|(name, mode, minor, ino, data)| (name.into(), mode, minor, ino, data.into())));
    }

    #[test]
    fn extended_attributes_are_refused_rather_than_lost() {
        let mut tree = Tree::new();
        tree.insert("x", Entry::file(0o755, "").with_xattr("security.capability", "c")).unwrap();
        assert!(matches!(write_tree(Vec::new(), &tree), Err(CpioError::Xattrs { path }) if path == "x"));
    }
}
