//! The text of a seed, read with the place of each mistake.

use model::seed::{Seed, explain};

/// The text is no seed: where and why. It says nothing of values that are secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The seed is wrong at line {line}, column {column}: {what}")]
pub struct Wrong {
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
    /// What was found and what was expected.
    pub what: String,
}

/// Reads a seed.
pub fn parse(text: &str) -> Result<Seed, Wrong> {
    toml::from_str(text).map_err(|e| {
        let (line, column) = position(text, e.span().map_or(0, |s| s.start));
        Wrong { line, column, what: explain(e.message()) }
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
            "The seed is wrong at line 1, column 2: unknown field `stoer`, expected one of `store`, `node`, `network`, `state` (did you mean `store`?)",
        );
        refused(
            &format!("{GOOD}[state]\nencryption = \"tmp\"\n"),
            "The seed is wrong at line 5, column 14: unknown variant `tmp`, expected `none` or `tpm` (did you mean `tpm`?)",
        );
    }

    #[test]
    fn a_recovery_key_is_told_by_its_group_alone() {
        let text = format!("{GOOD}[state]\nrecovery-key = \"99998-99999-9999A-9999C-9999C-9999D-9999E\"\n");
        refused(
            &text,
            "The seed is wrong at line 5, column 16: Group 4 of the recovery key is mistyped, or stands at another place",
        );
    }

    #[test]
    fn a_key_in_the_wrong_place_is_not_repeated() {
        let text = format!("{GOOD}[state]\nencryption = \"99998-99999-9999A-9999C-9999C-9999D-9999E\"\n");
        refused(&text, "The seed is wrong at line 5, column 14: unknown variant `...`, expected `none` or `tpm`");
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
