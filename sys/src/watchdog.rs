//! The hardware watchdog: it reboots the machine unless it is fed.

use crate::{Error, Result, ioctl};
use std::fs::File;
use std::io::Write;
use std::path::Path;

// linux/watchdog.h
const WDIOC_SETTIMEOUT: u32 = 0xc004_5706;
const WDIOC_GETTIMEOUT: u32 = 0x8004_5707;

/// An armed watchdog. Dropping it does **not** disarm it: whoever dies holding it gets the reboot.
#[derive(Debug)]
pub struct Watchdog {
    device: File,
    timeout_s: u32,
}

impl Watchdog {
    /// Arms it, with a time limit near the wanted one (hardware rounds). None when the machine has no watchdog.
    pub fn arm(path: impl AsRef<Path>, timeout_s: u32) -> Result<Option<Self>> {
        let path = path.as_ref();
        let device = match File::options().write(true).open(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            device => device.map_err(Error::of("open", path.display()))?,
        };
        let mut seconds = i32::try_from(timeout_s).unwrap_or(i32::MAX);
        // SAFETY: both requests take a pointer to one int.
        unsafe {
            // A fixed timer refuses; what counts is what it has.
            let _ = ioctl::with(&device, WDIOC_SETTIMEOUT, &mut seconds, ("set", "the watchdog's time limit"));
            ioctl::with(&device, WDIOC_GETTIMEOUT, &mut seconds, ("read", "the watchdog's time limit"))?;
        }
        Ok(Some(Self { device, timeout_s: u32::try_from(seconds).unwrap_or(timeout_s) }))
    }

    /// Seconds after the last feeding until the machine reboots.
    pub fn timeout_s(&self) -> u32 {
        self.timeout_s
    }

    /// Starts the time limit again.
    pub fn feed(&mut self) -> Result<()> {
        self.device.write_all(b"\0").map_err(Error::of("feed", "the watchdog"))
    }

    /// Disarms it, where the hardware lets one.
    pub fn disarm(mut self) -> Result<()> {
        self.device.write_all(b"V").map_err(Error::of("disarm", "the watchdog"))
    }
}
