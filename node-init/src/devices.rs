//! Modules for devices: those that are there, and those that come.
//!
//! In the initrd PID 1 does this itself while it waits for the root. On the root a child of PID 1 does it
//! (`node-init devices`), beside the rest of the boot, and ends when it is done; PID 1 starts it again when a device
//! comes. So PID 1 never holds the module index in memory, and nobody does when the machine has come to rest.

use crate::fail::chain;
use crate::kmsg;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use sys::modules::{Index, Loader, Params, device_aliases};
use sys::uevent::{Received, Socket};

/// What PID 1 mounts STATE with in a moment, while it is still busy making it.
const FOR_BOOT: &[&str] = &["ext4", "quota_v2"];
/// What `noded` asks for as soon as it runs. The kernel would ask for each by itself, a process for every one.
const FOR_NODED: &[&str] = &[
    "nf_tables",
    "nft_meta_bridge",
    "nft_ct",
    "nft_chain_nat",
    "nft_masq",
    "nft_limit",
    "nft_reject_inet",
    "overlay",
    "loop",
    "veth",
];
/// Power buttons, which no device asks for: one that is pressed as soon as the node is Ready must be heard.
const FOR_BUTTONS: &[&str] = &["button", "evdev"];

/// There when the machine was booted by UEFI.
const FIRMWARE: &str = "/sys/firmware/efi";
/// Writes the end of the kernel's log into variables of the firmware.
const PANICS: &str = "efi_pstore";

/// Loads modules as the kernel finds devices.
pub struct Devices {
    socket: Socket,
    loader: Loader,
    /// Aliases of devices whose modules are still to be loaded, the next one last.
    pending: Vec<String>,
}

impl Devices {
    /// Listens first, then looks at all devices that are there: nothing falls between.
    pub fn open() -> Result<Self, sys::Error> {
        let socket = Socket::open()?;
        let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let loader = Loader::new(Index::of_running_kernel()?, Params::parse(&cmdline));
        let mut devices = Self { socket, loader, pending: Vec::new() };
        devices.look_at_all();
        Ok(devices)
    }

    /// Loads a module that is needed by name.
    pub fn require(&mut self, name: &str) -> Result<(), sys::Error> {
        self.loader.load(name).map(drop)
    }

    /// Lets the kernel keep the last words of a panic, where the firmware has room for them. Without it a panic says
    /// nothing, and nothing else changes.
    pub fn keep_panics(&mut self) {
        if Path::new(FIRMWARE).is_dir() {
            self.load(PANICS);
        }
    }

    /// Loads what watchdogs hang on, and then their drivers.
    pub fn load_watchdogs(&mut self) -> Result<(), sys::Error> {
        loop {
            self.hear_events()?;
            let Some(at) = self.pending.iter().position(|alias| may_be_watchdog(alias)) else { return Ok(()) };
            let alias = self.pending.remove(at);
            self.load(&alias);
        }
    }

    /// Loads modules, for devices that are there and for those that come, until `find` has found something (it is
    /// asked after every change) or the time is over.
    pub fn wait_for<T>(
        &mut self,
        patience: Patience,
        mut find: impl FnMut() -> Look<T>,
    ) -> Result<Option<T>, sys::Error> {
        let last = Instant::now() + patience.limit;
        let mut until = last;
        let mut changed = true;
        loop {
            changed |= self.hear_events()?;
            if std::mem::take(&mut changed) {
                match find() {
                    Look::Found(found) => return Ok(Some(found)),
                    Look::NotYet => until = last,
                    Look::Unlikely => until = last.min(Instant::now() + patience.unlikely),
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            match self.pending.pop() {
                Some(alias) => self.load(&alias),
                None => drop(sys::poll::readable(self.socket.as_fd(), Some(left))?),
            }
        }
    }

    /// Loads for devices that are there, and for those that appear by that, down to this urgency.
    fn load_pending(&mut self, least: Urgency) -> Result<(), sys::Error> {
        loop {
            self.hear_events()?;
            match self.pending.pop_if(|alias| Urgency::of(alias) >= least) {
                Some(alias) => self.load(&alias),
                None => return Ok(()),
            }
        }
    }

    fn load_named(&mut self, names: &[&str]) {
        names.iter().for_each(|name| self.load(name));
    }

    /// Takes all events that wait; says whether there were any.
    fn hear_events(&mut self) -> Result<bool, sys::Error> {
        let mut heard = false;
        loop {
            match self.socket.recv()? {
                Received::Event(event) => {
                    if let ("add", Some(alias)) = (event.action.as_str(), event.var("MODALIAS")) {
                        self.pending.push(alias.to_owned());
                    }
                }
                Received::Lost => self.look_at_all(),
                Received::Nothing => break,
            }
            heard = true;
        }
        if heard {
            self.pending.sort_by_key(|a| Urgency::of(a));
        }
        Ok(heard)
    }

    fn look_at_all(&mut self) {
        self.pending = by_urgency(device_aliases(Path::new("/sys")));
    }

    /// A device without its driver is a fact for the log; the boot decides by what it finds.
    fn load(&mut self, name: &str) {
        if let Err(e) = self.loader.load(name) {
            tracing::warn!(alias = name, error = %chain(&e), "Module not loaded");
        }
    }
}

/// What a look at the devices found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look<T> {
    /// What was looked for.
    Found(T),
    /// Nothing yet.
    NotYet,
    /// Nothing, and where it should be is something else.
    Unlikely,
}

/// How long devices are waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// In all.
    pub limit: Duration,
    /// From the last change, when what is wanted is unlikely to come.
    pub unlikely: Duration,
}

/// Whether a device may be a watchdog, or a chip that has one: ISA bridges, SMBus, and other system peripherals.
fn may_be_watchdog(alias: &str) -> bool {
    let class = alias.strip_prefix("pci:").and_then(|a| a.split_once("bc")).map(|(_, class)| class);
    let chip = class.is_some_and(|c| ["06sc01", "0Csc05", "08sc80"].iter().any(|wanted| c.starts_with(wanted)));
    chip || ["platform:iTCO_wdt", "platform:wdat_wdt"].contains(&alias)
}

/// How soon a device's driver is wanted. Each costs time, and whoever waits for one wants that first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// Screens, sound, sensors: after the node has begun to work.
    Later,
    /// Buses, watchdogs.
    Soon,
    /// What disks of real machines hang on.
    Storage,
    /// The way to the store.
    Network,
    /// Disks of virtual machines, quickly looked at.
    Disk,
}

impl Urgency {
    fn of(alias: &str) -> Self {
        // The base class of a PCI device; a USB hub hides what is behind it.
        let class = alias.strip_prefix("pci:").and_then(|a| a.split_once("bc")).map(|(_, class)| class);
        match (alias, class.and_then(|c| c.get(..2))) {
            // Block devices and SCSI hosts of virtio, then its network interfaces.
            (a, _) if a.starts_with("virtio:d00000002") || a.starts_with("virtio:d00000008") => Self::Disk,
            (a, _) if a.starts_with("virtio:d00000001") => Self::Network,
            (_, Some("02")) => Self::Network,
            (_, Some("01")) => Self::Storage,
            (_, Some("06" | "08" | "0C")) => Self::Soon,
            (a, _) if a.starts_with("virtio:") || a.starts_with("usb:") => Self::Soon,
            _ => Self::Later,
        }
    }
}

/// Most urgent last.
fn by_urgency(aliases: BTreeSet<String>) -> Vec<String> {
    let mut all: Vec<_> = aliases.into_iter().collect();
    all.sort_by_key(|a| Urgency::of(a));
    all
}

/// `node-init devices`: loads modules for all devices that are there.
pub fn serve() -> ExitCode {
    kmsg::init();
    match load_all() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => report(&e),
    }
}

/// First what the boot waits for. The rest costs as much again: it takes what CPU time the services leave.
fn load_all() -> Result<(), sys::Error> {
    let cgroup = sys::cgroup::Cgroup::own()?;
    // An earlier run that was cut off may have left it low.
    cgroup.weigh_cpu(100)?;
    let mut devices = Devices::open()?;
    devices.load_named(FOR_BOOT);
    devices.load_pending(Urgency::Network)?;
    devices.load_named(FOR_BUTTONS);
    devices.load_named(FOR_NODED);
    cgroup.weigh_cpu(1)?;
    devices.load_pending(Urgency::Later)?;
    tracing::info!(ms = sys::boottime::now_ms(), "Modules are loaded for all devices");
    Ok(())
}

/// The kernel's call for a module. It asks in the middle of something, and waits for the answer.
pub fn modprobe(names: &[&str]) -> ExitCode {
    kmsg::init();
    let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let loaded = Index::of_running_kernel().and_then(|index| {
        let mut loader = Loader::new(index, Params::parse(&cmdline));
        names.iter().try_for_each(|name| loader.load(name).map(drop))
    });
    match loaded {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => report(&e),
    }
}

fn report(e: &sys::Error) -> ExitCode {
    tracing::warn!(error = %chain(e), "Modules not loaded");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchdogs_are_known_by_the_chips_that_have_them() {
        for (alias, expect) in [
            ("pci:v00008086d00002918sv00001AF4sd00001100bc06sc01i00", true),
            ("pci:v00008086d00002930sv00001AF4sd00001100bc0Csc05i00", true),
            ("pci:v00008086d000025ABsv00001AF4sd00001100bc08sc80i00", true),
            ("platform:iTCO_wdt", true),
            ("pci:v00008086d000029C0sv00001AF4sd00001100bc06sc00i00", false),
            ("pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00", false),
            ("acpi:PNP0C0C:", false),
        ] {
            assert_eq!(may_be_watchdog(alias), expect, "{alias}");
        }
    }

    #[test]
    fn drivers_of_disks_and_networks_come_first() {
        let aliases = [
            "acpi:PNP0C0C:",
            "pci:v1bc03sc00i00",
            "pci:v1bc02sc00i00",
            "pci:v2bc01sc06i01",
            "pci:v3bc0Csc03i30",
            "virtio:d00000001v1",
            "virtio:d00000002v1",
        ];
        let order = by_urgency(aliases.iter().map(|a| (*a).to_owned()).collect());
        let expect = [
            "acpi:PNP0C0C:",
            "pci:v1bc03sc00i00",
            "pci:v3bc0Csc03i30",
            "pci:v2bc01sc06i01",
            "pci:v1bc02sc00i00",
            "virtio:d00000001v1",
            "virtio:d00000002v1",
        ];
        assert_eq!(order, expect);
    }
}
