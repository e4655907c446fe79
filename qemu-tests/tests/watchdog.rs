//! A node that hangs is worse than one that is off: whoever hangs is ended.

use anyhow::{Result, ensure};
use builder::lab::{Boot, Firmware, Lab};
use qemu_tests::{images, wait_for_successor};
use std::time::{Duration, Instant};

/// From power-on to Ready.
const LIMIT: Duration = Duration::from_secs(120);
/// A daemon that says nothing for 60 s hangs.
const HANGS: Duration = Duration::from_secs(100);
/// A watchdog is set to 30 s, and this machine's counts down twice; clocks of a busy host's machines run behind a little.
const BITES: Duration = Duration::from_secs(75);

#[test]
fn a_noded_that_hangs_is_replaced_and_a_pid_1_that_hangs_resets_the_machine() -> Result<()> {
    let lab = Lab::new("watchdog")?;
    let store = lab.store()?;
    let boot = Boot::new(images().node).firmware(Firmware::Direct).seed(store.seed("node1")?).chaos();
    let mut node = lab.boot(boot)?;
    node.console().wait_for("Ready after", LIMIT)?;

    let mut chaos = node.chaos()?;
    let hung = chaos.stop("noded")?;
    ensure!(hung.len() == 1, "{hung:?}");
    node.console().wait_for("Service hangs and is killed", HANGS)?;
    wait_for_successor(&mut chaos, "noded", &hung, Duration::from_secs(30))?;

    node.console().mark()?;
    let mut qmp = node.qmp()?;
    chaos.hang()?;
    let hung = Instant::now();
    let event = qmp.wait_event("WATCHDOG", BITES)?;
    eprintln!("the watchdog reset the machine {:.1} s after PID 1 hung", hung.elapsed().as_secs_f64());
    ensure!(event["action"] == "reset", "{event}");
    // It comes up again by itself, and the store sees the same node.
    node.console().wait_for("Ready after", LIMIT)?;
    let hosts = store.json(&["host", "list"])?;
    ensure!(hosts.as_array().is_some_and(|h| h.len() == 1), "{hosts}");
    Ok(())
}
