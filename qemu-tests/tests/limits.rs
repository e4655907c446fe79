//! A desktop that takes all it can get hits its own limits, and nobody else's.

use anyhow::{Result, ensure};
use builder::lab::{Cluster, Desk};
use qemu_tests::images;
use std::time::Duration;

/// Processes of a desktop at most, in this cluster: a session of its own needs some dozens.
const PIDS: u32 = 200;

#[test]
fn memory_processes_and_home_are_limited_and_the_node_does_not_notice() -> Result<()> {
    let mut cluster = Cluster::with_faults("limits", &images())?;
    cluster.store.qa(&["config", "set", &format!("vm.lxc.pids={PIDS}")])?;
    cluster.start_vm()?;
    let client = cluster.client()?;
    let desk = Desk::new(&cluster.lab, cluster.lab.path("failure.png"))?;
    let mut shown = desk.open(&client, cluster.vm)?;
    desk.open_terminal(&mut shown)?;
    let mut chaos = cluster.node.chaos()?;
    let daemons = [chaos.pids("noded")?, chaos.pids("router")?, chaos.pids("nxagent")?];

    // Home: 1 GiB, whatever room STATE has.
    let said = desk.output_of("(dd if=/dev/zero of=~/big bs=1M count=2000 2>&1)")?;
    ensure!(said.contains("Disk quota exceeded") || said.contains("No space left on device"), "{said}");
    let size = desk.output_of("stat -c %s ~/big")?.trim().parse::<u64>()?;
    ensure!((900 << 20..=1 << 30).contains(&size), "the home took {size} bytes");
    ensure!(
        desk.output_of("rm ~/big; echo freed > ~/note; cat ~/note")?.trim() == "freed",
        "no room after all was freed"
    );

    // Memory: a block of 2 GiB in 768 MiB. The kernel ends who asks for it, and nothing else of the desktop.
    let said = desk.output_of("(dd if=/dev/zero of=/dev/null bs=2G count=1; echo ended by $?)")?;
    ensure!(said.contains("ended by 137"), "{said}");
    let line = cluster.node.console().wait_for("Memory cgroup out of memory", Duration::from_secs(5))?;
    ensure!(line.contains("(dd)"), "the kernel chose another victim: {line}");

    // Processes: a shell that cannot fork says so. Only words of the shell itself can tell it.
    desk.type_line("(for i in {1..400}; do sleep 40 & done) 2> ~/e")?;
    let said = desk.output_of("{ read -r l < ~/e; echo $l; }")?;
    ensure!(said.contains("fork") && said.contains("Resource temporarily unavailable"), "{said}");

    ensure!(desk.output_of("echo still here")?.trim() == "still here", "the desktop is gone");
    let now = [chaos.pids("noded")?, chaos.pids("router")?, chaos.pids("nxagent")?];
    ensure!(now == daemons, "{daemons:?} became {now:?}");
    let host = cluster.wait_ready()?;
    ensure!(host["state"] == "running", "{host}");
    cluster.node.shut_down(Duration::from_secs(90))?;
    Ok(())
}
