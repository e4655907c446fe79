//! What a kernel that panicked put into the firmware's variables, read from the file system `pstore`.
//!
//! A panic is some dumps of the end of the log (one for the oops, one for the panic), and each dump is some records,
//! the newest lines in part 1:
//!
//! ```text
//! dmesg-efi_pstore-179000000001001   "Oops#1 Part1\n<1>[   12.3] ..."
//! dmesg-efi_pstore-179000000002002   "Panic#2 Part2\n..."      time, part (two digits), count (three digits)
//! dmesg-efi_pstore-179000000001002   "Panic#2 Part1\n..."
//! ```
//!
//! The kernel has decompressed them; one that it could not has a name that ends in `.enc.z`.

use model::boot::{PANIC_MAX, WORD_MAX, head, tail};
use node_init::boots::Panic;
use node_init::redact;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Where the kernel shows them.
pub const FOLDER: &str = "/sys/fs/pstore";
/// Records that are looked at. The firmware's variables are few kilobytes.
const RECORDS: usize = 256;
/// Bytes of one.
const RECORD: u64 = 64 << 10;
/// Panics that are kept of one look; the newest ones.
const PANICS: usize = 8;
/// Dumps of one panic follow each other within so many seconds.
const TOGETHER_S: u64 = 20;
/// How PID 1 names the boot in the kernel's log (see `crate::words::introduce`).
pub const BOOT: &str = "boot=";
/// The same for the root.
pub const ROOT: &str = "root=";

/// A record as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Name of its file.
    pub name: String,
    /// What it holds.
    pub text: String,
}

/// A panic, and what it says of the boot that ended by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crash {
    /// Its words.
    pub panic: Panic,
    /// Boot id, if the words name it.
    pub boot: Option<String>,
    /// Root hash, if the words name it.
    pub root: Option<String>,
    /// When, seconds since 1970 by that boot's clock.
    pub at_s: u64,
}

/// All records of the kernel's log.
pub fn look(folder: &Path) -> Vec<Found> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|e| e.file_name().into_string().ok()).filter(|name| name.starts_with("dmesg-"));
    let read = |name: &String| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(folder.join(name))?.take(RECORD).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // One that the firmware does not give back is known by its name.
    let found =
        |name: String| Found { text: String::from_utf8_lossy(&read(&name).unwrap_or_default()).into_owned(), name };
    names.take(RECORDS).map(found).collect()
}

/// Erases them; the firmware has little room.
pub fn erase(folder: &Path, names: &[String]) {
    for name in names {
        if let Err(error) = fs::remove_file(folder.join(name)) {
            tracing::warn!(name, %error, "Record of a panic not erased");
        }
    }
}

/// Puts records together, oldest panic first.
pub fn crashes(found: Vec<Found>) -> Vec<Crash> {
    let mut parts: Vec<Part> = found.into_iter().map(Part::of).collect();
    // As they were written.
    parts.sort_by_key(|p| (p.at_s, p.count, p.part));
    let mut crashes: Vec<Vec<Part>> = Vec::new();
    for part in parts {
        match crashes.last_mut().filter(|crash| part.goes_on_from(crash)) {
            Some(crash) => crash.push(part),
            None => crashes.push(vec![part]),
        }
    }
    let surplus = crashes.len().saturating_sub(PANICS);
    crashes.drain(..surplus);
    crashes.into_iter().map(crash).collect()
}

/// One record.
#[derive(Debug)]
struct Part {
    name: String,
    at_s: u64,
    part: u64,
    count: u64,
    is_panic: bool,
    text: String,
}

impl Part {
    fn of(found: Found) -> Self {
        let Found { name, text } = found;
        let readable = !name.ends_with(".enc.z");
        let plain = name.trim_end_matches(".enc.z");
        let id: u64 = plain.rsplit('-').next().and_then(|id| id.parse().ok()).unwrap_or(0);
        let (at_s, part, count) = (id / 100_000, id / 1000 % 100, id % 1000);
        let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
        let header = first.split_once('#').filter(|(_, rest)| rest.contains(" Part"));
        let text = match header {
            _ if !readable => "(a part that the kernel could not decompress)\n".to_owned(),
            Some(_) => rest.to_owned(),
            None => text.clone(),
        };
        let is_panic = header.is_some_and(|(why, _)| why == "Panic");
        Self { name, at_s, part, count, is_panic, text }
    }

    /// Dumps are counted within a boot, and parts within a dump.
    fn goes_on_from(&self, crash: &[Self]) -> bool {
        crash.last().is_some_and(|last| {
            let later = (self.count, self.part) > (last.count, last.part);
            later && self.at_s.saturating_sub(last.at_s) <= TOGETHER_S
        })
    }
}

fn crash(parts: Vec<Part>) -> Crash {
    // The panic's dump has the oops that led to it once more.
    let chosen = parts.iter().rev().find(|p| p.is_panic).or(parts.last()).map_or(0, |p| p.count);
    // The newest lines were written first.
    let text: String = parts.iter().rev().filter(|p| p.count == chosen).map(|p| p.text.as_str()).collect();
    let word = |name: &str| {
        let introduced = text.lines().rev().find(|line| line.contains("node-init: Boot "))?;
        introduced.split_whitespace().find_map(|word| word.strip_prefix(name)).map(str::to_owned)
    };
    let clean: String = text.lines().map(|line| format!("{}\n", redact::line(line))).collect();
    Crash {
        boot: word(BOOT),
        root: word(ROOT),
        at_s: parts.first().map_or(0, |p| p.at_s),
        panic: Panic {
            reason: reason(&clean),
            text: tail(&clean, PANIC_MAX).to_owned(),
            records: parts.into_iter().map(|p| p.name).collect(),
        },
    }
}

/// Why the kernel panicked, by its own words, and what went before.
fn reason(text: &str) -> String {
    const PANIC: &str = "Kernel panic - not syncing: ";
    const CAUSES: [&str; 4] = ["BUG: ", "Oops: ", "general protection fault", " is corrupted"];
    let message = |line: &str| line.split_once("] ").map_or(line, |(_, message)| message).trim().to_owned();
    let panic = text.lines().rev().find_map(|line| line.split_once(PANIC).map(|(_, why)| why.trim().to_owned()));
    let cause = text.lines().map(message).find(|line| CAUSES.iter().any(|cause| line.contains(cause)));
    let reason = match (panic, cause) {
        (Some(panic), Some(cause)) if !cause.contains(&panic) => format!("kernel panic: {panic} ({cause})"),
        (Some(panic), _) => format!("kernel panic: {panic}"),
        (None, Some(cause)) => cause,
        (None, None) => "kernel panic, without a reason that could be read".to_owned(),
    };
    head(&reason, WORD_MAX).trim_end().to_owned()
}

#[cfg(test)]
mod tests;
