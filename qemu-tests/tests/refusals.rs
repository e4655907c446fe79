//! Nodes that must not get in: the reason is on their console and in the store's log.

use anyhow::{Result, ensure};
use builder::lab::{Boot, Firmware, Lab, Machine, Store};
use qemu_tests::{artifact, build, images, wait_for_log};
use std::{path::PathBuf, process::Command, time::Duration};

/// Until an emulated machine has asked to join.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_seed_with_the_wrong_ca_or_a_spent_token_lets_nobody_in() -> Result<()> {
    let lab = Lab::new("refusals")?;
    let store = lab.store()?;

    // Somebody else's server at the store's address, or a mistyped seed: the node does not even show its token.
    let seed = store.seed("stranger")?;
    let ca = value(&seed, "ca");
    let digit = if ca.ends_with('0') { '1' } else { '0' };
    let mut node = boot(&lab, "stranger", seed.replace(&ca, &format!("{}{digit}", &ca[..ca.len() - 1])))?;
    let line = refused(&mut node)?;
    assert!(line.contains("is not of this cluster") && line.contains("Correct the seed's store.ca"), "{line}");
    wait_for_log(&store.log(), &["does not trust this store"], LIMIT)?;
    drop(node);

    let used = store.seed("first")?;
    let mut first = boot(&lab, "first", used.clone())?;
    first.console().wait_for("Ready after", LIMIT)?;
    first.shut_down(Duration::from_secs(60))?;
    let mut second = boot(&lab, "second", used.replace("first", "second"))?;
    let line = refused(&mut second)?;
    assert!(line.contains("token was used already") && line.contains("Put a fresh token into the seed"), "{line}");
    wait_for_log(&store.log(), &["refused", "token was used already"], LIMIT)?;
    drop(second);

    let mut late = boot(&lab, "late", expired(&lab, &store)?)?;
    let line = refused(&mut late)?;
    assert!(line.contains("token expired at") && line.contains("Put a fresh token into the seed"), "{line}");
    wait_for_log(&store.log(), &["refused", "token expired at"], LIMIT)?;

    for name in ["stranger", "second", "late"] {
        let host = store.one("host", &format!("name={name}"))?;
        assert!(host.is_null(), "{name} is a host: {host}");
    }
    Ok(())
}

#[test]
fn an_image_for_one_cluster_takes_no_seed_of_another() -> Result<()> {
    let lab = Lab::new("pinned")?;
    let store = lab.store()?;
    let image = pinned(&lab, &store)?;
    let seed = store.seed("node1")?;
    let ours = value(&seed, "ca");
    let theirs = "c1".repeat(32);
    let boot = |seed: String| lab.boot(Boot::new(&image).name("node1").firmware(Firmware::Direct).seed(seed));

    // The address of our own store: what the seed names alone decides.
    let mut node = boot(seed.replace(&ours, &theirs))?;
    let line = node.console().wait_for_any(&["The node daemon cannot go on", "Ready after"], LIMIT)?;
    ensure!(line.contains(&format!("its store.ca is {theirs}, and this image is for {ours} alone")), "{line}");
    ensure!(store.one("host", "name=node1")?.is_null(), "it joined");
    drop(node);

    let without: Vec<&str> = seed.lines().filter(|line| !line.starts_with("ca ")).collect();
    ensure!(without.len() + 1 == seed.lines().count(), "no line 'ca' in the seed:\n{seed}");
    let mut node = boot(without.join("\n"))?;
    node.console().wait_for("Ready after", LIMIT)?;
    Ok(())
}

/// The node's image, for the cluster of this store.
fn pinned(lab: &Lab, store: &Store) -> Result<PathBuf> {
    Ok(artifact(&build(lab, "node", &["--cluster", &store.ca().to_string_lossy()])?, "raw"))
}

fn boot(lab: &Lab, name: &str, seed: String) -> Result<Machine> {
    Ok(lab.boot(Boot::new(images().node).name(name).firmware(Firmware::Direct).seed(seed))?)
}

/// What the console says about a join that did not succeed. Whoever becomes Ready instead was let in.
#[track_caller]
fn refused(node: &mut Machine) -> Result<String> {
    let line = node.console().wait_for_any(&["Cannot join the cluster", "Ready after"], LIMIT)?;
    assert!(line.contains("Cannot join"), "the node was let in: {line}");
    Ok(line)
}

/// A seed whose token is good for a second, which is over before a machine has booted.
fn expired(lab: &Lab, store: &Store) -> Result<String> {
    let seed = store.seed("late")?;
    let made = Command::new(lab.program("store"))
        .args(["token", "new", "--kind", "join", "--ttl", "1s", "--db"])
        .arg(store.database())
        .output()?;
    let token = String::from_utf8(made.stdout)?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(seed.replace(&value(&seed, "token"), token.trim()))
}

/// A value of a seed, without its quotes.
fn value(seed: &str, key: &str) -> String {
    let of_key =
        |line: &str| line.strip_prefix(key)?.trim_start().strip_prefix("= ").map(|v| v.trim_matches('"').to_owned());
    seed.lines().find_map(of_key).unwrap_or_else(|| panic!("no {key} in the seed:\n{seed}"))
}
