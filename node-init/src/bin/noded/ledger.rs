//! The ledger: what the node must know to do its work while the store is away.
//!
//! Two copies under [`paths::LEDGER`], each with a generation and a checksum; the newest valid one
//! wins, and a write replaces the other. So a copy damaged in any way costs one generation at most.
//! The directory is 0700: the router's key is in it.

use crate::files;
use crate::paths::Paths;
use crate::report::chain;
use anyhow::Context;
use model::{Digest, paths, sync::Desired};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{io, path::PathBuf};

const FILES: [&str; 2] = ["a", "b"];
const MAGIC: &str = "roost-ledger-";
/// Version of the file's form, behind [`MAGIC`].
const FORM: &str = "1";

/// What is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Fingerprint of the CA of the cluster it belongs to; another cluster's entry is not used.
    pub cluster: Digest,
    /// When it was written, Unix milliseconds: the clock is never set before it.
    pub clock_ms: u64,
    /// Ed25519 key that verifies grants.
    #[serde(default)]
    pub grant_key: Vec<u8>,
    /// Last desired state.
    #[serde(default)]
    pub desired: Option<Desired>,
}

/// Why the ledger cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("Cannot write the ledger {path}")]
pub struct LedgerError {
    /// The copy that was to be written.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Why a copy is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A crash, or a bad disk.
    #[error("is damaged")]
    Damaged,
    /// Another version wrote it.
    #[error("has form {0}, expected {FORM}")]
    Form(String),
    /// It is whole, and says what this version does not know.
    #[error("is whole, and makes no sense to this version")]
    Unknown(#[source] serde_json::Error),
}

/// The two copies.
#[derive(Debug)]
pub struct Ledger {
    dir: PathBuf,
    generation: u64,
    newest: usize,
}

impl Ledger {
    /// Reads both copies; the entry is that of the newest valid one, none when there is none.
    pub fn open(paths: &Paths) -> (Self, Option<Entry>) {
        let dir = paths.at(paths::LEDGER);
        let copies = FILES.map(|name| read(&dir.join(name)));
        let best = copies.into_iter().enumerate().filter_map(|(i, c)| c.map(|(g, e)| (g, i, e))).max_by_key(|c| c.0);
        match best {
            Some((generation, newest, entry)) => (Self { dir, generation, newest }, Some(entry)),
            None => (Self { dir, generation: 0, newest: 1 }, None),
        }
    }

    /// Whether this version understands what is there; a copy that is damaged, or cannot be read, is no version's fault.
    /// The error names the copy.
    pub fn rehearse(paths: &Paths) -> anyhow::Result<()> {
        for path in FILES.map(|name| paths.at(paths::LEDGER).join(name)) {
            let Ok(text) = std::fs::read(&path) else { continue };
            match from_text(&text) {
                Ok(_) | Err(Unusable::Damaged) => {}
                Err(e) => return Err(e).with_context(|| format!("The ledger {}", path.display())),
            }
        }
        Ok(())
    }

    /// Writes an entry over the older copy. Blocks until it is on disk.
    pub fn write(&mut self, entry: &Entry) -> Result<(), LedgerError> {
        let (generation, slot) = (self.generation + 1, 1 - self.newest);
        let path = self.dir.join(FILES[slot]);
        files::make_dir(&self.dir, 0o700)
            .and_then(|()| files::replace(&path, &to_text(generation, entry)?, 0o600))
            .map_err(|source| LedgerError { path, source })?;
        (self.generation, self.newest) = (generation, slot);
        Ok(())
    }
}

fn to_text(generation: u64, entry: &Entry) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(entry)?;
    let mut text = format!("{MAGIC}{FORM} {generation} {}\n", checksum(generation, &body)).into_bytes();
    text.extend(body);
    Ok(text)
}

fn checksum(generation: u64, body: &[u8]) -> Digest {
    Digest(Sha256::new().chain_update(generation.to_be_bytes()).chain_update(body).finalize().into())
}

fn read(path: &std::path::Path) -> Option<(u64, Entry)> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "Cannot read a copy of the ledger");
            return None;
        }
    };
    from_text(&text)
        .inspect_err(|error| {
            tracing::warn!(path = %path.display(), error = %chain(error), "A copy of the ledger is not used");
        })
        .ok()
}

fn from_text(text: &[u8]) -> Result<(u64, Entry), Unusable> {
    let end = text.iter().take(200).position(|b| *b == b'\n').ok_or(Unusable::Damaged)?;
    let head = std::str::from_utf8(&text[..end]).ok().and_then(|head| head.strip_prefix(MAGIC));
    let mut words = head.ok_or(Unusable::Damaged)?.split(' ');
    let form = words.next().unwrap_or_default();
    if form != FORM && form.parse::<u32>().is_ok() {
        return Err(Unusable::Form(form.to_owned()));
    }
    let body = &text[end + 1..];
    let (generation, sum) = (words.next().and_then(|w| w.parse().ok()), words.next().and_then(|w| w.parse().ok()));
    match (generation, sum) {
        (Some(generation), Some(sum)) if form == FORM && checksum(generation, body) == sum => {
            Ok((generation, serde_json::from_slice(body).map_err(Unusable::Unknown)?))
        }
        _ => Err(Unusable::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(clock_ms: u64) -> Entry {
        Entry { cluster: Digest([7; 32]), clock_ms, grant_key: vec![1, 2], desired: None }
    }

    fn written(times: u64) -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().expect("temp dir");
        let paths = Paths { state: dir.path().into(), run: dir.path().into() };
        let (mut ledger, found) = Ledger::open(&paths);
        assert_eq!(found, None);
        for n in 1..=times {
            ledger.write(&entry(n)).expect("writes");
        }
        (dir, paths)
    }

    #[test]
    fn the_last_entry_written_is_the_one_read() {
        for times in 1..5 {
            let (_dir, paths) = written(times);
            assert_eq!(Ledger::open(&paths).1, Some(entry(times)));
        }
    }

    #[test]
    fn a_write_after_damage_wins_over_both_copies() {
        let (_dir, paths) = written(2);
        std::fs::write(paths.at(paths::LEDGER).join("b"), "").expect("damages the newest");
        let (mut ledger, found) = Ledger::open(&paths);
        assert_eq!(found, Some(entry(1)));
        ledger.write(&entry(9)).expect("writes");
        assert_eq!(Ledger::open(&paths).1, Some(entry(9)));
    }

    #[test]
    fn another_versions_ledger_is_told_from_a_damaged_one() {
        let (_dir, paths) = written(2);
        let path = paths.at(paths::LEDGER).join("b");
        let good = std::fs::read(&path).expect("reads");
        let whole = |body: &str| format!("{MAGIC}1 5 {}\n{body}", checksum(5, body.as_bytes()));
        for (text, expect) in [
            (String::from_utf8(good).expect("text"), None),
            (String::new(), None),
            ("roost-ledger-x 5 6\n{}".to_owned(), None),
            (whole("{}").replace("-1 5", "-1 6"), None),
            ("roost-ledger-2 anything\n".to_owned(), Some("has form 2, expected 1")),
            (whole(r#"{"cluster":7}"#), Some("is whole, and makes no sense to this version")),
        ] {
            std::fs::write(&path, &text).expect("written");
            let found = Ledger::rehearse(&paths).map_err(|e| format!("{e:#}"));
            match expect {
                None => found.expect("goes on"),
                Some(saying) => assert!(found.as_ref().is_err_and(|e| e.contains(saying)), "{text}: {found:?}"),
            }
        }
    }

    /// What may happen to a file in a crash, or on a bad disk.
    #[derive(Clone, Debug)]
    enum Damage {
        Cut(prop::sample::Index),
        Flip(prop::sample::Index, u8),
        Garbage(Vec<u8>),
        Gone,
    }

    fn damage() -> impl Strategy<Value = Damage> {
        prop_oneof![
            any::<prop::sample::Index>().prop_map(Damage::Cut),
            (any::<prop::sample::Index>(), 1u8..).prop_map(|(at, mask)| Damage::Flip(at, mask)),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(Damage::Garbage),
            Just(Damage::Gone),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn one_damaged_copy_costs_one_generation_at_most(copy in 0usize..2, damage in damage()) {
            let (_dir, paths) = written(4);
            let path = paths.at(paths::LEDGER).join(FILES[copy]);
            let mut bytes = std::fs::read(&path).expect("reads");
            match damage {
                Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
                Damage::Flip(at, mask) => { let at = at.index(bytes.len()); bytes[at] ^= mask; }
                Damage::Garbage(ref garbage) => bytes.clone_from(garbage),
                Damage::Gone => {}
            }
            if matches!(damage, Damage::Gone) { std::fs::remove_file(&path).expect("removes") }
            else { std::fs::write(&path, bytes).expect("writes") }
            // Copy a holds generations 1 and 3, copy b holds 2 and 4.
            let expected = if copy == 0 { 4 } else { 3 };
            prop_assert_eq!(Ledger::open(&paths).1, Some(entry(expected)));
        }
    }
}
