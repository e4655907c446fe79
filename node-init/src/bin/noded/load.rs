//! What the machine is and how busy it is, read from /proc and /sys.

use model::sync::{Heartbeat, Inventory};
use std::{collections::BTreeMap, fs, path::Path};

/// Programs of a node whose memory is reported.
const OURS: &[&str] = &["node-init", "noded", "router", "dnsmasq", "chronyd", "store"];

/// Measures the load; CPU time counts from one measurement to the next.
#[derive(Debug, Default)]
pub struct Meter {
    last: Option<CpuTime>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CpuTime {
    busy: u64,
    total: u64,
}

impl Meter {
    /// A heartbeat with all that is measured; state and reason are left to the caller.
    pub fn measure(&mut self, state: model::state::HostState, reason: String) -> Heartbeat {
        let now = cpu_time(&text("/proc/stat"));
        let cpu_percent = self.last.zip(now).map_or(0.0, |(last, now)| percent(last, now));
        self.last = now;
        Heartbeat {
            state,
            reason,
            available_mib: field_kib(&text("/proc/meminfo"), "MemAvailable:") / 1024,
            cpu_percent,
            rss_kib: resident(Path::new("/proc")),
            uptime_s: text("/proc/uptime").split('.').next().and_then(|s| s.parse().ok()).unwrap_or(0),
        }
    }
}

fn percent(last: CpuTime, now: CpuTime) -> f32 {
    let total = now.total.saturating_sub(last.total);
    if total == 0 { 0.0 } else { (now.busy.saturating_sub(last.busy) as f32 * 100.0 / total as f32).min(100.0) }
}

/// Busy and total time of all CPUs: user, nice, system, idle, iowait, irq, softirq, steal.
fn cpu_time(stat: &str) -> Option<CpuTime> {
    let line = stat.lines().find(|l| l.starts_with("cpu "))?;
    let times: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|w| w.parse().ok()).collect();
    let total = times.iter().sum();
    let idle = times.get(3)? + times.get(4)?;
    Some(CpuTime { busy: total - idle, total })
}

/// Sum of VmRSS of our programs, by name.
fn resident(proc: &Path) -> Vec<(String, u64)> {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    let processes = fs::read_dir(proc).into_iter().flatten().flatten();
    for process in processes.filter(|p| p.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit)) {
        let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        if let Some(name) = OURS.iter().find(|name| **name == comm.trim_end()) {
            // A process that ended in between counts nothing.
            let status = fs::read_to_string(process.path().join("status")).unwrap_or_default();
            *sums.entry(name).or_default() += field_kib(&status, "VmRSS:");
        }
    }
    sums.into_iter().map(|(name, kib)| (name.to_owned(), kib)).collect()
}

fn field_kib(text: &str, field: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(field));
    line.and_then(|l| l.split_whitespace().next()).and_then(|w| w.parse().ok()).unwrap_or(0)
}

/// A file of /proc or /sys, without the blank at its end; empty when it cannot be read.
fn text(path: &str) -> String {
    fs::read_to_string(path).map(|t| t.trim_end().to_owned()).unwrap_or_default()
}

/// What the machine is. `state` is the root of STATE, `mac` that of the uplink.
pub fn inventory(state: &Path, mac: String) -> Inventory {
    let dmi = |name: &str| text(&format!("/sys/class/dmi/id/{name}"));
    let cpuinfo = text("/proc/cpuinfo");
    let values = |field: &str| {
        let lines = cpuinfo.lines().filter(|l| l.starts_with(field));
        lines.filter_map(|l| l.split(':').nth(1)).map(|v| v.trim().to_owned()).collect::<Vec<_>>()
    };
    let state_mib = rustix::fs::statvfs(state).map(|s| (s.f_blocks * s.f_frsize) >> 20).unwrap_or(0);
    Inventory {
        machine: format!("{} {}", dmi("sys_vendor"), dmi("product_name")).trim().to_owned(),
        serial: dmi("product_serial"),
        cpus: values("processor").len() as u32,
        bogomips: values("bogomips").iter().filter_map(|v| v.parse::<f64>().ok()).sum(),
        memory_mib: field_kib(&text("/proc/meminfo"), "MemTotal:") / 1024,
        state_mib,
        mac,
    }
}

/// Random id of this boot.
pub fn boot_id() -> String {
    text("/proc/sys/kernel/random/boot_id")
}

/// A host name for a machine whose seed gives none: from its serial number, else from its MAC address.
pub fn machine_name(inventory: &Inventory) -> String {
    let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    // Vendors fill the field with words like "Not Specified"; a serial number has digits.
    let serial = Some(plain(&inventory.serial)).filter(|s| s.chars().any(|c| c.is_ascii_digit()) && s.len() <= 40);
    let unique = serial.filter(|s| s.chars().any(|c| c != '0')).unwrap_or_else(|| plain(&inventory.mac));
    if unique.is_empty() { "node".to_owned() } else { format!("node-{unique}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_use_is_the_share_of_time_not_idle_between_two_readings() {
        let a = cpu_time("cpu  10 0 10 70 10 0 0 0 5 5\ncpu0 1 1 1 1\n").expect("reads");
        let b = cpu_time("cpu  30 0 20 130 20 0 0 0 9 9\n").expect("reads");
        assert_eq!(percent(a, b), 30.0);
        assert_eq!(percent(b, b), 0.0);
        assert_eq!(percent(b, a), 0.0, "counters that went back are no load");
        assert_eq!(cpu_time("intr 5"), None);
    }

    #[test]
    fn this_machine_has_memory_and_processors() {
        let inventory = inventory(Path::new("/"), String::new());
        assert!(inventory.cpus > 0 && inventory.memory_mib > 0 && inventory.state_mib > 0, "{inventory:?}");
        let beat = Meter::default().measure(model::state::HostState::Running, String::new());
        assert!(beat.available_mib > 0 && beat.available_mib <= inventory.memory_mib && beat.uptime_s > 0, "{beat:?}");
    }

    #[track_caller]
    fn named(serial: &str, mac: &str, expect: &str) {
        let inventory = Inventory { serial: serial.into(), mac: mac.into(), ..Inventory::default() };
        assert_eq!(machine_name(&inventory), expect);
    }

    #[test]
    fn a_machine_is_named_by_what_is_its_own() {
        named("CZ-123 X", "52:54:00:12:34:56", "node-cz123x");
        named("Not Specified", "52:54:00:12:34:56", "node-525400123456");
        named("0", "52:54:00:12:34:56", "node-525400123456");
        named("", "", "node");
    }
}
