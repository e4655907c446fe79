//! The hardware watchdog: it reboots the machine unless it is fed.

use crate::{Error, Result, ioctl};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

// linux/watchdog.h
const WDIOC_GETSUPPORT: u32 = 0x8028_5700;
const WDIOC_SETTIMEOUT: u32 = 0xc004_5706;
const WDIOC_GETTIMEOUT: u32 = 0x8004_5707;

/// `struct watchdog_info`.
#[repr(C)]
#[derive(Default)]
struct Info {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

/// An armed watchdog. Dropping it does **not** disarm it: whoever dies holding it gets the reboot.
#[derive(Debug)]
pub struct Watchdog {
    device: File,
    name: String,
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
        Self::limit(device, timeout_s).map(Some)
    }

    /// Takes over one that the program before this one armed and left open ([`Self::leave`]).
    pub fn inherited(number: RawFd, timeout_s: u32) -> Result<Self> {
        let device =
            crate::inherit::take(number).map_err(Error::of("take over", format_args!("descriptor {number}")))?;
        Self::limit(device.into(), timeout_s)
    }

    /// Leaves it open, and armed, to the program that this one is replaced by; under this number.
    pub fn leave(&self) -> Result<RawFd> {
        let open = FcntlArg::F_SETFD(FdFlag::empty());
        fcntl(&self.device, open).map_err(Error::of("leave open", "the watchdog"))?;
        Ok(self.device.as_raw_fd())
    }

    fn limit(device: File, timeout_s: u32) -> Result<Self> {
        let mut seconds = i32::try_from(timeout_s).unwrap_or(i32::MAX);
        let mut info = Info::default();
        // SAFETY: the request writes one watchdog_info.
        unsafe {
            // Who it is serves the log alone.
            let _ = ioctl::with(&device, WDIOC_GETSUPPORT, &mut info, ("read", "the watchdog's name"));
        }
        // SAFETY: both requests take a pointer to one int.
        unsafe {
            // A fixed timer refuses; what counts is what it has.
            let _ = ioctl::with(&device, WDIOC_SETTIMEOUT, &mut seconds, ("set", "the watchdog's time limit"));
            ioctl::with(&device, WDIOC_GETTIMEOUT, &mut seconds, ("read", "the watchdog's time limit"))?;
        }
        let timeout_s = u32::try_from(seconds).unwrap_or(timeout_s);
        Ok(Self { device, name: info.name(), timeout_s })
    }

    /// What its driver calls it, such as `iTCO_wdt`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Seconds after the last feeding until it bites, by its driver's word. See [`Self::bites_within_s`].
    pub fn timeout_s(&self) -> u32 {
        self.timeout_s
    }

    /// Seconds after the last feeding until the machine reboots, at the worst. A timer with two stages may run through
    /// its limit twice: the first end only asks the firmware, which need not listen, and no driver tells.
    pub fn bites_within_s(&self) -> u32 {
        self.timeout_s.saturating_mul(2)
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

impl Info {
    fn name(&self) -> String {
        let text = self.identity.split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_the_size_of_what_it_writes() {
        assert_eq!(size_of::<Info>(), (WDIOC_GETSUPPORT >> 16 & 0x3fff) as usize);
    }

    #[test]
    fn a_name_ends_at_its_zero_or_its_field() {
        let mut info = Info::default();
        assert_eq!(info.name(), "");
        info.identity[..8].copy_from_slice(b"iTCO_wdt");
        assert_eq!(info.name(), "iTCO_wdt");
        info.identity = [b'x'; 32];
        assert_eq!(info.name().len(), 32);
    }
}
