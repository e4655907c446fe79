//! Names of boot entries on the ESP, as systemd-boot reads and renames them.
//!
//! ```text
//! node_1.4.efi         good: no counter, the boot loader never renames it
//! node_1.5+3-0.efi     three tries left, none made; before each try the boot loader counts: +2-1, +1-2, +0-3
//! node_1.5+0-3.efi     failed: sorted behind all others
//! ```

use std::cmp::Ordering;
use std::fmt;

use super::version;

/// Folder of the entries on the ESP.
pub const FOLDER: &str = "EFI/Linux";
/// Tries of a version that was never blessed.
pub const TRIAL_TRIES: u32 = 3;
/// Tries of a version that was blessed and has another good one to fall back on. More than a new one's: power
/// cuts count as well. It is by this total that the two are told apart, since the boot loader keeps it.
pub const ARMED_TRIES: u32 = 5;

/// systemd-boot takes larger numbers for a part of the name.
const TRIES_MAX: u32 = i32::MAX as u32;

/// A boot counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tries {
    /// Boots that it still has.
    pub left: u32,
    /// Boots that were begun.
    pub done: u32,
}

/// What a name says about its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// Blessed, and not counted: the version that others fall back on.
    Good,
    /// Blessed, and counted all the same, so that a later breakage ends on the other slot.
    Armed(Tries),
    /// New: to be blessed.
    Trial(Tries),
    /// No tries left; so many were made.
    Failed {
        /// Boots that were begun.
        done: u32,
    },
}

/// Name of a boot entry. [`fmt::Display`] writes the file's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EntryName {
    name: String,
    version: String,
    tries: Option<Tries>,
}

impl EntryName {
    /// A name without a counter; `None` when the two would be read as something else.
    #[must_use]
    pub fn new(name: &str, version: &str) -> Option<Self> {
        let usable = |text: &str, marks: &[u8]| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || marks.contains(&byte))
        };
        // A '+' begins the counter, the last '_' the version.
        let fits = usable(name, b"._-") && usable(version, b".~^-") && name.len() + version.len() <= 200;
        fits.then(|| Self { name: name.to_owned(), version: version.to_owned(), tries: None })
    }

    /// Reads a file's name; `None` when it is none of ours.
    #[must_use]
    pub fn parse(file: &str) -> Option<Self> {
        let stem = file.strip_suffix(".efi")?;
        let (stem, tries) = match stem.rsplit_once('+') {
            Some((stem, counter)) => (stem, Some(Tries::parse(counter)?)),
            None => (stem, None),
        };
        let (name, version) = stem.rsplit_once('_')?;
        Some(Self { tries, ..Self::new(name, version)? })
    }

    /// The same version under another mark.
    #[must_use]
    pub fn marked(&self, mark: Mark) -> Self {
        let tries = match mark {
            Mark::Good => None,
            Mark::Armed(tries) | Mark::Trial(tries) => Some(tries),
            Mark::Failed { done } => Some(Tries { left: 0, done }),
        };
        Self { tries, ..self.clone() }
    }

    /// What the counter says.
    #[must_use]
    pub fn mark(&self) -> Mark {
        match self.tries {
            None => Mark::Good,
            Some(Tries { left: 0, done }) => Mark::Failed { done },
            Some(tries) if tries.total() == ARMED_TRIES => Mark::Armed(tries),
            Some(tries) => Mark::Trial(tries),
        }
    }

    /// The image's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The counter, if there is one.
    #[must_use]
    pub fn tries(&self) -> Option<Tries> {
        self.tries
    }

    /// Path on the ESP.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{FOLDER}/{self}")
    }

    /// The name under which systemd-boot lets it run: one try less.
    #[must_use]
    pub fn counted(&self) -> Self {
        Self { tries: self.tries.map(Tries::counted), ..self.clone() }
    }

    /// systemd-boot's order: [`Ordering::Less`] boots first. Sort keys are taken to be equal, and the version
    /// inside the UKI to be the one of its name.
    #[must_use]
    pub fn boots_before(&self, other: &Self) -> Ordering {
        let exhausted = |entry: &Self| entry.tries.is_some_and(|tries| tries.left == 0);
        let plain = |entry: &Self| entry.marked(Mark::Good).to_string();
        exhausted(self)
            .cmp(&exhausted(other))
            .then_with(|| version::compare(&other.version, &self.version))
            .then_with(|| version::compare(&plain(other), &plain(self)))
            .then_with(|| match (self.tries, other.tries) {
                (Some(a), Some(b)) => b.left.cmp(&a.left).then(a.done.cmp(&b.done)),
                _ => Ordering::Equal,
            })
    }
}

impl Tries {
    /// A counter nobody has used yet.
    #[must_use]
    pub fn fresh(left: u32) -> Self {
        Self { left, done: 0 }
    }

    fn total(self) -> u32 {
        self.left.saturating_add(self.done)
    }

    fn counted(self) -> Self {
        Self { left: self.left.saturating_sub(1), done: (self.done + 1).min(TRIES_MAX) }
    }

    /// `LEFT` or `LEFT-DONE`.
    fn parse(text: &str) -> Option<Self> {
        let number = |digits: &str| -> Option<u32> {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|number| plain && *number <= TRIES_MAX)
        };
        let (left, done) = text.split_once('-').unwrap_or((text, "0"));
        Some(Self { left: number(left)?, done: number(done)? })
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.name, self.version)?;
        if let Some(tries) = self.tries {
            write!(f, "+{}-{}", tries.left, tries.done)?;
        }
        f.write_str(".efi")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(file: &str, expect: Option<(&str, &str, Mark)>) {
        let parsed = EntryName::parse(file);
        assert_eq!(parsed.as_ref().map(|entry| (entry.name(), entry.version(), entry.mark())), expect, "{file}");
    }

    #[test]
    fn names_say_which_version_they_are_and_how_it_fares() {
        let trial = |left, done| Mark::Trial(Tries { left, done });
        check("node_1.4.efi", Some(("node", "1.4", Mark::Good)));
        check("node_1.5+3-0.efi", Some(("node", "1.5", trial(3, 0))));
        check("node_1.5+3.efi", Some(("node", "1.5", trial(3, 0))));
        check("node_1.5+1-2.efi", Some(("node", "1.5", trial(1, 2))));
        check("node_1.5+0-3.efi", Some(("node", "1.5", Mark::Failed { done: 3 })));
        check("node_1.5+5-0.efi", Some(("node", "1.5", Mark::Armed(Tries { left: 5, done: 0 }))));
        check("node_1.5+1-4.efi", Some(("node", "1.5", Mark::Armed(Tries { left: 1, done: 4 }))));
        check("my_node-x_2026.11.21~rc1.efi", Some(("my_node-x", "2026.11.21~rc1", Mark::Good)));
        for none in [
            "",
            ".efi",
            "node.efi",
            "node_.efi",
            "_1.efi",
            "node_1.EFI",
            "node_1.efi.new",
            "node_1+.efi",
            "node_1+a.efi",
            "node_1+3-.efi",
            "node_1+-3.efi",
            "node_1+3-0-1.efi",
            "node_1+3+2.efi",
            "node_1+ 3.efi",
            "node_1++3.efi",
            "node_1+4294967296.efi",
            "node_1+2147483648.efi",
            "nöde_1.efi",
            "node_1 .efi",
            "a/node_1.efi",
        ] {
            check(none, None);
        }
    }

    #[test]
    fn the_boot_loader_s_count_keeps_the_total() {
        let mut entry = EntryName::new("node", "1").unwrap().marked(Mark::Trial(Tries::fresh(TRIAL_TRIES)));
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.push(entry.to_string());
            entry = entry.counted();
        }
        assert_eq!(seen, ["node_1+3-0.efi", "node_1+2-1.efi", "node_1+1-2.efi", "node_1+0-3.efi", "node_1+0-4.efi"]);
        assert_eq!(EntryName::new("node", "1").unwrap().counted().to_string(), "node_1.efi");
    }

    #[test]
    fn the_newest_that_has_not_failed_boots_first() {
        let expect = [
            "node_2.0+3-0.efi",
            "node_2.0+1-2.efi",
            "node_1.10.efi",
            "node_1.9+5-0.efi",
            "node_1.9~rc1.efi",
            "node_3.0+0-3.efi",
            "node_0.9+0-5.efi",
        ];
        let mut entries: Vec<_> = expect.iter().rev().map(|file| EntryName::parse(file).unwrap()).collect();
        entries.sort_by(EntryName::boots_before);
        assert_eq!(entries.iter().map(ToString::to_string).collect::<Vec<_>>(), expect);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(name in "[a-zA-Z0-9._-]{1,12}", version in "[a-zA-Z0-9.~^-]{1,12}", tries in prop::option::of((0..=TRIES_MAX, 0..=TRIES_MAX))) {
            let tries = tries.map(|(left, done)| Tries { left, done });
            let entry = EntryName { tries, ..EntryName::new(&name, &version).unwrap() };
            prop_assert_eq!(EntryName::parse(&entry.to_string()), Some(entry.clone()));
            prop_assert_eq!(entry.marked(entry.mark()), entry);
        }

        #[test]
        fn any_text_is_an_entry_or_none(text in "[ -~]{0,20}(\\+[0-9]{0,11}(-[0-9]{0,11})?)?(\\.efi)?") {
            if let Some(entry) = EntryName::parse(&text) {
                prop_assert_eq!(EntryName::parse(&entry.to_string()), Some(entry));
            }
        }
    }
}
