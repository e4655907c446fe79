//! Figures of the real node, printed for `docs/SPECIFICATION.md`. None of them is a limit here.

use anyhow::Result;
use builder::lab::{Boot, Firmware, Lab};
use qemu_tests::images;
use std::time::{Duration, Instant};

/// From the order to Ready again.
const LIMIT: Duration = Duration::from_secs(180);
/// Samples.
const TIMES: usize = 5;

#[test]
#[ignore = "a benchmark: runs in the full suite"]
fn a_node_without_guests_reboots() -> Result<()> {
    let lab = Lab::new("figures")?;
    let store = lab.store()?;
    let mut node = lab.boot(Boot::new(images().node).firmware(Firmware::Direct).seed(store.seed("node1")?))?;
    store.wait_ready(&mut node)?;
    let mut took = Vec::new();
    for _ in 0..TIMES {
        node.console().mark()?;
        let ordered = Instant::now();
        node.press_ctrl_alt_del()?;
        node.console().wait_for("Ready after", LIMIT)?;
        took.push(ordered.elapsed().as_secs_f64());
    }
    took.sort_by(f64::total_cmp);
    println!("drained reboot to Ready, kernel started directly: {took:.1?} s, in the middle {:.1} s", took[TIMES / 2]);
    Ok(())
}
