//! Modules for devices: those that are there, and those that come.
//!
//! In the initrd PID 1 does this itself while it waits for the root. On the root a child of PID 1 does it
//! (`node-init devices`), beside the rest of the boot, and so PID 1 never holds the module index in memory.

use crate::fail::chain;
use crate::kmsg;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use sys::modules::{Index, Loader, Params, device_aliases};
use sys::uevent::{Received, Socket};

/// What PID 1 will want in a moment, while it is still busy with the disk: loaded before any driver.
const FIRST: &[&str] = &["ext4"];
/// Modules that no device and no kernel call asks for by itself: what opens their device file would find none.
const ALWAYS: &[&str] = &["loop", "tun", "vhost_net", "vhost_vsock", "button", "evdev", "qemu_fw_cfg"];

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

    /// Loads modules, for devices that are there and for those that come, until `find` has found something (it is
    /// asked after every change) or the time is over.
    pub fn wait_for<T>(
        &mut self,
        limit: Duration,
        mut find: impl FnMut() -> Option<T>,
    ) -> Result<Option<T>, sys::Error> {
        let until = Instant::now() + limit;
        let mut changed = true;
        loop {
            changed |= self.hear_events()?;
            if std::mem::take(&mut changed)
                && let Some(found) = find()
            {
                return Ok(Some(found));
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

    /// Loads for all devices that are there, and for those that appear by that.
    fn load_all_pending(&mut self) -> Result<(), sys::Error> {
        loop {
            self.hear_events()?;
            match self.pending.pop() {
                Some(alias) => self.load(&alias),
                None => return Ok(()),
            }
        }
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
                Received::Nothing => return Ok(heard),
            }
            heard = true;
        }
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

/// Most urgent last: disks of virtual machines, then what disks of real ones hang on, then the rest. Each driver costs
/// time, and whoever waits for the root wants its disk's first.
fn by_urgency(aliases: BTreeSet<String>) -> Vec<String> {
    let urgency = |alias: &String| match alias {
        // Block devices and SCSI hosts of virtio; mass storage controllers of PCI.
        a if a.starts_with("virtio:d00000002") || a.starts_with("virtio:d00000008") => 3,
        a if a.starts_with("pci:") && a.contains("bc01") => 2,
        a if a.starts_with("pci:") || a.starts_with("virtio:") => 1,
        _ => 0,
    };
    let mut all: Vec<_> = aliases.into_iter().collect();
    all.sort_by_key(urgency);
    all
}

/// `node-init devices`: loads modules for all devices, says so, and goes on for those that come.
pub fn serve() -> ExitCode {
    kmsg::init();
    match load_for_ever() {
        Ok(never) => match never {},
        Err(e) => report(&e),
    }
}

fn load_for_ever() -> Result<Infallible, sys::Error> {
    let mut devices = Devices::open()?;
    FIRST.iter().for_each(|name| devices.load(name));
    devices.load_all_pending()?;
    ALWAYS.iter().for_each(|name| devices.load(name));
    tracing::info!(ms = sys::boottime::now_ms(), "Modules are loaded for all devices");
    loop {
        devices.wait_for(Duration::from_secs(3600), || None::<()>)?;
    }
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
    fn drivers_of_disks_come_first() {
        let aliases =
            ["acpi:PNP0C0C:", "pci:v1bc02sc00i00", "pci:v2bc01sc06i01", "virtio:d00000001v1", "virtio:d00000002v1"];
        let order = by_urgency(aliases.iter().map(|a| (*a).to_owned()).collect());
        assert_eq!(
            order,
            ["acpi:PNP0C0C:", "pci:v1bc02sc00i00", "virtio:d00000001v1", "pci:v2bc01sc06i01", "virtio:d00000002v1"]
        );
    }
}
