//! Records of the last boots, on STATE: how each ended, and its last words.
//!
//! One folder for each boot, by number. PID 1 writes, at the begin of a boot also into the folder of the one before;
//! `noded` reads, and notes what the store has.
//!
//! ```text
//! 00000012/about            which boot it is
//!          head, tail.N     its log (see `ring`)
//!          hung             PID 1 turned no more, while it does not
//!          end              how it ended; none: not in order
//!          panic            the kernel's last words, put there by the next boot
//!          told             the store has it
//! ```

pub mod ring;

use crate::files;
use model::boot::{self, BootEnd, BootReport};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// So many boots are kept.
pub const KEPT: usize = 16;

/// Which boot it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The kernel's boot id, or a word that no other boot has.
    pub boot: String,
    /// Root hash of what runs, in hexadecimal; empty: not known.
    #[serde(default)]
    pub root: String,
    /// Version of the image; empty: not known.
    #[serde(default)]
    pub version: String,
    /// When the kernel started, Unix milliseconds; 0: not known.
    #[serde(default)]
    pub began_ms: u64,
}

/// How a boot ended that ended in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How.
    pub how: How,
    /// On whose word.
    pub why: String,
    /// When, milliseconds after the kernel's start.
    pub at_ms: u64,
}

/// Kinds of ends that PID 1 knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    /// A reboot.
    Reboot,
    /// Off.
    PowerOff,
    /// It could not go on.
    GaveUp,
}

/// PID 1 turned no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hung {
    /// Since when, milliseconds after the kernel's start.
    pub since_ms: u64,
}

/// The kernel's last words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Panic {
    /// Records of pstore that it was read from: a power cut before they are erased must not make it two panics.
    pub records: Vec<String>,
    /// Its reason, on one line.
    pub reason: String,
    /// All of it.
    pub text: String,
}

/// All records.
#[derive(Clone, Debug)]
pub struct Boots(PathBuf);

/// The record of one boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number: one more than that of the boot before.
    pub number: u64,
    /// Which boot it is.
    pub about: About,
    dir: PathBuf,
}

impl Boots {
    /// Those in this folder.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// All of them, oldest first. A folder that says nothing of itself is none.
    pub fn all(&self) -> Vec<Entry> {
        let numbered = self.numbers().into_iter().map(|number| (number, self.folder(number)));
        numbered.filter_map(|(number, dir)| Some(Entry { number, about: json(&dir.join("about"))?, dir })).collect()
    }

    /// Begins a record. The oldest ones go.
    pub fn begin(&self, about: About) -> io::Result<Entry> {
        let numbers = self.numbers();
        let surplus = (numbers.len() + 1).saturating_sub(KEPT);
        for number in numbers.iter().take(surplus) {
            fs::remove_dir_all(self.folder(*number))?;
        }
        let number = numbers.last().map_or(1, |last| last + 1);
        let dir = self.folder(number);
        files::make_dir(&dir, 0o700)?;
        let entry = Entry { number, about, dir };
        entry.put("about", &entry.about)?;
        fs::File::open(&self.0)?.sync_all()?;
        Ok(entry)
    }

    fn folder(&self, number: u64) -> PathBuf {
        self.0.join(format!("{number:08}"))
    }

    fn numbers(&self) -> Vec<u64> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut numbers: Vec<u64> = entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    }
}

impl Entry {
    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The clock was set: it began at another time than was believed.
    pub fn began(&mut self, began_ms: u64) -> io::Result<()> {
        self.about.began_ms = began_ms;
        self.put("about", &self.about)
    }

    /// Notes how it ends.
    pub fn note_end(&self, end: &End) -> io::Result<()> {
        self.put("end", end)
    }

    /// Notes that PID 1 turns no more; none: it does again.
    pub fn note_hung(&self, hung: Option<Hung>) -> io::Result<()> {
        match hung {
            Some(hung) => self.put("hung", &hung),
            None => fs::remove_file(self.dir.join("hung")),
        }
    }

    /// Keeps its panic.
    pub fn note_panic(&self, panic: &Panic) -> io::Result<()> {
        self.put("panic", panic)
    }

    /// Its panic.
    pub fn panic(&self) -> Option<Panic> {
        json(&self.dir.join("panic"))
    }

    /// Whether it ended in order.
    pub fn ended_in_order(&self) -> bool {
        self.dir.join("end").exists()
    }

    /// The store has it.
    pub fn note_told(&self) -> io::Result<()> {
        files::replace(&self.dir.join("told"), b"", 0o600)
    }

    /// Whether the store has it.
    pub fn is_told(&self) -> bool {
        self.dir.join("told").exists()
    }

    /// How it ended, of a boot that is over.
    pub fn end(&self) -> BootEnd {
        let hung: Option<Hung> = json(&self.dir.join("hung"));
        match (self.panic(), json::<End>(&self.dir.join("end")), hung) {
            (Some(panic), ..) => BootEnd::Panic(panic.reason),
            (_, Some(End { how, why, .. }), _) => match how {
                How::Reboot => BootEnd::Reboot(why),
                How::PowerOff => BootEnd::PowerOff(why),
                How::GaveUp => BootEnd::GaveUp(why),
            },
            (.., Some(Hung { since_ms })) => BootEnd::Hang(format!("PID 1 turned no more after {} s", since_ms / 1000)),
            _ => BootEnd::Cut,
        }
    }

    /// What the store is told: of the boot that runs, or of one that is over.
    pub fn report(&self, runs: bool) -> BootReport {
        let log = ring::read(&self.dir);
        let panic = self.panic().unwrap_or_default().text;
        let end = if runs { BootEnd::Running } else { self.end() };
        let excerpt = |max| ring::excerpt(&log, max);
        let words = match end {
            BootEnd::Running => String::new(),
            _ if end.is_crash() => excerpt(boot::LOG_MAX),
            _ => excerpt(boot::CALM_LOG_MAX),
        };
        let last = json::<End>(&self.dir.join("end")).map(|end| end.at_ms / 1000);
        BootReport {
            boot: self.about.boot.clone(),
            version: self.about.version.clone(),
            began_ms: self.about.began_ms,
            lasted_s: last.or_else(|| seconds(&panic)).or_else(|| seconds(&log)).unwrap_or(0),
            end,
            panic: boot::tail(&panic, boot::PANIC_MAX).to_owned(),
            log: words,
        }
    }

    /// The last line of its log.
    pub fn last_line(&self) -> Option<String> {
        ring::read(&self.dir).lines().last().map(str::to_owned)
    }

    fn put(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        files::replace(&self.dir.join(name), &serde_json::to_vec(value).map_err(io::Error::other)?, 0o600)
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The time of the last line that has one: `   12.345 ...` in our logs, `<6>[   12.345678] ...` in the kernel's.
pub fn seconds(log: &str) -> Option<u64> {
    log.lines().rev().find_map(|line| {
        let line = line.split_once("[").filter(|(level, _)| level.starts_with('<')).map_or(line, |(_, rest)| rest);
        line.trim_start().split_once('.')?.0.parse().ok()
    })
}

#[cfg(test)]
mod tests;
