//! An update onto a disk with a bad sector: it is told, nothing of what runs is harmed, and a good disk takes it.

use anyhow::{Context, Result, ensure};
use builder::lab::{Boot, Firmware, Lab};
use qemu_tests::{Forge, Updated, artifact};
use std::time::Duration;

/// What goes on after the first failure is seen for this long: some tries more.
const WATCHED: Duration = Duration::from_secs(10);

#[test]
fn a_sector_that_cannot_be_written_fails_an_update_and_nothing_else() -> Result<()> {
    let lab = Lab::new("bad-disk")?;
    let forge = Forge::new(&lab)?;
    let image = artifact(&forge.node("1.0")?, "raw");
    let other = artifact(&forge.node("2.0")?, "set");

    // In the idle slot, well behind its start.
    let bad = lab.disk("node1", &image)?.partition("roost-root-b")?.start + (9 << 20);
    let hardware = Boot::new(&image).firmware(Firmware::Uefi).failing_writes(bad);
    let mut node = Updated::boot_on(&lab, hardware)?;
    node.offer(&other)?;
    node.order("2.0")?;
    let told = node.wait("2.0 failed", |v| v["update"]["step"] == "failed")?;
    let detail = told["versions"]["update"]["detail"].as_str().context("no reason")?;
    ensure!(detail.contains("os error 5"), "{detail}");
    println!("told: {detail}");
    std::thread::sleep(WATCHED);
    let still = node.store.one("host", "name=node1")?;
    ensure!(still["state"] == "running" && still["versions"]["running"] == "1.0", "{still}");
    ensure!(still["versions"]["refused"].as_array().is_none_or(Vec::is_empty), "the version is not to blame: {still}");

    // Half of a version lies in the slot now. What runs boots as before, and the update goes on where it must.
    let Updated { store, machine } = node;
    machine.shut_down(Duration::from_secs(60))?;
    let seed = store.seed("node1")?;
    let mut machine = lab.boot(Boot::new(&image).firmware(Firmware::Uefi).seed(seed))?;
    machine.console().wait_for("Ready after", Updated::LIMIT)?;
    let node = Updated { store, machine };
    node.wait("2.0 blessed", |v| v["running"] == "2.0" && v["trial"] == false)?;
    Ok(())
}
