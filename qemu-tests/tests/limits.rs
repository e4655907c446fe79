//! A desktop that takes all it can get hits its own limits, and nobody else's.

use anyhow::{Context, Result, ensure};
use builder::lab::{Cluster, Desk};
use qemu_tests::images;
use std::time::Duration;

/// Processes of a desktop at most, in this cluster: a session of its own needs some dozens.
const PIDS: u32 = 200;
/// Share of one CPU that the desktop gets while that is measured.
const CPUS: f64 = 0.5;

#[test]
fn a_desktop_is_limited_in_all_it_takes_and_the_node_does_not_notice() -> Result<()> {
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

    // CPUs, before there is no process left to start.
    let cpus = cpus_of_two_busy_loops(&cluster, &desk)?;
    eprintln!("two busy loops had {cpus:.3} of {CPUS} CPUs");
    ensure!((CPUS * 0.8..CPUS * 1.15).contains(&cpus), "two busy loops had {cpus} of {CPUS} CPUs");

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

/// CPUs that a desktop has while it wants two, under a limit that is set while it runs: by its own cgroup's account.
fn cpus_of_two_busy_loops(cluster: &Cluster, desk: &Desk) -> Result<f64> {
    let limit = format!("vm.lxc.cpus={CPUS}");
    cluster.store.qa(&["config", "set", &limit])?;
    let account = "cat /proc/uptime /sys/fs/cgroup/cpu.stat";
    let busy = "for i in 1 2; do timeout 15 bash -c 'while :; do :; done' & done; wait";
    // Only what both looks enclose counts: the limit may come a moment after the first word of it.
    let said = desk.output_of(&format!("(sleep 2; {account}; {busy}; {account})"))?;
    cluster.store.qa(&["config", "del", "vm.lxc.cpus"])?;
    let wall = growth(&said, "").with_context(|| format!("no two times in {said}"))?;
    let used = growth(&said, "usage_usec ").with_context(|| format!("no two usage_usec in {said}"))?;
    ensure!(wall > 10.0, "the loops did not run: {said}");
    Ok(used / 1e6 / wall)
}

/// By how much the number grew that begins a line behind `word`, from its first line to its second.
fn growth(text: &str, word: &str) -> Option<f64> {
    let rests = text.lines().filter_map(|line| line.strip_prefix(word));
    let values: Vec<f64> = rests.filter_map(|rest| rest.split(' ').next()?.parse().ok()).collect();
    let [before, after] = values.as_slice() else { return None };
    Some(after - before)
}
