//! What a service says: into the kernel's log, and into a bounded file that outlives the boot.
//!
//! The pipe lives as long as PID 1 and not as long as one run of the service: what the service started and left
//! behind (guests outlive `noded`) can go on writing to it.

use crate::kmsg;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::fs::File;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use sys::spawn::Stdio;

/// Longest line; more of it becomes lines of its own.
const MAX_LINE: usize = 2000;
/// Size at which the file is put aside; there is one older one, so that a service has twice this at most.
const MAX_FILE: u64 = 1024 * 1024;
/// Lines a second that go to the kernel's log: a service must not drive the kernel's own words out of it.
const KMSG_RATE: u32 = 100;

/// The output of one service.
#[derive(Debug)]
pub struct Output {
    name: &'static str,
    reader: PipeReader,
    writer: PipeWriter,
    lines: Lines,
    path: PathBuf,
    file: Option<File>,
    rate: Rate,
}

impl Output {
    /// Makes the pipe; the file is opened with the first line after its folder is there.
    pub fn new(name: &'static str, folder: &Path) -> Result<Self, sys::Error> {
        let (reader, writer) = std::io::pipe().map_err(sys::Error::of("create", "a pipe"))?;
        let nonblocking = fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        nonblocking.map_err(sys::Error::of("set flags of", "a pipe"))?;
        let path = folder.join(format!("{name}.log"));
        Ok(Self { name, reader, writer, lines: Lines::default(), path, file: None, rate: Rate::default() })
    }

    /// The end that the service gets.
    pub fn stream(&self) -> Result<Stdio, sys::Error> {
        let writer = self.writer.try_clone().map_err(sys::Error::of("duplicate", "a pipe"))?;
        Ok(Stdio::Fd(OwnedFd::from(writer)))
    }

    /// Passes on what has been said, at most a pipe's worth: a service that talks without pause must not keep PID 1.
    pub fn pass_on(&mut self, now: Duration, log: Option<&File>) {
        let mut buffer = [0; 8192];
        for _ in 0..8 {
            let n = match self.reader.read(&mut buffer) {
                Ok(n) if n > 0 => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                _ => return,
            };
            for line in self.lines.push(&buffer[..n]) {
                if self.rate.allows(now) {
                    kmsg::write(log, 6, self.name, &line);
                }
                self.store(now, &line);
            }
        }
    }

    fn store(&mut self, now: Duration, line: &str) {
        if self.file.as_ref().and_then(|f| f.metadata().ok()).is_some_and(|m| m.len() >= MAX_FILE) {
            self.file = None;
            // If it fails the file is cut below, and stays bounded all the same.
            let _ = std::fs::rename(&self.path, self.path.with_extension("log.1"));
        }
        if self.file.is_none() {
            self.file = open_bounded(&self.path);
        }
        if let Some(file) = &mut self.file {
            // A full disk loses lines of a log, and nothing more.
            let _ = file.write_all(format!("{:>10.3} {line}\n", now.as_secs_f64()).as_bytes());
        }
    }

    /// Lets go of the file, so that its file system can be unmounted.
    pub fn close(&mut self) {
        self.file = None;
        self.path = PathBuf::new();
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

fn open_bounded(path: &Path) -> Option<File> {
    let file = File::options().append(true).create(true).open(path).ok()?;
    if file.metadata().ok()?.len() >= MAX_FILE {
        file.set_len(0).ok()?;
    }
    Some(file)
}

/// Bytes become lines.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut whole = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.0.push(byte);
            }
            if byte == b'\n' || self.0.len() >= MAX_LINE {
                whole.push(clean(&self.0));
                self.0.clear();
            }
        }
        whole.retain(|l| !l.is_empty());
        whole
    }
}

/// Without control characters: terminals read these logs.
fn clean(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.trim_end().chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// So many a second.
#[derive(Debug, Default)]
struct Rate {
    second: u64,
    used: u32,
}

impl Rate {
    fn allows(&mut self, now: Duration) -> bool {
        if now.as_secs() != self.second {
            *self = Self { second: now.as_secs(), used: 0 };
        }
        self.used = self.used.saturating_add(1);
        self.used <= KMSG_RATE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_bounded_and_clean() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"one\ntw"), ["one"]);
        assert_eq!(lines.push(b"o\x1b[2J\r\n\n\xff\n"), ["two\u{fffd}[2J", "\u{fffd}"]);
        let long = lines.push(&[b'x'; MAX_LINE * 2 + 1]);
        assert_eq!(long.iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE, MAX_LINE]);
    }

    #[test]
    fn the_files_stay_bounded() {
        let dir = tempfile::tempdir().expect("dir");
        let mut output = Output::new("chatty", dir.path()).expect("made");
        let mut writer = output.writer.try_clone().expect("cloned");
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        for _ in 0..3000 {
            writer.write_all(&line).expect("room in the pipe");
            output.pass_on(Duration::from_secs(1), tempfile::tempfile().ok().as_ref());
        }
        let size = |name: &str| dir.path().join(name).metadata().expect("there").len();
        assert!(size("chatty.log") <= MAX_FILE + 2048 && size("chatty.log.1") <= MAX_FILE + 2048);
        assert!(size("chatty.log.1") > MAX_FILE / 2);
    }

    #[test]
    fn the_kernels_log_gets_so_many_lines_a_second() {
        let mut rate = Rate::default();
        let mut allowed = |s| (0..500).filter(|_| rate.allows(Duration::from_secs(s))).count();
        assert_eq!((allowed(1), allowed(1), allowed(2)), (100, 0, 100));
    }
}
