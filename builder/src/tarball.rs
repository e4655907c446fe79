//! Writing a guest's tree as `tar.zst`: sorted, with numeric owners, the same bytes for the same tree.

use std::io::Write;
use std::path::Path;

use image::manifest::Artifact;
use image::{Entry, Kind, Tree};

use crate::error::{Error, Result, at};
use crate::programs::Level;
use crate::report::Report;

/// Writes the tree to `file`, whole or not at all.
pub fn write(tree: &Tree, file: &Path, level: Level, report: &Report) -> Result<Artifact> {
    let step = report.step("tar.zst", Some(tree.content_bytes()));
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(at("create", folder))?;
    let temporary = tempfile::Builder::new()
        .prefix(".roost-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(at("create a file in", folder))?;
    let out = compressor(temporary, level).map_err(at("write", file))?;
    let out = pack(tree, out, |n| step.advance(n))
        .map_err(|source| Error::Assemble { action: format!("write {}", file.display()), source: Box::new(source) })?;
    let temporary = out.finish().map_err(at("write", file))?;
    temporary.persist(file).map_err(|e| at("write", file)(e.error))?;
    let written = std::fs::File::open(file).and_then(Artifact::of).map_err(at("read", file))?;
    step.end(&crate::report::megabytes(written.bytes));
    Ok(written)
}

/// The bytes depend on the level and on having workers at all, but not on how many there are.
fn compressor<W: Write>(out: W, level: Level) -> std::io::Result<zstd::Encoder<'static, W>> {
    let strength = if level == Level::Release { 19 } else { 3 };
    let mut encoder = zstd::Encoder::new(out, strength)?;
    encoder.multithread(std::thread::available_parallelism().map_or(1, |n| n.get() as u32))?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}

/// Writes all entries but the root; extended attributes go into PAX records as tar programs keep them.
fn pack<W: Write>(tree: &Tree, out: W, mut progress: impl FnMut(u64)) -> std::io::Result<W> {
    let mut tar = tar::Builder::new(out);
    for (path, entry) in tree.walk().filter(|(path, _)| !path.is_empty()) {
        if !entry.xattrs.is_empty() {
            let records: Vec<(String, &[u8])> =
                entry.xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.as_slice())).collect();
            tar.append_pax_extensions(records.iter().map(|(k, v)| (k.as_str(), *v)))?;
        }
        let mut header = header(entry);
        match &entry.kind {
            Kind::Dir => tar.append_data(&mut header, format!("{path}/"), std::io::empty())?,
            Kind::Symlink(target) => tar.append_link(&mut header, path, target)?,
            Kind::File(content) => {
                header.set_size(content.len());
                tar.append_data(&mut header, path, content.open().map_err(std::io::Error::other)?)?;
                progress(content.len());
            }
            // A container gets its devices from the node.
            _ => {}
        }
    }
    tar.into_inner()
}

fn header(entry: &Entry) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(match entry.kind {
        Kind::Dir => tar::EntryType::Directory,
        Kind::Symlink(_) => tar::EntryType::Symlink,
        _ => tar::EntryType::Regular,
    });
    header.set_mode(u32::from(entry.mode));
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_mtime(entry.mtime.max(0) as u64);
    header.set_size(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Style;
    use std::io::Read as _;

    #[test]
    fn a_tree_is_written_with_owners_times_links_and_attributes() {
        let mut tree = Tree::new();
        tree.insert("d", Entry::dir(0o750).owned_by(1000, 100).modified(7)).expect("inserted");
        let file = Entry::file(0o4755, "hello").with_xattr("user.x", b"1".to_vec());
        tree.insert("d/f", file).expect("inserted");
        tree.insert("l", Entry::symlink("d/f")).expect("inserted");
        let dir = tempfile::tempdir().expect("a folder");
        let (one, two) = (dir.path().join("1"), dir.path().join("2"));
        for out in [&one, &two] {
            write(&tree, out, Level::Dev, &Report::new(Style::Silent)).expect("written");
        }
        let bytes = std::fs::read(&one).expect("the file");
        assert_eq!(bytes, std::fs::read(&two).expect("the file"));
        let plain = zstd::decode_all(&*bytes).expect("zstd");
        let mut archive = tar::Archive::new(&*plain);
        let mut seen = Vec::new();
        for entry in archive.entries().expect("a tar") {
            let mut entry = entry.expect("an entry");
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("text");
            let pax: Vec<String> = entry
                .pax_extensions()
                .expect("pax")
                .into_iter()
                .flatten()
                .map(|e| e.expect("pax").key().expect("a key").to_owned())
                .collect();
            let h = entry.header();
            seen.push(format!(
                "{} {:o} {}:{} {} {text} {pax:?}",
                entry.path().expect("a path").display(),
                h.mode().expect("mode"),
                h.uid().expect("uid"),
                h.gid().expect("gid"),
                h.mtime().expect("mtime")
            ));
        }
        assert_eq!(
            seen,
            ["d/ 750 1000:100 7  []", "d/f 4755 0:0 0 hello [\"SCHILY.xattr.user.x\"]", "l 777 0:0 0  []"]
        );
    }
}
