//! Whether an image is what its sources make: it is built again from a lock, and both are compared.
//!
//! Signatures are no part of the sources. With `--keys DIR` the image is built as one that trusts these keys, without
//! signing, and programs are compared with their signatures taken off; what only wraps signed bytes (the disk image,
//! the update set) is then left to `roost inspect` and to the nodes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::authenticode::strip;
use image::manifest::Manifest;
use image::pin;
use model::Digest;

use crate::build::{self, Options};
use crate::diff::manifest_of;
use crate::error::{Error, Result, at};
use crate::programs::Level;
use crate::report::Report;
use crate::sign::SignWith;

/// What to hold an image against.
#[derive(Clone, Debug)]
pub struct Against {
    /// Recipe, by name or path; by default that of the image's name.
    pub recipe: Option<String>,
    /// Lock.
    pub lock: PathBuf,
    /// Folder of the keys that the image trusts; only public parts are read.
    pub keys: Option<PathBuf>,
    /// How many of them must sign.
    pub threshold: usize,
    /// `--expires` of the build.
    pub expires: Option<u64>,
    /// Fingerprint of the CA of the one cluster that it must be for.
    pub cluster: Option<Digest>,
    /// `--patch-from` of the build, in its order.
    pub patch_from: Vec<PathBuf>,
}

/// How an artifact compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same bytes.
    Same,
    /// The same bytes but for the signature.
    SameUnsigned,
    /// It holds signatures, and was not compared.
    Signed,
    /// Other bytes.
    Differs,
    /// It is not there.
    Missing,
}

/// Builds the image again, and compares every artifact beside `image` that its manifest names.
pub fn verify(image: &Path, against: &Against, report: &Report) -> Result<BTreeMap<String, Verdict>> {
    let path = manifest_of(image);
    let text = std::fs::read(&path).map_err(at("read", &path))?;
    let failed = |source| Error::Assemble { action: format!("read {}", path.display()), source };
    let manifest = Manifest::from_json(&text).map_err(|error| failed(Box::new(error)))?;
    same_cluster(&manifest, against)?;
    let scratch = build::scratch_folder(&crate::cache::Cache::of_user())?;
    let options = options(&manifest, against, scratch.path());
    build::build(against.recipe.as_deref().unwrap_or(&manifest.name), &options, report)?;
    let names = manifest.artifacts.keys().cloned().chain([format!("{}.manifest.json", manifest.name)]);
    let folder = path.parent().unwrap_or(Path::new("."));
    names.map(|name| Ok((name.clone(), verdict(&folder.join(&name), &scratch.path().join(&name), against)?))).collect()
}

/// Told before minutes of building: it is the caller who says for whom the image is, not the image.
fn same_cluster(manifest: &Manifest, against: &Against) -> Result<()> {
    let found = manifest.boot.as_ref().and_then(|boot| pin::on_cmdline(&boot.cmdline));
    let expected = against.cluster.map(|cluster| cluster.to_string());
    if found == expected.as_deref() {
        return Ok(());
    }
    let words = |cluster: Option<&str>| cluster.map_or("any cluster".to_owned(), |ca| format!("cluster {ca} alone"));
    Err(Error::OtherCluster { found: words(found), expected: words(expected.as_deref()) })
}

fn options(manifest: &Manifest, against: &Against, out: &Path) -> Options {
    let sign =
        |keys: &PathBuf| SignWith { keys: keys.clone(), signer: None, threshold: against.threshold, public: true };
    Options {
        locked: true,
        // What an earlier build left in the cache may be what is to be found out.
        no_cache: true,
        version: manifest.version.clone(),
        level: if manifest.level == Level::Release.name() { Level::Release } else { Level::Dev },
        lock: Some(against.lock.clone()),
        sign: against.keys.as_ref().map(sign),
        expires: against.expires,
        cluster: against.cluster,
        patch_from: against.patch_from.clone(),
        ..Options::new(out)
    }
}

fn verdict(found: &Path, built: &Path, against: &Against) -> Result<Verdict> {
    if !found.exists() {
        return Ok(Verdict::Missing);
    }
    let digest = |path: &Path| {
        let file = std::fs::File::open(path).map_err(at("open", path))?;
        image::digest(file).map_err(at("read", path))
    };
    if digest(found)? == digest(built)? {
        return Ok(Verdict::Same);
    }
    let name = found.to_string_lossy();
    let wraps_signatures = [".raw", ".set", ".manifest.json"].iter().any(|suffix| name.ends_with(suffix));
    match against.keys.is_some() {
        true if name.ends_with(".efi") => {
            let read = |path: &Path| std::fs::read(path).map_err(at("read", path));
            let same = strip(&read(found)?).ok() == strip(&read(built)?).ok();
            Ok(if same { Verdict::SameUnsigned } else { Verdict::Differs })
        }
        // The manifest names the digests of the others.
        true if wraps_signatures => Ok(Verdict::Signed),
        _ => Ok(Verdict::Differs),
    }
}
