//! What differs between two images: packages, files, and what a node fetches to get from one to the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use image::chunks::{self, Chunk};
use image::manifest::{self, Manifest, Package};
use image::set::{self, Section, Set, SetError};
use serde::Serialize;

/// Why two images cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// There is no manifest.
    #[error("Cannot read the manifest {}: name an image of `roost build`, or its folder", path.display())]
    Manifest {
        /// Where it was looked for.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no manifest.
    #[error("{} is no manifest of an image", path.display())]
    Form {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// A set cannot be read.
    #[error("Cannot read the update set {}", path.display())]
    Set {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: SetError,
    },
}

type Result<T> = std::result::Result<T, DiffError>;

/// One thing that is not the same in both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Package or path.
    pub name: String,
    /// Version or nothing, and bytes, in the first; absent when it came.
    pub before: Option<(String, u64)>,
    /// The same in the second; absent when it went.
    pub after: Option<(String, u64)>,
}

/// What a node fetches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Wire {
    /// Bytes of the set's beginning and of its chunk table.
    pub head: u64,
    /// Bytes fetched of the UKI, and all its bytes.
    pub uki: (u64, u64),
    /// Bytes fetched of the root, and all its bytes.
    pub root: (u64, u64),
    /// Requests for all of that.
    pub requests: usize,
}

impl Wire {
    /// All bytes fetched.
    pub fn bytes(&self) -> u64 {
        self.head + self.uki.0 + self.root.0
    }
}

/// Two images, compared.
#[derive(Clone, Debug, Serialize)]
pub struct Diff {
    /// Packages, by name.
    pub packages: Vec<Change>,
    /// Files, by path.
    pub files: Vec<Change>,
    /// What the update costs; absent when one of them has no update set.
    pub wire: Option<Wire>,
}

/// Compares two images of `roost build`: a folder, or any artifact in it.
pub fn diff(before: &Path, after: &Path) -> Result<Diff> {
    let (old, new) = (Image::open(before)?, Image::open(after)?);
    let package = |m: &Manifest| {
        let value = |p: &Package| (format!("{} {}", p.version, p.bytes), (p.version.clone(), p.bytes));
        m.packages.iter().map(|(name, p)| (name.clone(), value(p))).collect::<Side>()
    };
    let file = |m: &Manifest| {
        let value = |f: &manifest::File| (format!("{f:?}"), (String::new(), f.bytes.unwrap_or(0)));
        m.files.iter().map(|(path, f)| (path.clone(), value(f))).collect::<Side>()
    };
    let packages = changes(&package(&old.manifest), &package(&new.manifest));
    let files = changes(&file(&old.manifest), &file(&new.manifest));
    let wire = if old.set.exists() && new.set.exists() { Some(wire(&old.set, &new.set)?) } else { None };
    Ok(Diff { packages, files, wire })
}

/// By name: what decides whether it is the same, and what is shown.
type Side = BTreeMap<String, (String, (String, u64))>;

fn changes(old: &Side, new: &Side) -> Vec<Change> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differs = |name: &&&String| old.get(**name).map(|v| &v.0) != new.get(**name).map(|v| &v.0);
    let shown = |side: &Side, name: &String| side.get(name).map(|value| value.1.clone());
    let change = |name: &String| Change { name: name.clone(), before: shown(old, name), after: shown(new, name) };
    names.iter().filter(differs).map(|name| change(name)).collect()
}

/// One image: its manifest, and where its set would be.
struct Image {
    manifest: Manifest,
    set: PathBuf,
}

impl Image {
    fn open(path: &Path) -> Result<Self> {
        let file = manifest_of(path);
        let text = std::fs::read(&file).map_err(|source| DiffError::Manifest { path: file.clone(), source })?;
        let manifest = Manifest::from_json(&text).map_err(|source| DiffError::Form { path: file.clone(), source })?;
        let set = file.with_file_name(format!("{}.{}", manifest.name, set::SUFFIX));
        Ok(Self { manifest, set })
    }
}

/// The manifest of an artifact, or the only one in a folder.
pub(crate) fn manifest_of(path: &Path) -> PathBuf {
    const SUFFIX: &str = ".manifest.json";
    if path.is_dir() {
        let names = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut found: Vec<PathBuf> = names.filter(|p| p.to_string_lossy().ends_with(SUFFIX)).collect();
        found.sort();
        // Of several, a node's: it is what is updated.
        let node = found.iter().find(|p| p.ends_with("node.manifest.json")).or(found.first());
        return node.cloned().unwrap_or_else(|| path.join("node.manifest.json"));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name.ends_with(SUFFIX) {
        return path.to_owned();
    }
    path.with_file_name(format!("{}{SUFFIX}", name.split('.').next().unwrap_or_default()))
}

/// What a node that has all of one set fetches of another.
fn wire(old: &Path, new: &Path) -> Result<Wire> {
    let (have_uki, have_root, _) = tables(old)?;
    let (uki, root, head) = tables(new)?;
    let have = have_uki.into_iter().chain(have_root).collect();
    let part = |table: &[Chunk]| {
        let pieces = chunks::missing(table, &have, chunks::GAP);
        let fetched: u64 = pieces.iter().map(|piece| piece.bytes.end - piece.bytes.start).sum();
        ((fetched, table.iter().map(|chunk| u64::from(chunk.len)).sum()), pieces.len())
    };
    let ((uki, first), (root, second)) = (part(&uki), part(&root));
    // Two more: the beginning, and the table.
    Ok(Wire { head, uki, root, requests: first + second + 2 })
}

/// The chunks of UKI and root, and the bytes of the beginning and the table.
fn tables(path: &Path) -> Result<(Vec<Chunk>, Vec<Chunk>, u64)> {
    let failed = |source| DiffError::Set { path: path.to_owned(), source };
    let read = |source| failed(SetError::Read { section: "chunk table", source });
    let mut file = File::open(path).map_err(read)?;
    let set = Set::open(&mut file).map_err(failed)?;
    let range = set.header.range(Section::Chunks);
    let mut table = Vec::new();
    file.seek(SeekFrom::Start(range.start)).map_err(read)?;
    file.take(range.end - range.start).read_to_end(&mut table).map_err(read)?;
    let all = chunks::from_bytes(&table).map_err(|error| failed(error.into()))?;
    let split = chunks::split(&all, set.manifest.uki.bytes, set.manifest.root.bytes);
    let (uki, root) = split.map_err(|error| failed(error.into()))?;
    let head = set.header.range(Section::Signatures).end + table.len() as u64;
    Ok((uki.to_vec(), root.to_vec(), head))
}

#[cfg(test)]
mod tests {
    use image::Entry;

    use super::*;
    use crate::assemble::tests::{Bench, node};

    #[test]
    fn what_changed_is_named_and_the_rest_is_not_fetched() {
        let bench = Bench::new();
        let (old, mut other) = (node(), node());
        drop(other.root.replace("usr/bin/tool", Entry::file(0o755, vec![5; 1000]).from_origin("tool")));
        drop(other.root.insert("new", Entry::file(0o644, "new")));
        let a = bench.assemble(&old, "a").expect("assembled").raw;
        let b = bench.assemble(&other, "b").expect("assembled").raw;
        let found = diff(&a, b.parent().expect("a folder")).expect("compared");
        let names: Vec<&str> = found.files.iter().map(|change| change.name.as_str()).collect();
        assert_eq!(names, ["new", "usr/bin/tool"]);
        assert_eq!(found.files[0].before, None);
        assert_eq!(found.files[1].after, Some((String::new(), 1000)));
        assert_eq!(found.packages.iter().filter(|change| change.name == "tool").count(), 1);
        let wire = found.wire.expect("both have sets");
        assert!(wire.root.0 > 0 && wire.bytes() > wire.root.0 && wire.requests > 2, "{wire:?}");

        let same = diff(&a, &a.with_extension("set")).expect("compared");
        assert!(same.files.is_empty() && same.packages.is_empty());
        assert_eq!(same.wire.map(|wire| (wire.uki.0, wire.root.0, wire.requests)), Some((0, 0, 2)));
    }

    #[test]
    fn what_is_no_image_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = diff(folder.path(), folder.path()).expect_err("nothing there").to_string();
        assert!(error.contains("node.manifest.json"), "{error}");
    }
}
