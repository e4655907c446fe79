//! STATE in LUKS2: the TPM opens it, else the recovery key that the store keeps, else nobody.

use anyhow::{Context, Result};
use builder::lab::{Boot, Firmware, Lab, Machine};
use qemu_tests::images;
use std::time::{Duration, Instant};

/// From power-on to Ready, or to a dead end.
const LIMIT: Duration = Duration::from_secs(180);
/// From Ready on the console to the store's having heard it.
const HEARD: Duration = Duration::from_secs(20);
/// How long a node may take to see that it has no TPM.
const NO_TPM: Duration = Duration::from_secs(5);
/// Of STATE's start: a file system's own words lie in it (its root folder names `lost+found`), and those of a few files.
const SEARCHED: usize = 128 << 20;

fn holds(bytes: &[u8], words: &str) -> bool {
    bytes.windows(words.len()).any(|window| window == words.as_bytes())
}

/// The failure page's two lines, of a node that must not start.
fn refuses(node: &mut Machine) -> Result<(String, String)> {
    let line = node.console().wait_for_any(&["THIS NODE CANNOT START", "Ready after"], LIMIT)?;
    assert!(line.contains("phase 'state' failed"), "{line}");
    let what = node.console().wait_for("What:", Duration::from_secs(5))?;
    Ok((what, node.console().wait_for("Do:", Duration::from_secs(5))?))
}

#[test]
#[ignore = "five boots: runs in the full suite"]
fn state_is_opened_by_its_tpm_or_by_the_recovery_key_and_by_nothing_else() -> Result<()> {
    let lab = Lab::new("encrypted-state")?;
    let (store, image) = (lab.store()?, images().node);
    let seed = store.qa(&["host", "seed", &store.node_address(), "name=node1", "encryption=tpm"])?;
    let boot = |tpm: &str| Boot::new(&image).firmware(Firmware::Direct).tpm(tpm).seed(seed.clone());
    let off = Duration::from_secs(60);

    let mut node = lab.boot(boot("own"))?;
    node.console().wait_for("Ready after", LIMIT)?;
    store.wait_for("node1 running", "host", "name=node1", HEARD, |h| h["state"] == "running")?;
    let keys = store.json(&["host", "recovery", "-f", "name=node1"])?;
    let key = keys[0]["key"].as_str().context("the store has no recovery key")?.to_owned();
    node.shut_down(off)?;
    assert!(!std::fs::read_to_string(store.log())?.contains(&key), "the key is in the store's log");

    let disk = lab.disk("node1", &image)?;
    let state = disk.partition("roost-state")?;
    let bytes = disk.read(state.start, SEARCHED)?;
    assert!(bytes.starts_with(b"LUKS\xba\xbe"), "STATE is not encrypted");
    assert!(holds(&bytes, "roost-tpm2"), "nothing is sealed");
    for words in ["lost+found", "BEGIN PRIVATE KEY", "BEGIN CERTIFICATE", &key] {
        assert!(!holds(&bytes, words), "'{words}' can be read on the disk");
    }

    let mut node = lab.boot(boot("own"))?;
    node.console().wait_for("Ready after", LIMIT)?;
    node.shut_down(off)?;

    let mut node = lab.boot(boot("strange"))?;
    let (what, advice) = refuses(&mut node)?;
    assert!(what.contains("is encrypted and does not open") && what.contains("another TPM"), "{what}");
    assert!(advice.contains("qa host recovery") && advice.contains("state.recovery-key"), "{advice}");
    drop(node);

    // With the recovery key the strange TPM becomes its own: the key is needed for this boot alone.
    let rescue = format!("{}recovery-key = \"{}\"\n", seed, key.to_lowercase());
    let mut node = lab.boot(boot("strange").seed(rescue))?;
    node.console().wait_for("STATE was opened by its recovery key", LIMIT)?;
    node.console().wait_for("A new key was sealed", LIMIT)?;
    node.console().wait_for("Ready after", LIMIT)?;
    let console = node.console().text()?;
    // As the store shows it, and as the seed has it.
    assert!(!console.to_uppercase().contains(&key), "the key is on the console");
    node.shut_down(off)?;

    let mut node = lab.boot(boot("strange"))?;
    node.console().wait_for("Ready after", LIMIT)?;
    store.wait_for("node1 running", "host", "name=node1", HEARD, |h| h["state"] == "running")?;
    // It is the same node with the same data: it did not join again.
    assert_eq!(store.json(&["host", "list"])?.as_array().map(Vec::len), Some(1));
    node.shut_down(off)?;
    Ok(())
}

#[test]
fn a_node_without_a_tpm_says_so_within_5_s_and_formats_nothing() -> Result<()> {
    let lab = Lab::new("no-tpm")?;
    let (store, image) = (lab.store()?, images().node);
    let seed = store.qa(&["host", "seed", &store.node_address(), "encryption=tpm"])?;
    let mut node = lab.boot(Boot::new(&image).firmware(Firmware::Direct).seed(seed))?;
    // The line of the phase before.
    node.console().wait_for("root-disk", LIMIT)?;
    let began = Instant::now();
    let (what, advice) = refuses(&mut node)?;
    let took = began.elapsed();
    assert!(what.contains("This machine has no TPM 2.0") && what.contains("Nothing was formatted"), "{what}");
    assert!(advice.contains("state.encryption"), "{advice}");
    assert!(took < NO_TPM, "it took {took:?}");
    drop(node);
    let disk = lab.disk("node1", &image)?;
    assert!(disk.partition("roost-state").is_err() && disk.partition("roost-state-new").is_err());
    Ok(())
}
