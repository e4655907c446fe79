//! What differs between two images: packages, files, and what a node fetches to get from one to the other.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use image::chunks::{self, Chunk};
use image::device::{Part, Stream};
use image::manifest::{self, Manifest, Package};
use image::patch::{self, PatchError};
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
    /// The patch in it cannot be used.
    #[error("Cannot use the patch in {}", path.display())]
    Patch {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: PatchError,
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
    /// Bytes of the patch against the first; 0 without one.
    pub patch: u64,
    /// Requests for all of that.
    pub requests: usize,
}

impl Wire {
    /// All bytes fetched.
    pub fn bytes(&self) -> u64 {
        self.head + self.uki.0 + self.root.0 + self.patch
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
    let (old, new) = (Opened::new(old)?, Opened::new(new)?);
    let (have_uki, have_root, _) = tables(&old)?;
    let (uki, root, head) = tables(&new)?;
    let mut have: HashSet<Chunk> = have_uki.into_iter().chain(have_root).collect();
    let patch = patched(&old, &new, &root, &mut have)?;
    let part = |table: &[Chunk]| {
        let pieces = chunks::missing(table, &have, chunks::GAP);
        let fetched: u64 = pieces.iter().map(|piece| piece.bytes.end - piece.bytes.start).sum();
        ((fetched, table.iter().map(|chunk| u64::from(chunk.len)).sum()), pieces.len())
    };
    let ((uki, first), (root, second)) = (part(&uki), part(&root));
    // Two more: the beginning, and the table.
    let requests = first + second + 2 + usize::from(patch > 0);
    Ok(Wire { head, uki, root, patch, requests })
}

/// Does with a patch what a node does, and adds the chunks that this makes to those that it has. Bytes of the patch;
/// none, and nothing is added, where there is none.
fn patched(old: &Opened, new: &Opened, root: &[Chunk], have: &mut HashSet<Chunk>) -> Result<u64> {
    let from = old.set.manifest.verity().map_err(|source| old.failed(source))?.root;
    let Some((patch, range)) = new.set.patch(&from) else { return Ok(0) };
    let bytes = patch.bytes;
    let root_bytes = new.set.header.len(Section::Root);
    let mut made = tempfile::tempfile().map_err(|source| new.unreadable("root", source))?;
    made.set_len(root_bytes).map_err(|source| new.unreadable("root", source))?;
    let mut running = old.part(&old.set.header.range(Section::Root))?;
    let mut patch = io::BufReader::new(new.part(&range)?);
    let put = |at, bytes: &[u8]| made.write_all_at(bytes, at);
    patch::apply(&mut patch, &mut running, put)
        .map_err(|source| DiffError::Patch { path: new.path.clone(), source })?;
    let mut bytes_of = Vec::new();
    for chunk in root {
        bytes_of.resize(chunk.len as usize, 0);
        made.read_exact(&mut bytes_of).map_err(|source| new.unreadable("root", source))?;
        if chunk.is(&bytes_of) {
            have.insert(*chunk);
        }
    }
    Ok(bytes)
}

/// A set, open.
struct Opened {
    path: PathBuf,
    set: Set,
}

impl Opened {
    fn new(path: &Path) -> Result<Self> {
        let failed = |source| DiffError::Set { path: path.to_owned(), source };
        let file = File::open(path).map_err(|source| failed(SetError::Read { section: "header", source }))?;
        Ok(Self { path: path.to_owned(), set: Set::open(file).map_err(failed)? })
    }

    fn failed(&self, source: SetError) -> DiffError {
        DiffError::Set { path: self.path.clone(), source }
    }

    fn unreadable(&self, section: &'static str, source: io::Error) -> DiffError {
        self.failed(SetError::Read { section, source })
    }

    fn part(&self, range: &Range<u64>) -> Result<Stream<Part<File>>> {
        let file = File::open(&self.path).map_err(|source| self.unreadable("root", source))?;
        Ok(Stream::new(Part::new(file, range.start, range.end - range.start)))
    }
}

/// The chunks of UKI and root, and the bytes of the beginning and the table.
fn tables(opened: &Opened) -> Result<(Vec<Chunk>, Vec<Chunk>, u64)> {
    let set = &opened.set;
    let mut table = Vec::new();
    let mut part = opened.part(&set.header.range(Section::Chunks))?;
    part.read_to_end(&mut table).map_err(|source| opened.unreadable("chunk table", source))?;
    let all = chunks::from_bytes(&table).map_err(|error| opened.failed(error.into()))?;
    let split = chunks::split(&all, set.manifest.uki.bytes, set.manifest.root.bytes);
    let (uki, root) = split.map_err(|error| opened.failed(error.into()))?;
    let head = set.header.range(Section::Signatures).end + table.len() as u64;
    Ok((uki.to_vec(), root.to_vec(), head))
}

#[cfg(test)]
mod tests {
    use image::Entry;

    use super::*;
    use crate::assemble::tests::{Bench, node};
    use crate::patch::Base;

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

    /// Text whose lines differ, as `seed` says in every sixteenth of them.
    fn text(seed: u32) -> Vec<u8> {
        let line = |n: u32| {
            format!("line {n} {:x}\n", n.wrapping_mul(2_654_435_761) ^ if n.is_multiple_of(16) { seed } else { 0 })
        };
        (0..40_000).flat_map(|n| line(n).into_bytes()).collect()
    }

    #[test]
    fn a_patch_saves_what_chunks_do_not() {
        let bench = Bench::new();
        let (mut old, mut other) = (node(), node());
        drop(old.root.insert("usr/lib/text", Entry::file(0o644, text(0))));
        drop(other.root.insert("usr/lib/text", Entry::file(0o644, text(77))));
        let a = bench.assemble(&old, "a").expect("assembled").raw;
        let plain = bench.assemble_version(&other, "plain", "1.3").expect("assembled").raw;
        let bases = [Base::open(&a.with_extension("set")).expect("a set")];
        let patched = |out| bench.assemble_for(&other, out, "1.3", None, &bases).expect("assembled").raw;
        let (one, two) = (patched("one"), patched("two"));
        let set = |raw: &Path| std::fs::read(raw.with_extension("set")).expect("read");
        assert!(set(&one) == set(&two), "two builds give the same patch");

        let wire = |after: &Path| diff(&a, after).expect("compared").wire.expect("both have sets");
        let (without, with) = (wire(&plain), wire(&one));
        assert_eq!(without.patch, 0);
        assert!(with.patch > 0 && with.bytes() * 2 < without.bytes(), "{with:?} {without:?}");
        assert_eq!(diff(&plain, &one).expect("compared").wire.map(|wire| wire.patch), Some(0), "it is for another");

        let error = Base::open(&a).expect_err("a disk image").to_string();
        assert!(error.contains("name the update set"), "{error}");
        let error = bases[0].is_of("node").expect_err("another image").to_string();
        assert!(error.ends_with("is a set of tiny, and a patch for node needs one of node"), "{error}");
    }

    #[test]
    fn what_is_no_image_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = diff(folder.path(), folder.path()).expect_err("nothing there").to_string();
        assert!(error.contains("node.manifest.json"), "{error}");
    }
}
