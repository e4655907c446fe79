//! The debug image: a shell where a developer can reach it, and nothing of it unnoticed.

use anyhow::{Result, ensure};
use builder::lab::{Boot, Firmware, Lab};
use qemu_tests::build;
use std::{io::Write, time::Duration};

/// From power-on to Ready.
const LIMIT: Duration = Duration::from_secs(180);

#[test]
#[ignore = "builds another image: runs in the full suite"]
fn a_debug_image_answers_on_its_serial_line_and_says_everywhere_what_it_is() -> Result<()> {
    let lab = Lab::new("debug-image")?;
    let (store, image) = (lab.store()?, build(&lab, "node-debug", &[])?.join("node-debug.raw"));
    let boot = Boot::new(image).name("node1").firmware(Firmware::Direct).typing();
    let mut node = lab.boot(boot.seed(store.seed("node1")?))?;
    node.console().wait_for("DEBUG IMAGE: a root shell on ttyS0", LIMIT)?;
    node.console().wait_for("Ready after", LIMIT)?;

    // The sum is not in what was typed: only a shell can have said it.
    let mut port = node.serial()?;
    port.write_all(b"echo the shell counted $((40 + 2)) in $(hostname)\n")?;
    node.console().wait_for("the shell counted 42 in node1", Duration::from_secs(30))?;

    let host = store.wait_for("the image's variant", "host", "name=node1", Duration::from_secs(30), |host| {
        host["hardening"]["missing"].as_array().is_some_and(|missing| !missing.is_empty())
    })?;
    let missing = &host["hardening"]["missing"];
    ensure!(missing.as_array().map(Vec::len) == Some(1), "more than the shell is missing: {missing}");
    ensure!(missing[0].as_str().is_some_and(|what| what.starts_with("image is debug, wanted production")), "{missing}");
    Ok(())
}
