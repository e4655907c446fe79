//! What a person in front of the machine sees: few lines, each worth reading.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

const PATH: &str = "/dev/console";

/// The system console. Where there is none, writing is silent.
#[derive(Debug)]
pub struct Console(Option<File>);

impl Console {
    /// Opens it, without making it anybody's controlling terminal and without ever waiting for it: a serial line whose
    /// other end has stopped reading must not stop PID 1.
    pub fn open() -> Self {
        let flags = nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK;
        Self(File::options().write(true).custom_flags(flags).open(PATH).ok())
    }

    /// Shows a line; control characters, which could come from the network, are replaced.
    pub fn line(&self, text: &str) {
        let Some(mut file) = self.0.as_ref() else { return };
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        // A console that has gone away is no reason to stop.
        let _ = file.write_all(format!("{line}\r\n").as_bytes());
    }

    /// A phase that ended well.
    pub fn phase(&self, name: &str, took_ms: u64) {
        self.line(&format!("  {name:<16} {took_ms:>6} ms"));
    }
}
