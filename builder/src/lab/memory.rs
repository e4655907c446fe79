//! Memory of a guest's programs, from what the guest's own /proc says.

use super::{LabError, Shell};

/// A process by its `/proc/PID/status`.
#[derive(Debug, Default)]
struct Status {
    name: String,
    pid: u32,
    parent: u32,
    rss_kib: u64,
}

/// Resident memory in KiB of a browser's bridge in the guest: its X server, its NX client, and the process that
/// runs both. `shell` is one in the session.
pub fn bridge_rss_kib(shell: &Shell<'_>) -> Result<u64, LabError> {
    let found = shell.output_of("cat /proc/[0-9]*/status 2>&-")?;
    sum(&found).ok_or(LabError::Answer {
        peer: "/proc in the guest".to_owned(),
        found,
        expected: "a process Xvnc and its parent".to_owned(),
    })
}

fn sum(statuses: &str) -> Option<u64> {
    let all = parse(statuses);
    let screen = all.iter().find(|p| p.name == "Xvnc")?;
    let helper = all.iter().find(|p| p.pid == screen.parent)?;
    Some(helper.rss_kib + all.iter().filter(|p| p.parent == helper.pid).map(|p| p.rss_kib).sum::<u64>())
}

/// Each status begins with its `Name`.
fn parse(statuses: &str) -> Vec<Status> {
    let mut all: Vec<Status> = Vec::new();
    for (key, value) in statuses.lines().filter_map(|l| l.split_once(':')) {
        let value = value.trim();
        let number = || value.trim_end_matches(" kB").parse().unwrap_or_default();
        if key == "Name" {
            all.push(Status { name: value.to_owned(), ..Status::default() });
        }
        let Some(last) = all.last_mut() else { continue };
        match key {
            "Pid" => last.pid = value.parse().unwrap_or_default(),
            "PPid" => last.parent = value.parse().unwrap_or_default(),
            "VmRSS" => last.rss_kib = number(),
            _ => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridge_is_the_parent_of_its_screen_and_that_parents_children() {
        let status =
            |name, pid, parent, kib| format!("Name:\t{name}\nPid:\t{pid}\nPPid:\t{parent}\nVmRSS:\t  {kib} kB\n");
        let all = [
            status("init", 1, 0, 1000),
            status("exe", 7, 1, 3000),
            status("Xvnc", 8, 7, 50_000),
            status("nxproxy", 9, 7, 6000),
            status("nxagent", 5, 1, 90_000),
        ];
        assert_eq!(sum(&all.concat()), Some(59_000));
        assert_eq!(sum(&all[..2].concat()), None);
    }
}
