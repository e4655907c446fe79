//! A boot's log in bounded files: its first lines stay, of the rest the last ones.
//!
//! ```text
//! head   head   head   head     the beginning fills up
//!        tail.0 tail.0 tail.1   then parts follow one another, and of them the last two stay
//!               tail.1 tail.2
//! ```

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

const HEAD: &str = "head";
const TAIL: &str = "tail.";
/// Between lines that were next to each other no more.
const GAP: &str = "(...)\n";

/// How much is kept: of the beginning, and twice the part of the end.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Bytes of the beginning.
    pub head: u64,
    /// Bytes of a part of the end.
    pub part: u64,
}

/// What a node keeps of each boot: 192 KiB.
pub const SIZES: Sizes = Sizes { head: 64 << 10, part: 64 << 10 };

/// The log of a boot while it is written.
#[derive(Debug)]
pub struct Ring {
    dir: PathBuf,
    sizes: Sizes,
    file: File,
    len: u64,
    /// Number of the part that is written; none: the head.
    part: Option<u64>,
}

impl Ring {
    /// Begins the log in its folder, which holds none yet.
    pub fn begin(dir: &Path, sizes: Sizes) -> io::Result<Self> {
        let file = File::create(dir.join(HEAD))?;
        Ok(Self { dir: dir.to_owned(), sizes, file, len: 0, part: None })
    }

    /// Adds whole lines, and waits until they are on the disk. A line longer than a part is cut.
    pub fn write(&mut self, lines: &str) -> io::Result<()> {
        let mut run = String::new();
        for line in lines.split_inclusive('\n') {
            let line = model::boot::head(line, usize::try_from(self.sizes.part).unwrap_or(usize::MAX));
            if self.len + (run.len() + line.len()) as u64 > self.limit() {
                self.append(&std::mem::take(&mut run))?;
                self.next_part()?;
            }
            run.push_str(line);
        }
        self.append(&run)?;
        self.file.sync_data()
    }

    fn limit(&self) -> u64 {
        if self.part.is_none() { self.sizes.head } else { self.sizes.part }
    }

    fn append(&mut self, text: &str) -> io::Result<()> {
        self.file.write_all(text.as_bytes())?;
        self.len += text.len() as u64;
        Ok(())
    }

    fn next_part(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        let number = self.part.map_or(0, |part| part + 1);
        self.file = File::create(self.dir.join(format!("{TAIL}{number}")))?;
        (self.part, self.len) = (Some(number), 0);
        if let Some(old) = number.checked_sub(2) {
            fs::remove_file(self.dir.join(format!("{TAIL}{old}")))?;
        }
        Ok(())
    }
}

/// What a folder has of a log, in order.
pub fn read(dir: &Path) -> String {
    let mut parts: Vec<u64> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix(TAIL)?.parse().ok())
        .collect();
    parts.sort_unstable();
    // A part that a power cut left half written is shown as far as it came.
    let text = |name: String| String::from_utf8_lossy(&fs::read(dir.join(name)).unwrap_or_default()).into_owned();
    let mut log = text(HEAD.to_owned());
    if parts.first().is_some_and(|&first| first > 0) {
        log.push_str(GAP);
    }
    parts.iter().for_each(|part| log.push_str(&text(format!("{TAIL}{part}"))));
    log
}

/// At most `max` bytes of a log: an eighth of its beginning, the rest of its end.
pub fn excerpt(log: &str, max: usize) -> String {
    if log.len() <= max {
        return log.to_owned();
    }
    let head = model::boot::head(log, max / 8);
    let room = max.saturating_sub(head.len() + GAP.len());
    format!("{head}{GAP}{}", model::boot::tail(log, room))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(dir: &Path) -> u64 {
        fs::read_dir(dir).expect("lists").flatten().map(|e| e.metadata().expect("is there").len()).sum()
    }

    proptest! {
        // Each write waits for the disk.
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn the_beginning_and_the_end_stay_in_order_and_in_bounds(
            batches in prop::collection::vec(prop::collection::vec(0..60usize, 0..6), 0..20),
        ) {
            let dir = tempfile::tempdir().expect("dir");
            let sizes = Sizes { head: 200, part: 100 };
            let mut ring = Ring::begin(dir.path(), sizes).expect("begins");
            let mut all = String::new();
            for (number, batch) in batches.iter().enumerate() {
                let lines: String = batch.iter().map(|n| format!("{number} {}\n", "x".repeat(*n))).collect();
                ring.write(&lines).expect("writes");
                all.push_str(&lines);
                prop_assert!(bytes(dir.path()) <= sizes.head + 2 * sizes.part);
            }
            let kept = read(dir.path());
            match kept.split_once(GAP) {
                None => prop_assert_eq!(kept, all),
                Some((head, tail)) => {
                    prop_assert!(all.starts_with(head) && all.ends_with(tail));
                    // A whole part is never lost to the change of parts.
                    prop_assert!(tail.len() as u64 > sizes.part - 64, "{}", tail.len());
                }
            }
        }

    }

    proptest! {
        #[test]
        fn an_excerpt_has_both_ends_and_is_no_longer_than_asked(lines in prop::collection::vec("[a-z]{0,9}", 0..60), max in 20..300usize) {
            let log: String = lines.iter().map(|l| format!("{l}\n")).collect();
            let text = excerpt(&log, max);
            prop_assert!(text.len() <= max);
            let (head, tail) = text.split_once(GAP).unwrap_or((&text, &text));
            prop_assert!(log.starts_with(head) && log.ends_with(tail));
        }
    }

    #[test]
    fn a_line_longer_than_a_part_is_cut() {
        let dir = tempfile::tempdir().expect("dir");
        let mut ring = Ring::begin(dir.path(), Sizes { head: 10, part: 10 }).expect("begins");
        ring.write(&format!("{}\n", "x".repeat(50))).expect("writes");
        assert_eq!(read(dir.path()), "x".repeat(10));
    }
}
