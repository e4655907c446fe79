//! What a machine prints on its serial console.

use super::{LabError, file, process::POLL};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A line that has not ended and does not grow for so long is a whole one: a prompt, or firmware that says no more.
const PROMPT: Duration = Duration::from_secs(1);

/// The serial console of a machine: a file that QEMU writes.
#[derive(Debug, Clone)]
pub struct Console {
    log: PathBuf,
    /// Bytes before this were seen by an earlier wait, or belong to an earlier boot.
    from: usize,
}

impl Console {
    /// The console that is logged to `log`.
    pub fn at(log: PathBuf) -> Self {
        Self { log, from: 0 }
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// All that was printed since the last [`Console::mark`], without control sequences.
    pub fn text(&self) -> Result<String, LabError> {
        let bytes = file("read", &self.log, |p| match std::fs::read(p) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other,
        })?;
        Ok(plain(bytes.get(self.from..).unwrap_or_default()))
    }

    /// Forgets what was printed so far: later waits only see what comes from now on.
    pub fn mark(&mut self) -> Result<(), LabError> {
        self.from = file("read", &self.log, |p| Ok(std::fs::metadata(p).map_or(0, |m| m.len() as usize)))?;
        Ok(())
    }

    /// Waits for a line that contains `pattern` and returns all of it.
    pub fn wait_for(&self, pattern: &str, limit: Duration) -> Result<String, LabError> {
        self.wait_for_any(&[pattern], limit)
    }

    /// Waits for a line that contains any of `patterns` and returns all of it.
    pub fn wait_for_any(&self, patterns: &[&str], limit: Duration) -> Result<String, LabError> {
        let end = Instant::now() + limit;
        // A serial line brings letter by letter, so the last line may be one's beginning.
        let (mut last, mut since) = (String::new(), Instant::now());
        loop {
            let text = self.text()?;
            let over = Instant::now() > end;
            if let Some(line) = text.split_inclusive('\n').find(|l| patterns.iter().any(|p| l.contains(p))) {
                if line != last {
                    (last, since) = (line.to_owned(), Instant::now());
                }
                if over || is_whole(line, since.elapsed()) {
                    return Ok(line.trim_end_matches('\n').to_owned());
                }
            }
            if over {
                let what = format!("'{}' on the console", patterns.join("' or '"));
                return Err(LabError::Timeout { what, limit, log: self.log.clone() });
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Whether nothing more of this line comes, which has been as it is for so long.
fn is_whole(line: &str, unchanged: Duration) -> bool {
    line.ends_with('\n') || unchanged >= PROMPT
}

/// Text without terminal control sequences and carriage returns: firmware and boot loader draw with them.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' if chars.peek() == Some(&'[') => {
                chars.next();
                while chars.next().is_some_and(|c| !('\x40'..='\x7e').contains(&c)) {}
            }
            '\x1b' => drop(chars.next()),
            '\r' => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_line_is_whole_when_it_has_ended_or_grows_no_more() {
        assert!(is_whole("phase 'state' failed.\n", Duration::ZERO));
        assert!(!is_whole("phase 'st", PROMPT / 2));
        assert!(is_whole("# ", PROMPT));
    }

    #[test]
    fn a_line_that_has_not_ended_is_waited_for() {
        let mut log = tempfile::NamedTempFile::new().expect("a file");
        log.write_all(b"up\n phase 'st").expect("written");
        let console = Console::at(log.path().to_owned());
        let said = std::thread::spawn(move || console.wait_for("phase", Duration::from_secs(20)));
        log.write_all(b"ate' failed.\nlater").expect("written");
        assert_eq!(said.join().expect("no panic").expect("found"), " phase 'state' failed.");
        let prompt = Console::at(log.path().to_owned()).wait_for("later", Duration::ZERO);
        assert_eq!(prompt.expect("found"), "later");
    }

    #[test]
    fn control_sequences_and_returns_are_left_out() {
        assert_eq!(plain(b"\x1b[2J\x1b[01;01HBoot\r\nin \x1b[1m3\x1b[0m s\x1bc!"), "Boot\nin 3 s!");
        assert_eq!(plain(b"cut \x1b["), "cut ");
    }
}
