//! Versions that are bad in different ways: each is tried, and from each the node comes back by itself and remembers it.
//!
//! A root that is not what was signed is in `boot_counting`; a module that the initrd lacks, and a packet filter that cannot
//! be loaded, are in `update`.

use anyhow::{Result, ensure};
use builder::lab::Lab;
use qemu_tests::{Forge, Updated, artifact};

/// Words of the kernel's command line in the recipe.
const CMDLINE: &str = "oops=panic lockdown=integrity";

#[test]
fn a_node_comes_back_by_itself_from_a_kernel_that_panics() -> Result<()> {
    let lab = Lab::new("bad-kernel")?;
    let forge = Forge::new(&lab)?;
    let mut node = Updated::boot(&lab, &artifact(&forge.node("1.0")?, "raw"))?;
    // It finds no init in its initrd, and no root to look for one.
    let reason = try_bad(&mut node, &forge, "2.0", CMDLINE, &format!("{CMDLINE} rdinit=/none"))?;
    ensure!(reason.contains("left no word"), "{reason}");
    let panics = node.machine.console().text()?.matches("Kernel panic").count();
    ensure!(panics >= 3, "a version has three tries, and panicked {panics} times");

    // The program that should be the node daemon cannot even be asked whether this node's STATE is any good to it.
    let noded = "name = \"noded\"\npath = \"/usr/lib/roost/noded\"";
    node.offer(&artifact(&forge.node_with("3.0", &[(noded, &noded.replacen("noded", "node-init", 1))])?, "set"))?;
    node.order("3.0")?;
    let told = node
        .store
        .wait_for("3.0 refused untried", "host", "name=node1", Updated::LIMIT, |h| h["update"]["halted"].is_string())?;
    let halted = told["update"]["halted"].as_str().unwrap_or_default();
    ensure!(halted.contains("was asked to read this node's STATE before it is installed, and failed"), "{halted}");
    ensure!(told["versions"]["running"] == "1.0", "{told}");
    Ok(())
}

#[test]
#[ignore = "four bad versions with three trials of a minute each: runs in the full suite"]
fn a_node_comes_back_by_itself_from_whatever_else_is_bad_and_takes_the_next_good_version() -> Result<()> {
    let lab = Lab::new("bad-versions")?;
    let forge = Forge::new(&lab)?;
    let mut node = Updated::boot(&lab, &artifact(&forge.node("1.0")?, "raw"))?;
    node.store.qa(&["config", "set", "node.trial.limit=60"])?;

    // Stage 1 hangs after its first act, which is to arm the watchdog.
    let hangs = format!("{CMDLINE} roost.chaos roost.chaos.hang=find-root");
    let reason = try_bad(&mut node, &forge, "2.0", CMDLINE, &hangs)?;
    ensure!(reason.contains("left no word"), "{reason}");
    let hung = node.machine.console().text()?.matches("phase 'find-root' hangs").count();
    ensure!(hung == 3, "a version has three tries, and hung {hung} times");

    // Its node daemon ends as often as it is started.
    let crashes = format!("{CMDLINE} roost.chaos roost.chaos.fail=noded");
    let reason = try_bad(&mut node, &forge, "3.0", CMDLINE, &crashes)?;
    ensure!(reason.contains("the node daemon said nothing; the node daemon ended "), "{reason}");

    // All is installed that guests need, and none starts.
    let reason = try_bad(&mut node, &forge, "4.0", "\"br_netfilter\", \"veth\",", "\"br_netfilter\",")?;
    ensure!(reason.contains("A guest cannot be started: LXC could not start the guest: "), "{reason}");

    // A version that cannot reach the store, which the one before could.
    node.offer(&artifact(&forge.node("5.0")?, "set"))?;
    node.order("5.0")?;
    node.machine.console().wait_for("Reboot, asked for by the update to 5.0", Updated::LIMIT)?;
    node.store.stop();
    for _ in 0..3 {
        let given_up = node.machine.console().wait_for("Version 5.0 is not good within 60 s", Updated::LIMIT)?;
        ensure!(given_up.contains("the store has not welcomed the node"), "{given_up}");
        node.machine.console().mark()?;
    }
    node.store.resume()?;
    let reason = node.wait_back("1.0", "5.0")?;
    ensure!(reason.contains("the store has not welcomed the node"), "{reason}");

    // After all of them, the next good one works the first time, on a trial of the usual length.
    node.store.qa(&["config", "set", "node.trial.limit=300"])?;
    node.offer(&artifact(&forge.node("6.0")?, "set"))?;
    node.order("6.0")?;
    node.wait("6.0 blessed", |v| v["running"] == "6.0" && v["trial"] == false)?;
    Ok(())
}

/// Sends the node to a version with a line of its recipe changed, and waits until it is back; the reason it remembers.
fn try_bad(node: &mut Updated, forge: &Forge, version: &str, line: &str, changed: &str) -> Result<String> {
    node.offer(&artifact(&forge.node_with(version, &[(line, changed)])?, "set"))?;
    node.order(version)?;
    let began =
        node.machine.console().wait_for(&format!("Reboot, asked for by the update to {version}"), Updated::LIMIT)?;
    let gone = std::time::Instant::now();
    let reason = node.wait_back("1.0", version)?;
    println!("{began}: back after {:.1} s, since {reason}", gone.elapsed().as_secs_f64());
    Ok(reason)
}
