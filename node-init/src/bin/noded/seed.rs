//! Reads the seed that `node-init` found.

use model::seed::{Seed, explain};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Why there is no seed.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The file cannot be read; missing means that no seed was found anywhere.
    #[error(
        "Cannot read the seed {path}: put a seed.toml on the partition ROOST-SEED, or pass one by fw_cfg or SMBIOS"
    )]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what a seed must be. The text names line and column.
    #[error("The seed is wrong at {0}")]
    Wrong(String),
}

/// Reads and checks the seed.
pub fn load(path: &Path) -> Result<Seed, SeedError> {
    let text = std::fs::read_to_string(path).map_err(|source| SeedError::Read { path: path.to_owned(), source })?;
    parse(&text)
}

fn parse(text: &str) -> Result<Seed, SeedError> {
    toml::from_str(text).map_err(|e| {
        let (line, column) = position(text, e.span().map_or(0, |s| s.start));
        SeedError::Wrong(format!("line {line}, column {column}: {}", explain(e.message())))
    })
}

/// Line and column, from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |n| n + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "[store]\naddress = \"10.0.2.2:3001\"\nca = \"sha256:0101010101010101010101010101010101010101010101010101010101010101\"\n";

    #[track_caller]
    fn refused(text: &str, saying: &str) {
        assert_eq!(parse(text).expect_err("refused").to_string(), saying);
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        parse(GOOD).expect("reads");
        refused(
            &GOOD.replace("10.0.2.2:3001", "10.0.2.2"),
            "The seed is wrong at line 2, column 11: '10.0.2.2' is not a store address: expected HOST:PORT, such as 192.0.2.1:3001",
        );
        refused(
            "[stoer]\n",
            "The seed is wrong at line 1, column 2: unknown field `stoer`, expected one of `store`, `node`, `network` (did you mean `store`?)",
        );
    }

    proptest! {
        #[test]
        fn any_text_is_a_seed_or_an_error(text in "\\PC{0,80}", at in any::<prop::sample::Index>()) {
            let mut damaged = GOOD.to_owned();
            damaged.insert_str(at.index(GOOD.len()), &text);
            let _seed = parse(&damaged);
        }
    }
}
