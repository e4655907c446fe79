//! What is in the node's image: every file is accounted for, and nothing in it runs whatever it is given.

use anyhow::{Context, Result, ensure};
use builder::{inspect, lock::Lock, programs};
use image::manifest::{File, Manifest};
use qemu_tests::images;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// What no .deb brings, under the names by which the builder knows it.
const OURS: [&str; 2] = ["(recipe)", "roost"];

#[test]
fn every_file_is_in_both_sboms_with_its_package_and_the_debs_digest() -> Result<()> {
    let node = images().node;
    let manifest = Manifest::from_json(&read(&node.with_extension("manifest.json"))?)?;
    let lock = programs::source_tree().join("image/recipes/node.lock");
    let lock = Lock::read(&lock)?.context("the node has no lock")?;
    let debs: BTreeMap<&str, String> = lock.packages.iter().map(|p| (p.name.as_str(), p.sha256.to_string())).collect();
    let wanted = wanted(&manifest, &debs)?;
    println!(
        "{} files of {} packages",
        wanted.len(),
        wanted.values().map(|f| &f.package).collect::<BTreeSet<_>>().len()
    );
    for (form, found) in
        [("spdx.json", spdx(&json(&node, "spdx.json")?)?), ("cdx.json", cyclonedx(&json(&node, "cdx.json")?)?)]
    {
        for (path, file) in &wanted {
            ensure!(found.get(path) == Some(file), "{form}: {path} is {:?}, expected {file:?}", found.get(path));
        }
        let more: Vec<_> = found.iter().filter(|(path, _)| !wanted.contains_key(*path)).collect();
        // What firmware starts is in no manifest of files.
        let packages: BTreeSet<&str> = more.iter().map(|(_, file)| file.package.as_str()).collect();
        ensure!(more.iter().all(|(path, _)| path.starts_with("boot/")), "{form} has more: {more:?}");
        ensure!(
            more.len() == 3 && packages.contains("systemd-boot-efi"),
            "{form}: kernel, stub and loader are {more:?}"
        );
        ensure!(more.iter().all(|(_, file)| debs.get(file.package.as_str()) == Some(&file.deb)), "{form}: {more:?}");
    }
    Ok(())
}

#[test]
fn nothing_in_it_runs_whatever_it_is_given() -> Result<()> {
    let found = inspect::inspect(&images().node)?;
    println!("{} executables: {}", found.executables.len(), found.executables.join(" "));
    ensure!(found.interpreters.is_empty(), "{:?}", found.interpreters);
    ensure!(found.executables.len() < 40, "so many programs: {:?}", found.executables);
    ensure!(found.unchecked.is_empty(), "{:?}", found.unchecked);
    Ok(())
}

/// A file, as an SBOM has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    sha256: String,
    package: String,
    /// Digest of the .deb; empty for what is ours.
    deb: String,
}

/// What the manifest, which `roost inspect` holds against the root, says of each file.
fn wanted(manifest: &Manifest, debs: &BTreeMap<&str, String>) -> Result<BTreeMap<String, Listed>> {
    let initrd = manifest.initrd.iter().map(|(path, file)| (format!("initrd/{path}"), file));
    let all = manifest.files.iter().map(|(path, file)| (path.clone(), file)).chain(initrd);
    let listed = |(path, file): (String, &File)| {
        let sha256 = file.sha256.clone()?;
        let package = file.package.clone().unwrap_or_default();
        Some(match debs.get(package.as_str()) {
            Some(deb) => Ok((path, Listed { sha256, package, deb: deb.clone() })),
            None if OURS.contains(&package.as_str()) => {
                Ok((path, Listed { sha256, package: "roost".to_owned(), deb: String::new() }))
            }
            None => Err(anyhow::anyhow!("{path} is of {package:?}, which is in no lock")),
        })
    };
    all.filter_map(listed).collect()
}

fn spdx(document: &Value) -> Result<BTreeMap<String, Listed>> {
    let files: BTreeMap<&str, &Value> = list(document, "files")?.iter().map(|f| (text(&f["SPDXID"]), f)).collect();
    let mut found = BTreeMap::new();
    for package in list(document, "packages")? {
        for id in package["hasFiles"].as_array().into_iter().flatten().map(text) {
            let file = files.get(id).with_context(|| format!("no file {id}"))?;
            let path = text(&file["fileName"]).trim_start_matches("./").to_owned();
            let sha256 = list(file, "checksums")?.iter().find(|sum| sum["algorithm"] == "SHA256");
            let sha256 = text(&sha256.context("no SHA-256")?["checksumValue"]).to_owned();
            let deb = text(&package["checksums"][0]["checksumValue"]).to_owned();
            let listed = Listed { sha256, package: text(&package["name"]).to_owned(), deb };
            ensure!(found.insert(path.clone(), listed).is_none(), "{path} is listed twice");
        }
    }
    ensure!(found.len() == files.len(), "{} files, {} of them of a package", files.len(), found.len());
    Ok(found)
}

fn cyclonedx(document: &Value) -> Result<BTreeMap<String, Listed>> {
    let mut found = BTreeMap::new();
    for component in list(document, "components")? {
        for file in list(component, "components")? {
            let path = text(&file["name"]).trim_start_matches('/').to_owned();
            let sha256 = text(&file["hashes"][0]["content"]).to_owned();
            let deb = text(&component["hashes"][0]["content"]).to_owned();
            let listed = Listed { sha256, package: text(&component["name"]).to_owned(), deb };
            ensure!(found.insert(path.clone(), listed).is_none(), "{path} is listed twice");
        }
    }
    Ok(found)
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value[key].as_array().with_context(|| format!("no list {key}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn json(image: &Path, suffix: &str) -> Result<Value> {
    Ok(serde_json::from_slice(&read(&image.with_extension(suffix))?)?)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("Cannot read {}", path.display()))
}
