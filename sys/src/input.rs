//! The power button, as an input device.

use crate::{Error, Result, ioctl};
use nix::errno::Errno;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

// linux/input-event-codes.h
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
/// Bytes of a bitmap with room for every key.
const KEY_BYTES: usize = 96;
/// `EVIOCGBIT(EV_KEY, KEY_BYTES)`.
const EVIOCGBIT_KEY: u32 = 0x8000_4521 | ((KEY_BYTES as u32) << 16);
/// `struct input_event` on 64-bit machines: two longs, type, code, value.
const EVENT_BYTES: usize = 24;

/// A device that has a power key.
#[derive(Debug)]
pub struct PowerButton(File);

impl PowerButton {
    /// Opens `/dev/input/eventN` if it has a power key.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
        let file = file.map_err(Error::of("open", path.display()))?;
        let mut keys = [0u8; KEY_BYTES];
        // SAFETY: the request writes at most the KEY_BYTES that its number tells.
        unsafe { ioctl::with(&file, EVIOCGBIT_KEY, &mut keys, ("ask the keys of", &path.to_string_lossy()))? };
        let has = keys[usize::from(KEY_POWER / 8)] & (1 << (KEY_POWER % 8)) != 0;
        Ok(has.then_some(Self(file)))
    }

    /// Whether it was pressed since the last call. `ENODEV` when the device is gone.
    pub fn pressed(&mut self) -> Result<bool> {
        let mut buffer = [0; EVENT_BYTES * 16];
        let mut pressed = false;
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => return Ok(pressed),
                Ok(n) => pressed |= buffer[..n].chunks_exact(EVENT_BYTES).any(is_press),
                Err(e) if e.raw_os_error() == Some(Errno::EAGAIN as i32) => return Ok(pressed),
                Err(e) => return Err(Error::of("read", "the power button")(e)),
            }
        }
    }
}

impl AsFd for PowerButton {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn is_press(event: &[u8]) -> bool {
    let word = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    word(16) == EV_KEY && word(18) == KEY_POWER && event[20..24] == 1i32.to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_power_key_going_down_counts() {
        let event = |kind: u16, code: u16, value: i32| {
            let mut e = vec![0; 16];
            e.extend(kind.to_ne_bytes());
            e.extend(code.to_ne_bytes());
            e.extend(value.to_ne_bytes());
            e
        };
        assert!(is_press(&event(1, 116, 1)));
        assert!(!is_press(&event(1, 116, 0)) && !is_press(&event(1, 30, 1)) && !is_press(&event(0, 116, 1)));
        assert_eq!(event(0, 0, 0).len(), EVENT_BYTES);
    }
}
