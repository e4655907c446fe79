//! Modules for devices: those that are there, and those that come.
//!
//! In the initrd PID 1 does this itself while it waits for the root. On the root a child of PID 1 does it
//! (`node-init devices`), beside the rest of the boot, and so PID 1 never holds the module index in memory.

use crate::fail::chain;
use crate::kmsg;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use sys::modules::{Index, Loader, Params, device_aliases};
use sys::uevent::{Event, Received, Socket};

/// Modules that no device and no kernel call asks for by itself: what opens their device file would find none.
const ALWAYS: &[&str] = &["loop", "tun", "vhost_net", "vhost_vsock", "button", "evdev", "qemu_fw_cfg"];

/// Loads modules as the kernel finds devices.
pub struct Devices {
    socket: Socket,
    loader: Loader,
}

impl Devices {
    /// Listens first, then loads for all devices that are there: nothing falls between.
    pub fn open() -> Result<Self, sys::Error> {
        let socket = Socket::open()?;
        let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let loader = Loader::new(Index::of_running_kernel()?, Params::parse(&cmdline));
        let mut devices = Self { socket, loader };
        devices.load_all(&device_aliases(Path::new("/sys")));
        Ok(devices)
    }

    /// Loads a module that is needed by name.
    pub fn require(&mut self, name: &str) -> Result<(), sys::Error> {
        self.loader.load(name).map(drop)
    }

    /// Asks `find` after every change among devices, until it has found something or the time is over.
    pub fn wait_for<T>(
        &mut self,
        limit: Duration,
        mut find: impl FnMut() -> Option<T>,
    ) -> Result<Option<T>, sys::Error> {
        let until = Instant::now() + limit;
        loop {
            self.handle_events()?;
            if let Some(found) = find() {
                return Ok(Some(found));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !sys::poll::readable(std::os::fd::AsFd::as_fd(&self.socket), Some(left))? {
                return Ok(None);
            }
        }
    }

    fn handle_events(&mut self) -> Result<(), sys::Error> {
        loop {
            match self.socket.recv()? {
                Received::Event(event) => self.handle(&event),
                Received::Lost => self.load_all(&device_aliases(Path::new("/sys"))),
                Received::Nothing => return Ok(()),
            }
        }
    }

    fn handle(&mut self, event: &Event) {
        if let ("add", Some(alias)) = (event.action.as_str(), event.var("MODALIAS")) {
            self.load(alias);
        }
    }

    fn load_all(&mut self, aliases: &BTreeSet<String>) {
        aliases.iter().for_each(|a| self.load(a));
    }

    /// A device without its driver is a fact for the log; the boot decides by what it finds.
    fn load(&mut self, name: &str) {
        if let Err(e) = self.loader.load(name) {
            tracing::warn!(alias = name, error = %chain(&e), "Module not loaded");
        }
    }
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
