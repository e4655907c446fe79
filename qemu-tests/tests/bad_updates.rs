//! Updates that go wrong on their way to a node, before any of them is booted.

use anyhow::{Context, Result, ensure};
use builder::lab::{Boot, Firmware, Lab};
use image::gpt;
use qemu_tests::{Forge, Updated, Volume, artifact};
use serde_json::Value;
use std::{cell::Cell, time::Duration};

/// Of the node's recipe: without it a version is some megabytes smaller.
const LARGE: &str = "    \"/usr/bin/qemu-system-x86_64\",\n";

#[test]
fn a_store_that_goes_away_in_the_middle_of_a_fetch_costs_only_the_rest() -> Result<()> {
    let lab = Lab::new("store-gone")?;
    let forge = Forge::new(&lab)?;
    let first = forge.node_with("1.0", &[(LARGE, "")])?;
    let mut node = Updated::boot_far_away(&lab, &artifact(&first, "raw"), 1 << 20)?;
    node.offer(&artifact(&forge.node("2.0")?, "set"))?;
    node.order("2.0")?;
    // Told in steps of a request (4 MiB).
    let (here, all) = (Cell::new(0.0), Cell::new(0.0));
    node.wait("the first megabytes", |v| {
        let Some((come, of)) = megabytes(&v["update"]) else { return false };
        here.set(come);
        all.set(of);
        come > 3.0
    })?;
    node.store.kill();
    let (here, all) = (here.get(), all.get());
    ensure!(here < all, "it was over already: {here} of {all} MB");
    node.machine.console().wait_for("No link to the store", Updated::LIMIT)?;
    node.store.resume()?;
    let line = node.machine.console().wait_for("Version 2.0 is here", Updated::LIMIT)?;
    println!("{here} of {all} MB had come; then: {line}");
    let rest = after(&line, "is here: ").context("no megabytes")?;
    ensure!(rest < all - here + 1.0, "what had come before came again: {rest} MB");
    Ok(())
}

#[test]
#[ignore = "three more boots: runs in the full suite"]
fn a_version_too_large_for_slot_or_esp_is_refused_before_it_is_fetched() -> Result<()> {
    let lab = Lab::new("too-large")?;
    let forge = Forge::new(&lab)?;
    let large = forge.node("2.0")?;
    // A slot that has no room for the large one by less than a mebibyte.
    let room = std::fs::metadata(artifact(&large, "root.squashfs")).context("No root")?.len().saturating_sub(1) >> 20;
    let slot = format!("slot-mib = {room}");
    let small = |version: &str| forge.node_with(version, &[(LARGE, ""), ("slot-mib = 256", &slot)]);
    let image = artifact(&small("1.0")?, "raw");
    let junk = lab.path("junk");
    let esp = Volume::of(&lab, lab.disk("node1", &image)?, gpt::ESP)?;
    std::fs::write(&junk, vec![0x55; (esp.free()? - (1 << 20)) as usize]).context("Cannot write a file")?;
    esp.put(&junk, "junk")?;

    let mut node = Updated::boot(&lab, &image)?;
    node.offer(&artifact(&large, "set"))?;
    node.offer(&artifact(&small("3.0")?, "set"))?;
    for (version, words) in
        [("2.0", ["The root has", "and slot B has"]), ("3.0", ["The UKI has", "the ESP has room for"])]
    {
        node.order(version)?;
        let why = refusal(&node, version)?;
        ensure!(words.iter().all(|word| why.contains(word)), "{why}");
        ensure!(!node.machine.console().text()?.contains("came over the network"), "it was fetched all the same");
    }

    // With room it goes on, though it was refused before.
    let Updated { store, machine } = node;
    machine.shut_down(Duration::from_secs(60))?;
    Volume::of(&lab, lab.disk("node1", &image)?, gpt::ESP)?.remove("junk")?;
    let boot = Boot::new(&image).firmware(Firmware::Uefi).seed(store.seed("node1")?);
    let mut node = Updated { machine: lab.boot(boot)?, store };
    node.store.wait_ready(&mut node.machine)?;
    node.order("3.0")?;
    node.wait("3.0 blessed", |v| v["running"] == "3.0" && v["trial"] == false)?;
    Ok(())
}

#[test]
#[ignore = "five more builds: runs in the full suite"]
fn a_node_with_secure_boot_on_takes_no_set_that_was_not_signed_for_it() -> Result<()> {
    let (lab, elsewhere) = (Lab::new("not-signed")?, Lab::new("not-signed-elsewhere")?);
    let (forge, other) = (Forge::new(&lab)?, Forge::new(&elsewhere)?);
    let image = artifact(&forge.node("1.0")?, "raw");
    let mut node = Updated::boot_on(&lab, Boot::new(&image).secure_boot(forge.keys()))?;
    for (version, build, words) in [
        ("0.5", forge.node("0.5")?, "has version 0.5, older than 1.0"),
        ("2.0", other.node("2.0")?, "which is not trusted here"),
        ("3.0", forge.node_by("3.0", &["--expires", "2026-01-01T00:00:00Z"])?, "expired on 2026-01-01"),
        ("4.0", forge.node("4.0")?, "is not the one that key"),
    ] {
        node.offer(&artifact(&build, "set"))?;
        if version == "4.0" {
            alter_manifest(&node, version)?;
        }
        node.order(version)?;
        let why = refusal(&node, version)?;
        ensure!(why.contains(words), "{why}");
    }
    Ok(())
}

/// Why the node refused this version, for which the update was halted. Nothing else is to have come of it.
fn refusal(node: &Updated, version: &str) -> Result<String> {
    let halted = |host: &Value| host["update"]["version"] == version && host["update"]["halted"].is_string();
    let told = node.store.wait_for("a refusal", "host", "name=node1", Updated::LIMIT, halted)?;
    let why = told["update"]["halted"].as_str().context("no reason")?.to_owned();
    println!("{version}: {why}");
    ensure!(told["versions"]["running"] == "1.0" && told["state"] == "running", "{told}");
    // Ended, so that the next one may begin.
    node.store.qa(&["host", "update", "-f", "name=node1", "image=none"])?;
    Ok(why)
}

/// Somebody has broken into the store, and changes what a version says of itself.
fn alter_manifest(node: &Updated, version: &str) -> Result<()> {
    let all = node.store.json(&["image", "list"])?;
    let row = all.as_array().into_iter().flatten().find(|row| row["version"] == version).context("not in the store")?;
    let file = node.store.images().join(format!("{}.set", row["digest"].as_str().context("no digest")?));
    let mut bytes = std::fs::read(&file).context("Cannot read a set")?;
    let level = bytes.windows(7).position(|window| window == b"\"level\"").context("a manifest without a level")?;
    let letter = bytes[level + 7..].iter().position(u8::is_ascii_alphabetic).context("a level without a word")?;
    bytes[level + 7 + letter] ^= 1;
    std::fs::write(&file, bytes).context("Cannot write a set")
}

/// How much has come, and of how much: of an update's row that is fetching.
fn megabytes(update: &Value) -> Option<(f64, f64)> {
    let detail = update["detail"].as_str().filter(|_| update["step"] == "fetching")?;
    Some((detail.split(' ').next()?.parse().ok()?, after(detail, " of ")?))
}

/// The number behind these words.
fn after(text: &str, words: &str) -> Option<f64> {
    text.split_once(words)?.1.split(' ').next()?.parse().ok()
}
