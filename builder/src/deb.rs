//! Reading .deb packages: an `ar` archive whose `data.tar.*` holds the files.
//!
//! Each package is decompressed once, to `unpacked/SHA256.tar` in the cache; its members are then pieces
//! of that file and never copied. Maintainer scripts are in the other member, `control.tar`, which is
//! not opened.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{Content, Entry};
use model::Digest;
use sha2::Digest as _;

use crate::cache::Cache;
use crate::error::{Error, Result, at};
use crate::fetch::deb_path;
use crate::lock::Package;
use crate::parallel::each_in_parallel;
use crate::report::{Report, Step, megabytes};

/// One member of a package: its path as stored (without the leading `./`) and what it is.
#[derive(Debug)]
pub struct Member {
    /// Relative path; empty for the root.
    pub path: String,
    /// What lies there. Its origin is the package.
    pub entry: Entry,
}

/// Decompresses those packages that are not yet, on all processors.
pub fn unpack(packages: &[Package], cache: &Cache, report: &Report) -> Result<()> {
    let mut todo: Vec<&Package> = Vec::new();
    for package in packages {
        if !tar_path(cache, package)?.is_file() {
            todo.push(package);
        }
    }
    if todo.is_empty() {
        return Ok(());
    }
    todo.sort_by_key(|p| std::cmp::Reverse(p.size));
    let total = todo.iter().map(|p| p.size).sum();
    let step = report.step("unpack", Some(total));
    let count = todo.len();
    each_in_parallel(todo, |package| unpack_one(package, cache, &step))?;
    step.end(&format!("{count} packages, {}", megabytes(total)));
    Ok(())
}

/// Where a package's files are once unpacked.
pub fn tar_path(cache: &Cache, package: &Package) -> Result<PathBuf> {
    Ok(cache.folder("unpacked")?.join(format!("{}.tar", package.sha256)))
}

fn unpack_one(package: &Package, cache: &Cache, step: &Step<'_>) -> Result<()> {
    let deb = deb_path(cache, package)?;
    step.detail(&package.name);
    let bytes = std::fs::read(&deb).map_err(at("read", &deb))?;
    verify(package, &bytes, &deb)?;
    let target = tar_path(cache, package)?;
    let folder = target.parent().unwrap_or(Path::new("."));
    let temporary = tempfile::NamedTempFile::new_in(folder).map_err(at("create a file in", folder))?;
    let mut out = BufWriter::with_capacity(1 << 20, temporary);
    copy_data(&bytes, &mut out, package)?;
    out.flush().map_err(at("write", &target))?;
    let temporary = out.into_inner().map_err(|e| at("write", &target)(e.into_error()))?;
    temporary.persist(&target).map_err(|e| at("write", &target)(e.error))?;
    step.advance(package.size);
    Ok(())
}

/// A cached package may have rotted on disk; it is removed, so that the next build fetches it afresh.
fn verify(package: &Package, bytes: &[u8], deb: &Path) -> Result<()> {
    let found = Digest(sha2::Sha256::digest(bytes).into());
    if found == package.sha256 {
        return Ok(());
    }
    std::fs::remove_file(deb).map_err(at("remove", deb))?;
    Err(Error::BadPackage {
        package: package.to_string(),
        found: found.to_string(),
        expected: package.sha256.to_string(),
        advice: "the cached copy was removed; run the build again to fetch it afresh",
    })
}

/// Finds `data.tar.*` and writes it decompressed.
fn copy_data(deb: &[u8], out: &mut impl std::io::Write, package: &Package) -> Result<()> {
    let broken = |part: &str, source: std::io::Error| Error::Deb {
        package: package.to_string(),
        part: part.to_owned(),
        source: Box::new(source),
    };
    let mut archive = ar::Archive::new(deb);
    while let Some(member) = archive.next_entry() {
        let member = member.map_err(|e| broken("the archive", e))?;
        let name = String::from_utf8_lossy(member.header().identifier()).trim_end_matches('/').to_owned();
        if !name.starts_with("data.tar") {
            continue;
        }
        let mut plain: Box<dyn Read + '_> = match name.as_str() {
            "data.tar" => Box::new(member),
            "data.tar.gz" => Box::new(flate2::read::GzDecoder::new(member)),
            "data.tar.xz" => Box::new(lzma_rust2::XzReader::new(BufReader::new(member), true)),
            "data.tar.zst" => Box::new(zstd::Decoder::new(member).map_err(|e| broken(&name, e))?),
            _ => return Err(broken(&name, std::io::Error::other("no known compression: expected .xz, .zst or .gz"))),
        };
        return copy(&mut plain, out).map_err(|e| broken(&name, e));
    }
    Err(broken("the archive", std::io::Error::other("it has no data.tar: it is no .deb")))
}

fn copy(from: &mut dyn Read, to: &mut impl std::io::Write) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n])?,
        }
    }
}

/// The members of an unpacked package, in the order of the archive.
pub fn members(package: &Package, cache: &Cache) -> Result<Vec<Member>> {
    let tar: Arc<Path> = tar_path(cache, package)?.into();
    let broken = |part: String, source: std::io::Error| Error::Deb {
        package: package.to_string(),
        part,
        source: Box::new(source),
    };
    let file = File::open(&tar).map_err(at("read", &tar))?;
    let mut archive = tar::Archive::new(file);
    let mut reading = Reading { tar: tar.clone(), origin: package.name.as_str().into(), contents: BTreeMap::new() };
    let mut members = Vec::new();
    for entry in archive.entries_with_seek().map_err(|e| broken("data.tar".into(), e))? {
        let entry = entry.map_err(|e| broken("data.tar".into(), e))?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let member = reading.member(&path, &entry).map_err(|e| broken(path.clone(), e))?;
        members.extend(member);
    }
    Ok(members)
}

struct Reading {
    tar: Arc<Path>,
    origin: Arc<str>,
    /// Files seen so far, for hard links to them.
    contents: BTreeMap<String, Content>,
}

impl Reading {
    fn member<R: Read>(&mut self, path: &str, entry: &tar::Entry<'_, R>) -> std::io::Result<Option<Member>> {
        let path = plain(path)?;
        let header = entry.header();
        let link = || entry.link_name_bytes().map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
        let made = match header.entry_type() {
            tar::EntryType::Directory => Entry::dir(0),
            tar::EntryType::Symlink => Entry::symlink(link()),
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let part =
                    Content::Part { path: self.tar.clone(), offset: entry.raw_file_position(), len: entry.size() };
                self.contents.insert(path.clone(), part.clone());
                Entry::file(0, part)
            }
            tar::EntryType::Link => {
                let target = plain(&link())?;
                let content = self.contents.get(&target);
                let missing =
                    || std::io::Error::other(format!("it is a hard link to '{target}', which does not come before it"));
                Entry::file(0, content.ok_or_else(missing)?.clone())
            }
            // Packages bring no devices; a header of the archive itself is no file.
            _ => return Ok(None),
        };
        let mode = if made.link_target().is_some() { 0o777 } else { header.mode()? & 0o7777 };
        let mut made = made.owned_by(header.uid()? as u32, header.gid()? as u32).modified(header.mtime()? as i64);
        made.mode = mode as u16;
        Ok(Some(Member { path, entry: made.from_origin(self.origin.clone()) }))
    }
}

fn plain(path: &str) -> std::io::Result<String> {
    image::tree::normalise(path).map_err(std::io::Error::other)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::lock::Archive;
    use crate::report::Style;

    /// Makes a .deb of these files in the cache; a path that ends with '/' is a directory, one with `->` a link.
    pub(crate) fn package(cache: &Cache, name: &str, files: &[(&str, &[u8])]) -> Package {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            append(&mut tar, path, bytes);
        }
        let data = zstd::encode_all(tar.into_inner().expect("a tar").as_slice(), 1).expect("zstd");
        let mut deb = ar::Builder::new(Vec::new());
        for (name, bytes) in [("debian-binary", b"2.0\n".as_slice()), ("data.tar.zst", &data)] {
            let header = ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64);
            deb.append(&header, bytes).expect("a member");
        }
        store(cache, name, &deb.into_inner().expect("a deb"))
    }

    pub(crate) fn store(cache: &Cache, name: &str, deb: &[u8]) -> Package {
        let package = Package {
            name: name.into(),
            version: "1".into(),
            arch: "all".into(),
            archive: Archive::Debian,
            path: format!("pool/{name}_1_all.deb"),
            size: deb.len() as u64,
            sha256: Digest(sha2::Sha256::digest(deb).into()),
        };
        std::fs::write(deb_path(cache, &package).expect("a path"), deb).expect("a cached deb");
        package
    }

    fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        if let Some((link, target)) = path.split_once(" -> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            tar.append_link(&mut header, format!("./{link}"), target).expect("a link");
        } else if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            tar.append_data(&mut header, format!("./{path}"), std::io::empty()).expect("a directory");
        } else {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(if path.contains("bin/") { 0o755 } else { 0o644 });
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, format!("./{path}"), bytes).expect("a file");
        }
    }

    #[test]
    fn members_of_a_package_are_pieces_of_its_unpacked_tar() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = Cache::at(dir.path());
        let p = package(&cache, "aa", &[("usr/", b""), ("usr/x", b"hello"), ("usr/y -> x", b"")]);
        let report = Report::new(Style::Silent);
        unpack(std::slice::from_ref(&p), &cache, &report).expect("unpacked");
        let members = members(&p, &cache).expect("members");
        let shown: Vec<_> = members.iter().map(|m| (m.path.as_str(), m.entry.mode, m.entry.kind.name())).collect();
        assert_eq!(shown, [("usr", 0o755, "directory"), ("usr/x", 0o644, "file"), ("usr/y", 0o777, "symbolic link")]);
        assert_eq!(&*members[1].entry.content().expect("a file").read().expect("bytes"), b"hello");
        assert_eq!(members[1].entry.origin.as_deref(), Some("aa"));
    }

    #[test]
    fn a_cached_package_that_rotted_is_named_and_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = Cache::at(dir.path());
        let p = package(&cache, "aa", &[("x", b"hello")]);
        let deb = deb_path(&cache, &p).expect("a path");
        let mut bytes = std::fs::read(&deb).expect("the deb");
        bytes[100] ^= 1;
        std::fs::write(&deb, bytes).expect("a changed deb");
        let error = unpack(&[p], &cache, &Report::new(Style::Silent)).expect_err("a bad byte").to_string();
        assert!(error.starts_with("Package aa 1: SHA-256 is "), "{error}");
        assert!(!deb.exists());
    }

    #[test]
    fn what_is_no_deb_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = Cache::at(dir.path());
        for bytes in [b"not an archive".as_slice(), b"!<arch>\n"] {
            let p = store(&cache, "aa", bytes);
            let error = unpack(&[p], &cache, &Report::new(Style::Silent)).expect_err("no deb").to_string();
            assert_eq!(error, "Package aa 1: cannot read the archive");
        }
    }
}
