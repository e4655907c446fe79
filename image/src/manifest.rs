//! The manifest beside an image: every file, the package it came from, its digest and size; and the artifacts.
//!
//! It is JSON with fixed order and no time of building, so that two builds have equal manifests and a
//! difference between two images is a difference between two texts.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use crate::digest::digest;
use crate::tree::{Entry, Kind, Tree, TreeError};
use crate::verity::{Verity, hex};

/// Version of this form.
pub const FORMAT: u32 = 1;

/// All about one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Name of the image's recipe.
    pub name: String,
    /// Version of the image.
    pub version: String,
    /// `dev` or `release`.
    pub level: String,
    /// How it boots; absent for a guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// What was written, by file name.
    pub artifacts: BTreeMap<String, Artifact>,
    /// Packages and recipe steps by name.
    pub packages: BTreeMap<String, Package>,
    /// Every entry of the root but plain directories, by path.
    pub files: BTreeMap<String, File>,
    /// Every file of the initrd, by path; empty for a guest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub initrd: BTreeMap<String, File>,
}

/// How a node image boots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Kernel release.
    pub kernel: String,
    /// Whole command line, with the root hash.
    pub cmdline: String,
    /// `ROOT:SALT:BLOCKS`, as on the command line.
    pub verity: String,
    /// PARTUUID of the root.
    pub root_partuuid: String,
}

impl Boot {
    /// What a command line and a verified root say.
    #[must_use]
    pub fn new(kernel: &str, cmdline: &str, verity: &Verity) -> Self {
        Self {
            kernel: kernel.to_owned(),
            cmdline: cmdline.to_owned(),
            verity: verity.to_string(),
            root_partuuid: verity.partition_uuid().to_string(),
        }
    }
}

/// A written file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// Length in bytes.
    pub bytes: u64,
}

impl Artifact {
    /// That of all that a reader has left.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(reader: impl io::Read) -> io::Result<Self> {
        let (sha256, bytes) = digest(reader)?;
        Ok(Self { sha256: hex(&sha256), bytes })
    }
}

/// What one package contributes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its version; empty for a step of the recipe.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Regular files in the root.
    pub files: u64,
    /// Their length together.
    pub bytes: u64,
}

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Package or recipe step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// `file`, `link`, `dir`, or the kind of another entry.
    pub kind: String,
    /// Permissions in octal.
    pub mode: String,
    /// `uid:gid`, where it is not root's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Length of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// SHA-256 of a file in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Target of a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Extended attributes, values in hexadecimal.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
}

impl Manifest {
    /// A manifest of a root without artifacts yet. `versions` gives each package's version.
    ///
    /// # Errors
    /// When a file's contents cannot be read.
    pub fn of_root(
        name: &str,
        version: &str,
        level: &str,
        root: &Tree,
        versions: &BTreeMap<String, String>,
    ) -> Result<Self, TreeError> {
        let files = files(root)?;
        let mut packages: BTreeMap<String, Package> = BTreeMap::new();
        for file in files.values() {
            let package = packages.entry(file.package.clone().unwrap_or_else(|| "recipe".into())).or_default();
            package.files += u64::from(file.bytes.is_some());
            package.bytes += file.bytes.unwrap_or(0);
        }
        for (name, package) in &mut packages {
            package.version = versions.get(name).cloned().unwrap_or_default();
        }
        let (name, version, level) = (name.to_owned(), version.to_owned(), level.to_owned());
        let (boot, artifacts, initrd) = (None, BTreeMap::new(), BTreeMap::new());
        Ok(Self { format: FORMAT, name, version, level, boot, artifacts, packages, files, initrd })
    }

    /// The text to be written.
    ///
    /// # Errors
    /// Never in practice: every key is a string.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads a manifest's text.
    ///
    /// # Errors
    /// When it is not one of this form.
    pub fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        let manifest: Self = serde_json::from_slice(text)?;
        if manifest.format != FORMAT {
            let text = format!("manifest format {} is not known, expected {FORMAT}", manifest.format);
            return Err(serde::de::Error::custom(text));
        }
        Ok(manifest)
    }
}

/// Every entry of a tree but plain directories of root, with its digest.
///
/// # Errors
/// When a file's contents cannot be read.
pub fn files(tree: &Tree) -> Result<BTreeMap<String, File>, TreeError> {
    let digests = digests(tree)?;
    let mut files = BTreeMap::new();
    for (path, entry) in tree.walk() {
        let plain =
            entry.is_dir() && entry.mode == 0o755 && (entry.uid, entry.gid) == (0, 0) && entry.xattrs.is_empty();
        if !plain {
            files.insert(path.to_owned(), file(entry, digests.get(path).map(|digest| hex(digest))));
        }
    }
    Ok(files)
}

fn file(entry: &Entry, sha256: Option<String>) -> File {
    let kind = match &entry.kind {
        Kind::Dir => "dir".to_owned(),
        Kind::File(_) => "file".to_owned(),
        Kind::Symlink(_) => "link".to_owned(),
        Kind::CharDev { major, minor } => format!("char {major}:{minor}"),
        Kind::BlockDev { major, minor } => format!("block {major}:{minor}"),
        Kind::Fifo => "pipe".to_owned(),
        Kind::Socket => "socket".to_owned(),
    };
    File {
        package: entry.origin.as_deref().map(str::to_owned),
        kind,
        mode: format!("{:04o}", entry.mode),
        owner: ((entry.uid, entry.gid) != (0, 0)).then(|| format!("{}:{}", entry.uid, entry.gid)),
        bytes: entry.content().map(crate::Content::len),
        sha256,
        target: entry.link_target().map(str::to_owned),
        xattrs: entry.xattrs.iter().map(|(name, value)| (name.clone(), hex(value))).collect(),
    }
}

/// Digests of all regular files, by several threads.
fn digests(tree: &Tree) -> Result<BTreeMap<&str, [u8; 32]>, TreeError> {
    let files: Vec<_> = tree.walk().filter_map(|(path, entry)| Some((path, entry.content()?))).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((path, content)) = files.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            done.push((*path, content.sha256()?));
        }
        Ok(done)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = BTreeMap::new();
        for thread in threads {
            match thread.join() {
                Ok(done) => all.extend(done?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(all)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_names_every_file_with_its_package_and_digest() {
        let mut tree = Tree::new();
        tree.mkdir_p("usr/bin").unwrap();
        tree.insert("usr/bin/a", Entry::file(0o755, "abc").from_origin("pkg")).unwrap();
        tree.insert("usr/bin/b", Entry::symlink("a").from_origin("pkg")).unwrap();
        tree.insert("etc", Entry::dir(0o700).owned_by(1, 2)).unwrap();
        let versions = BTreeMap::from([("pkg".to_owned(), "1.2-3".to_owned())]);
        let manifest = Manifest::of_root("n", "1", "dev", &tree, &versions).unwrap();
        assert_eq!(manifest.packages["pkg"], Package { version: "1.2-3".into(), files: 1, bytes: 3 });
        let a = &manifest.files["usr/bin/a"];
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((a.sha256.as_deref(), a.bytes, a.mode.as_str()), (Some(sha), Some(3), "0755"));
        assert_eq!(manifest.files["usr/bin/b"].target.as_deref(), Some("a"));
        assert_eq!(manifest.files["etc"].owner.as_deref(), Some("1:2"));
        assert!(!manifest.files.contains_key("usr"));
        assert_eq!(Manifest::from_json(&manifest.to_json().unwrap()).unwrap(), manifest);
    }

    #[test]
    fn another_form_of_manifest_is_refused() {
        let manifest = Manifest::of_root("n", "1", "dev", &Tree::new(), &BTreeMap::new()).unwrap();
        let text = String::from_utf8(manifest.to_json().unwrap()).unwrap().replace("\"format\": 1", "\"format\": 2");
        assert!(Manifest::from_json(text.as_bytes()).unwrap_err().to_string().contains("format 2 is not known"));
    }
}
