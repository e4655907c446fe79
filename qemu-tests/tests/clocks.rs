//! Machines whose clock is wrong, in a network without a time server.

use anyhow::{Result, ensure};
use builder::lab::{Boot, Firmware, Lab};
use qemu_tests::images;
use std::time::Duration;

/// From power-on to Ready, or to the reason why not.
const LIMIT: Duration = Duration::from_secs(180);
const OFF: Duration = Duration::from_secs(60);

#[test]
fn a_clock_at_1970_keeps_no_node_out_and_one_at_2100_is_told_and_does_no_harm() -> Result<()> {
    let lab = Lab::new("clocks")?;
    let store = lab.store()?;
    let seed = store.seed("node1")?;
    let boot = |at: &str| {
        let clock = format!("base={at}T00:00:00");
        Boot::new(images().node).firmware(Firmware::Direct).seed(seed.clone()).args(&["-rtc", &clock])
    };

    // An empty battery: the image's own time is later, and good enough for certificates.
    let mut node = lab.boot(boot("1970-01-01"))?;
    store.wait_ready(&mut node)?;
    node.shut_down(OFF)?;

    let mut node = lab.boot(boot("2100-01-01"))?;
    let line = node.console().wait_for_any(&["No link to the store", "Ready after"], LIMIT)?;
    // Not every firmware and clock agree on centuries: it is some year after 2046.
    ensure!(line.contains("which is today by this node's clock: set the clock"), "{line}");
    node.shut_down(OFF)?;

    // What it wrote down in that boot does not keep it in the future.
    let mut node = lab.boot(Boot::new(images().node).firmware(Firmware::Direct).seed(seed.clone()))?;
    store.wait_ready(&mut node)?;
    let console = node.console().text()?;
    ensure!(!console.contains("today by this node's clock"), "{console}");
    Ok(())
}
