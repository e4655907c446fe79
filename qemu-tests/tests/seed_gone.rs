//! A node outlives its seed: the stick is pulled out, the machine's firmware is reset.

use anyhow::Result;
use builder::lab::{Boot, Firmware, Lab};
use qemu_tests::images;
use std::time::Duration;

/// From power-on to Ready.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_node_whose_seed_is_gone_boots_with_its_copy_of_the_last_good_one() -> Result<()> {
    let lab = Lab::new("seed-gone")?;
    let (store, image) = (lab.store()?, images().node);
    let boot = || Boot::new(&image).firmware(Firmware::Direct);
    let mut node = lab.boot(boot().seed(store.seed("node1")?))?;
    node.console().wait_for("Ready after", LIMIT)?;
    node.shut_down(Duration::from_secs(60))?;

    let mut node = lab.boot(boot())?;
    let said = node.console().wait_for("Going on with the last good seed", LIMIT)?;
    assert!(said.contains("ROOST-SEED"), "it does not say what is missing: {said}");
    node.console().wait_for("Ready after", LIMIT)?;
    let host = store.wait_for("the node in the store", "host", "name=node1", Duration::from_secs(20), |h| {
        h["state"] == "running"
    })?;
    // It is the same node: it needed no token, which the copy does not have.
    assert_eq!(store.json(&["host", "list"])?.as_array().map(Vec::len), Some(1), "{host}");
    node.shut_down(Duration::from_secs(60))?;
    Ok(())
}
