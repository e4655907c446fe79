//! Pages checked by axe, an npm package pinned by hash that no program of ours contains.

use crate::cdp::Page;
use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// The script; `ROOST_AXE` names the package's file where no registry has it.
static SCRIPT: LazyLock<String> = LazyLock::new(|| {
    let named = std::env::var_os("ROOST_AXE").map(PathBuf::from);
    let pin = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/router/axe.json");
    let fetched = || builder::npm::package(&pin, &builder::cache::Cache::of_user());
    let package = named.map_or_else(fetched, Ok);
    let package = package.unwrap_or_else(|e| panic!("{e}; or name the package's file in ROOST_AXE"));
    let bytes = std::fs::read(&package).expect("the package is read");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..]));
    let mut entries = archive.entries().expect("an archive").map(|e| e.expect("an entry"));
    let is_script = |e: &tar::Entry<'_, _>| e.path().is_ok_and(|p| p.ends_with("package/axe.min.js"));
    let mut script = String::new();
    entries.find(is_script).expect("axe.min.js").read_to_string(&mut script).expect("text");
    script
});

/// What axe finds wrong with a page as it is now must be nothing.
#[track_caller]
pub fn accessible(page: &Page<'_>, name: &str) {
    let found = findings(page);
    assert_eq!(found, "[]", "{name}; picture {}", page.shot(&format!("axe-{name}")).display());
}

/// Rules that a page breaks, and where. Waits for what still moves.
fn findings(page: &Page<'_>) -> String {
    page.eval(&format!("globalThis.axe || ({}, 1); 1", as_expression()));
    page.until("document.getAnimations().every(a => a.effect.getComputedTiming().iterations === Infinity)");
    let run = "axe.run().then(r => JSON.stringify(r.violations.map(v => [v.id, v.help, v.nodes.map(n => [n.html, n.failureSummary])])))";
    page.eval(run).as_str().expect("text").to_owned()
}

/// The script defines `axe` as a side effect.
fn as_expression() -> String {
    format!("(() => {{ {} }})()", *SCRIPT)
}

#[test]
fn a_picture_without_words_is_found() {
    let browser = crate::cdp::Browser::start();
    let page = browser.page(800, 600);
    page.go("data:text/html,<!doctype html><html lang=en><title>x</title><main><h1>x</h1><img src=x></main>");
    page.until("!!document.querySelector('img')");
    assert!(findings(&page).contains("image-alt"), "{}", findings(&page));
}
