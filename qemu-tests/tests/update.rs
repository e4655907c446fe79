//! A cluster moves its node from version to version, and the node comes back by itself from one that does not hold.

use anyhow::{Result, ensure};
use builder::lab::Lab;
use qemu_tests::{Forge, Updated, artifact};
use std::time::Instant;

#[test]
fn a_node_moves_to_a_good_version_and_comes_back_by_itself_from_a_bad_one() -> Result<()> {
    let lab = Lab::new("update")?;
    let forge = Forge::new(&lab)?;
    let first = forge.node("1.0")?;
    let mut node = Updated::boot(&lab, &artifact(&first, "raw"))?;

    // A good one: fetched as what the node has not got, installed, tried, blessed.
    let second = forge.node("2.0")?;
    node.offer(&artifact(&second, "set"))?;
    node.order("2.0")?;
    let fetched = node.machine.console().wait_for("Version 2.0 is here", Updated::LIMIT)?;
    println!("update on the wire when only the version changed: {fetched}");
    node.machine.console().wait_for("Version 2.0 is on trial", Updated::LIMIT)?;
    node.wait("2.0 blessed, 1.0 to fall back on", |v| {
        v["running"] == "2.0" && v["trial"] == false && v["other"]["version"] == "1.0" && v["other"]["state"] == "good"
    })?;

    // Stage 1 cannot read its root: no noded, no network, no word to anybody.
    let bad = forge.node_with("3.0", &[("\"dm_mod\", \"dm_verity\", \"squashfs\",", "\"dm_mod\", \"dm_verity\",")])?;
    node.offer(&artifact(&bad, "set"))?;
    node.order("3.0")?;
    node.machine.console().wait_for("Reboot, asked for by the update to 3.0", Updated::LIMIT)?;
    let gone = Instant::now();
    let back = node.wait("3.0 refused", |v| v["running"] == "2.0" && v["refused"][0]["version"] == "3.0")?;
    println!("from the reboot into a bad version to Ready on the good one: {:.1} s", gone.elapsed().as_secs_f64());
    ensure!(back["versions"]["trial"] == false, "what was good before is on no trial: {back}");
    let halted = node
        .store
        .wait_for("the rollout's end", "host", "name=node1", Updated::LIMIT, |h| h["update"]["halted"].is_string())?;
    ensure!(halted["update"]["halted"].as_str().is_some_and(|why| why.starts_with("node1 refused it: ")), "{halted}");
    let text = node.machine.console().text()?;
    let tries = text.matches("THIS NODE CANNOT START").count();
    ensure!(tries == 3, "a version has three tries, and had {tries}");
    ensure!(
        text.contains("Reboot in 3 s") && !text.contains("Reboot in 10 s"),
        "its pages keep the node away for long"
    );

    // The one after it works the first time, and is made out of what runs.
    node.offer(&artifact(&forge.node_patched("4.0", &second)?, "set"))?;
    node.order("4.0")?;
    let fetched = node.machine.console().wait_for("Version 4.0 is here", Updated::LIMIT)?;
    println!("the same with a patch: {fetched}");
    ensure!(fetched.contains("and a patch made"), "{fetched}");
    node.wait("4.0 blessed", |v| {
        v["running"] == "4.0" && v["trial"] == false && v["refused"].as_array().is_some_and(Vec::is_empty)
    })?;
    Ok(())
}

#[test]
#[ignore = "three trials of a minute each: runs in the full suite"]
fn a_version_that_never_becomes_good_is_given_up_with_the_reason() -> Result<()> {
    let lab = Lab::new("update-trial")?;
    let forge = Forge::new(&lab)?;
    let mut node = Updated::boot(&lab, &artifact(&forge.node("1.0")?, "raw"))?;
    node.store.qa(&["config", "set", "node.trial.limit=60"])?;
    // The bridge's packet filter cannot be loaded, so the node is never Ready.
    let bad = forge.node_with("2.0", &[("    \"/usr/sbin/nft\",\n", "")])?;
    node.offer(&artifact(&bad, "set"))?;
    node.order("2.0")?;
    let reason = node.wait_back("1.0", "2.0")?;
    ensure!(reason.starts_with("not good within 60 s: ") && reason.contains("nft"), "{reason}");
    let given_up = node.machine.console().text()?.matches("Reboot, asked for by the end of its trial").count();
    ensure!(given_up == 3, "a version has three tries, and had {given_up}");
    Ok(())
}
