//! What an image is made of, for machines that look for known holes: SPDX 2.3 and CycloneDX 1.6.
//!
//! Every file is attributed to the Debian package it came from, and every package to the .deb by its digest. What no
//! package owns (our programs, and what the recipe writes) belongs to a package of ours. There is no time in them but
//! the lock's, and no random number: the same image has the same two files.

mod cyclonedx;
mod spdx;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use image::manifest::{File, Manifest};
use image::{Tree, TreeError, gpt};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY as SHA1};

use crate::lock::{Lock, Package};

/// Package of what is in no .deb: our programs, what the recipe writes, what is made of modules and crates.
const OURS: &str = "roost";

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
    files: Vec<(&'a str, &'a File)>,
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
    sha1: BTreeMap<&'a str, String>,
}

/// Writes both for an image with this root.
///
/// # Errors
/// When a file's contents cannot be read.
pub fn both(lock: &Lock, root: &Tree, manifest: &Manifest) -> Result<Sboms, TreeError> {
    let created = jiff::Timestamp::from_second(i64::try_from(lock.epoch).unwrap_or(0)).unwrap_or_default();
    let verity = manifest.boot.as_ref().map_or("", |boot| &boot.verity);
    let about = About {
        manifest,
        created: created.to_string(),
        id: gpt::derived_guid(verity.as_bytes(), &format!("{} {}", manifest.name, manifest.version)).to_string(),
        parts: parts(lock, manifest),
        sha1: sha1(root)?,
    };
    Ok(Sboms { spdx: text(&spdx::document(&about)), cyclonedx: text(&cyclonedx::document(&about)) })
}

fn text(document: &serde_json::Value) -> Vec<u8> {
    format!("{document:#}\n").into_bytes()
}

fn parts<'a>(lock: &'a Lock, manifest: &'a Manifest) -> Vec<Part<'a>> {
    let mut files: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (path, file) in manifest.files.iter().filter(|(_, file)| file.sha256.is_some()) {
        let package = file.package.as_deref().filter(|name| lock.packages.iter().any(|p| p.name == *name));
        files.entry(package.unwrap_or(OURS)).or_default().push((path.as_str(), file));
    }
    let part = |(name, files)| {
        let deb = lock.packages.iter().find(|package| package.name == name);
        let version = deb.map_or(manifest.version.as_str(), |deb| &deb.version);
        Part { name, version, deb, files }
    };
    files.into_iter().map(part).collect()
}

fn sha1(root: &Tree) -> Result<BTreeMap<&str, String>, TreeError> {
    let mut digests = BTreeMap::new();
    for (path, entry) in root.walk() {
        let Some(content) = entry.content() else { continue };
        let mut hash = Context::new(&SHA1);
        hash.update(&content.read()?);
        digests.insert(path, image::verity::hex(hash.finish().as_ref()));
    }
    Ok(digests)
}

/// Package URL, by which databases of known holes name a package.
fn purl(deb: &Package) -> String {
    let escape = |text: &str| text.replace('%', "%25").replace('+', "%2B").replace(':', "%3A");
    format!("pkg:deb/debian/{}@{}?arch={}&distro=trixie", escape(&deb.name), escape(&deb.version), deb.arch)
}
