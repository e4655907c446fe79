//! What an image is made of, for machines that look for known holes: SPDX 2.3 and CycloneDX 1.6.
//!
//! Every file is attributed to the Debian package it came from, and every package to the .deb by its digest. What no
//! package owns (our programs, and what the recipe writes) belongs to a package of ours. Besides the root's files, under
//! their own paths, they have what runs before it: `initrd/...`, and `boot/...` for kernel, stub and boot loader. There is no time in them but
//! the lock's, and no random number: the same image has the same two files.

mod cyclonedx;
mod spdx;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use image::manifest::{File, Manifest};
use image::{Tree, TreeError, gpt, manifest};
use sha1::{Digest as _, Sha1};

use crate::lock::{Lock, Package};
use crate::rootfs::Node;

/// Package of what is in no .deb: our programs, what the recipe writes, what is made of modules and crates.
const OURS: &str = "roost";
/// Folder of the initrd's files.
const INITRD: &str = "initrd/";
/// Folder of what firmware starts.
const BOOT: &str = "boot/";

/// Both, as they are written.
#[derive(Clone, Debug)]
pub struct Sboms {
    /// SPDX 2.3.
    pub spdx: Vec<u8>,
    /// CycloneDX 1.6.
    pub cyclonedx: Vec<u8>,
}

/// One package with its files in the image.
struct Part<'a> {
    name: &'a str,
    version: &'a str,
    /// The .deb; absent for what is ours.
    deb: Option<&'a Package>,
    files: Vec<(String, &'a File)>,
}

/// What both forms are written from.
struct About<'a> {
    manifest: &'a Manifest,
    /// As both forms want it.
    created: String,
    /// Differs from image to image.
    id: String,
    parts: Vec<Part<'a>>,
    /// SHA-1 of each file: SPDX asks for it.
    sha1: BTreeMap<String, String>,
}

/// Writes both for an image of these trees.
///
/// # Errors
/// When a file's contents cannot be read.
pub fn both(lock: &Lock, node: &Node, manifest: &Manifest) -> Result<Sboms, TreeError> {
    let boot = manifest::files(&node.boot)?;
    let files = [("", &manifest.files), (INITRD, &manifest.initrd), (BOOT, &boot)];
    let files = files.into_iter().flat_map(|(below, files)| {
        files.iter().filter(|(_, file)| file.sha256.is_some()).map(move |(path, file)| (format!("{below}{path}"), file))
    });
    let created = jiff::Timestamp::from_second(i64::try_from(lock.epoch).unwrap_or(0)).unwrap_or_default();
    let verity = manifest.boot.as_ref().map_or("", |boot| &boot.verity);
    let about = About {
        manifest,
        created: created.to_string(),
        id: gpt::derived_guid(verity.as_bytes(), &format!("{} {}", manifest.name, manifest.version)).to_string(),
        parts: parts(lock, manifest, files),
        sha1: sha1([("", &node.root), (INITRD, &node.initrd), (BOOT, &node.boot)])?,
    };
    Ok(Sboms { spdx: text(&spdx::document(&about)), cyclonedx: text(&cyclonedx::document(&about)) })
}

fn text(document: &serde_json::Value) -> Vec<u8> {
    format!("{document:#}\n").into_bytes()
}

fn parts<'a>(lock: &'a Lock, manifest: &'a Manifest, all: impl Iterator<Item = (String, &'a File)>) -> Vec<Part<'a>> {
    let mut files: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (path, file) in all {
        let package = file.package.as_deref().filter(|name| lock.packages.iter().any(|p| p.name == *name));
        files.entry(package.unwrap_or(OURS)).or_default().push((path, file));
    }
    let part = |(name, files)| {
        let deb = lock.packages.iter().find(|package| package.name == name);
        let version = deb.map_or(manifest.version.as_str(), |deb| &deb.version);
        Part { name, version, deb, files }
    };
    files.into_iter().map(part).collect()
}

fn sha1(trees: [(&str, &Tree); 3]) -> Result<BTreeMap<String, String>, TreeError> {
    let mut digests = BTreeMap::new();
    let all = trees.into_iter().flat_map(|(below, tree)| tree.walk().map(move |(path, entry)| (below, path, entry)));
    for (below, path, entry) in all {
        let Some(content) = entry.content() else { continue };
        digests.insert(format!("{below}{path}"), image::verity::hex(&Sha1::digest(content.read()?)));
    }
    Ok(digests)
}

/// Package URL, by which databases of known holes name a package.
fn purl(deb: &Package) -> String {
    let escape = |text: &str| text.replace('%', "%25").replace('+', "%2B").replace(':', "%3A");
    format!("pkg:deb/debian/{}@{}?arch={}&distro=trixie", escape(&deb.name), escape(&deb.version), deb.arch)
}
