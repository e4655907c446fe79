//! npm packages pinned by hash: the viewer of desktops that the router's pages use (noVNC), and what their
//! tests check them with.
//!
//! Each is fetched once into the cache (`npm/SHA256.tgz`), where the router's build script finds the viewer.
//! The registry is the one that npm on this host would use: `npm_config_registry`, the `npmrc` files, or what
//! npm itself answers. A router built without the viewer works, and its page says what is missing; only a
//! build for release insists.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use model::Digest;
use serde::Deserialize;
use sha2::Digest as _;

use crate::cache::{self, Cache};
use crate::error::{Error, Result, at};
use crate::programs::Level;
use crate::report::Report;

/// A package and its hash, such as `router/web/novnc.json`.
#[derive(Debug, Deserialize)]
struct Pin {
    package: String,
    version: String,
    path: String,
    size: u64,
    sha256: Digest,
}

/// Brings the viewer into the cache when it is not there.
pub fn bring(source: &Path, level: Level, cache: &Cache, report: &Report) -> Result<()> {
    let pin = pin(&source.join("router/web/novnc.json"))?;
    let target = place(&pin, cache)?;
    if target.is_file() || std::env::var_os("ROOST_NOVNC").is_some() {
        return Ok(());
    }
    let step = report.step("viewer", Some(pin.size));
    let what = format!("{} {}", pin.package, pin.version);
    match fetch(&pin) {
        Ok(bytes) => {
            cache::write_whole(&target, &bytes)?;
            step.end(&what);
            Ok(())
        }
        Err(reason) if level == Level::Release => {
            Err(absent(&pin, reason, "name a registry in npm_config_registry, or the package's file in ROOST_NOVNC"))
        }
        Err(reason) => {
            step.end(&format!("{what} could not be had ({reason}): the router's pages will have no viewer"));
            Ok(())
        }
    }
}

/// The package that a pin's file names, in the cache; fetched when it is not there.
pub fn package(pin_file: &Path, cache: &Cache) -> Result<PathBuf> {
    let pin = pin(pin_file)?;
    let target = place(&pin, cache)?;
    if !target.is_file() {
        let bytes = fetch(&pin).map_err(|reason| absent(&pin, reason, "name a registry in npm_config_registry"))?;
        cache::write_whole(&target, &bytes)?;
    }
    Ok(target)
}

fn place(pin: &Pin, cache: &Cache) -> Result<PathBuf> {
    Ok(cache.folder("npm")?.join(format!("{}.tgz", pin.sha256)))
}

fn absent(pin: &Pin, found: String, advice: &'static str) -> Error {
    let package = format!("{} {}", pin.package, pin.version);
    Error::BadPackage { package, found, expected: pin.sha256.to_string(), advice }
}

fn pin(path: &Path) -> Result<Pin> {
    let text = std::fs::read(path).map_err(at("read", path))?;
    serde_json::from_slice(&text).map_err(|e| at("read", path)(e.into()))
}

/// The package's bytes, checked; or why they could not be had.
fn fetch(pin: &Pin) -> std::result::Result<Vec<u8>, String> {
    let registry = registry().ok_or("no npm registry is configured on this host")?;
    let url = format!("{}/{}", registry.trim_end_matches('/'), pin.path);
    let response = crate::fetch::agent().get(&url).call().map_err(|e| e.to_string())?;
    if response.status() != 200 {
        return Err(format!("the registry answered {}", response.status().as_u16()));
    }
    let mut bytes = Vec::new();
    let mut body = response.into_body().into_reader().take(pin.size + 1);
    body.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    let found = Digest(sha2::Sha256::digest(&bytes).into());
    if found == pin.sha256 { Ok(bytes) } else { Err(format!("SHA-256 is {found}")) }
}

fn registry() -> Option<String> {
    let named = ["npm_config_registry", "NPM_CONFIG_REGISTRY"].into_iter().find_map(|n| std::env::var(n).ok());
    let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".npmrc"));
    let files = home.into_iter().chain(["/etc/npmrc", "/usr/etc/npmrc"].map(PathBuf::from));
    named.or_else(|| files.into_iter().find_map(|f| in_npmrc(&std::fs::read_to_string(f).ok()?))).or_else(of_npm)
}

fn in_npmrc(text: &str) -> Option<String> {
    let value = |line: &str| Some(line.split_once('=').filter(|(k, _)| k.trim() == "registry")?.1.trim().to_owned());
    text.lines().find_map(value).filter(|v| !v.is_empty())
}

fn of_npm() -> Option<String> {
    let output = Command::new("npm").args(["config", "get", "registry"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    text.starts_with("http").then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_read_from_npms_configuration() {
        assert_eq!(in_npmrc("a=b\n registry = http://x/y/ \n"), Some("http://x/y/".to_owned()));
        assert_eq!(in_npmrc("@scope:registry=http://x\n"), None);
        assert_eq!(in_npmrc(""), None);
    }

    #[test]
    fn the_pins_of_this_tree_are_read() {
        for file in ["router/web/novnc.json", "router/tests/router/axe.json"] {
            let pin = pin(&crate::programs::source_tree().join(file)).expect("a pin");
            assert!(pin.path.ends_with(&format!("{}.tgz", pin.version)), "{pin:?}");
        }
    }
}
