//! TOML to [`Recipe`], with errors that point at the place.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::{Recipe, extend};
use crate::error::{Error, Result, TextError};

impl Recipe {
    /// Reads a recipe. `file` is only named in errors.
    pub fn parse(text: &str, file: &Path) -> Result<Self> {
        let recipe: Self = from_toml(text, file)?;
        recipe.check()?;
        Ok(recipe)
    }

    /// Reads a recipe that extends another. A mistake in what it adds is told without its line: it is found in both
    /// together.
    pub(super) fn parse_on(text: &str, file: &Path, base: &str, base_file: &Path) -> Result<Self> {
        let whole = extend::merge(from_toml(base, base_file)?, from_toml(text, file)?);
        let recipe: Self = whole.try_into().map_err(|e: toml::de::Error| {
            let nearest = nearest_in(e.message()).map_or_else(String::new, |near| format!("; did you mean '{near}'?"));
            Error::Recipe { recipe: file.display().to_string(), problem: format!("{}{nearest}", e.message()) }
        })?;
        recipe.check()?;
        Ok(recipe)
    }
}

/// Reads TOML; an error has file, line, column and, for an unknown key, the nearest valid one.
pub(crate) fn from_toml<T: DeserializeOwned>(text: &str, file: &Path) -> Result<T> {
    toml::from_str(text).map_err(|e| {
        let offset = e.span().map_or(0, |s| s.start);
        let (line, column) = position(text, offset);
        let message = e.message().to_owned();
        let nearest = nearest_in(&message);
        Error::Text(TextError { file: file.to_owned(), line, column, message, nearest })
    })
}

/// Line and column, from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
    (line, column)
}

/// serde quotes the word it met and then every word it would have taken in backticks; it offers no
/// other way to learn them. A message of another shape simply gets no suggestion.
fn nearest_in(message: &str) -> Option<String> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let found = quoted.next()?;
    model::suggest::nearest(found, quoted).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = \"tiny\"\nkind = \"guest\"\n[packages]\ninstall = [\"base-files\"]\n";

    #[track_caller]
    fn check(text: &str, expect: &str) {
        let error = Recipe::parse(text, Path::new("tiny.toml")).expect_err("this recipe is wrong");
        assert_eq!(error.to_string(), expect);
    }

    #[test]
    fn a_small_recipe_is_read() {
        let recipe = Recipe::parse(GOOD, Path::new("tiny.toml")).expect("a good recipe");
        assert_eq!(recipe.packages.install, ["base-files"]);
        assert_eq!(recipe.sizes.slot_mib, 256);
    }

    #[test]
    fn an_unknown_key_is_placed_and_the_nearest_one_named() {
        let text = "name = \"tiny\"\nkind = \"guest\"\n[packages]\n  instal = []\n";
        let error = Recipe::parse(text, Path::new("tiny.toml")).expect_err("a slip").to_string();
        assert!(error.starts_with("tiny.toml:4:3: unknown field `instal`"), "{error}");
        assert!(error.ends_with("did you mean 'install'?"), "{error}");
    }

    #[test]
    fn an_unknown_kind_is_placed_and_the_nearest_one_named() {
        let text = GOOD.replace("guest", "gest");
        let error = Recipe::parse(&text, Path::new("tiny.toml")).expect_err("a slip").to_string();
        assert!(error.starts_with("tiny.toml:2:8: unknown variant `gest`"), "{error}");
        assert!(error.ends_with("did you mean 'guest'?"), "{error}");
    }

    #[test]
    fn a_wrong_type_is_placed() {
        check(&GOOD.replace("[\"base-files\"]", "7"), "tiny.toml:4:11: invalid type: integer `7`, expected a sequence");
    }

    #[test]
    fn broken_toml_is_placed() {
        let error = Recipe::parse("name = \n", Path::new("x.toml")).expect_err("no value").to_string();
        assert!(error.starts_with("x.toml:1:"), "{error}");
    }

    #[test]
    fn a_recipe_on_top_of_another_is_checked_as_a_whole() {
        let (file, base) = (Path::new("more.toml"), Path::new("tiny.toml"));
        let more = "extends = \"tiny\"\nname = \"more\"\n[packages]\ninstall = [\"dash\"]\n";
        let recipe = Recipe::parse_on(more, file, GOOD, base).expect("a good recipe");
        assert_eq!(
            (recipe.name.as_str(), &recipe.packages.install[..]),
            ("more", &["base-files".to_owned(), "dash".to_owned()][..])
        );
        let slip = more.replace("install", "instal");
        let error = Recipe::parse_on(&slip, file, GOOD, base).expect_err("a slip").to_string();
        assert!(error.starts_with("Recipe 'more.toml': unknown field `instal`"), "{error}");
        assert!(error.ends_with("did you mean 'install'?"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*") {
            let _ = Recipe::parse(&text, Path::new("x.toml"));
        }

        #[test]
        fn a_good_recipe_with_one_place_changed_is_read_or_refused_with_a_place_in_the_file(
            at in 0..GOOD.len(), with in "[\\x20-\\x7e\\n]{0,3}",
        ) {
            let text = format!("{}{}{}", &GOOD[..at], with, &GOOD[at + 1..]);
            if let Err(Error::Text(e)) = Recipe::parse(&text, Path::new("x.toml")) {
                proptest::prop_assert!(e.line <= text.lines().count() + 1, "line {} of {text:?}", e.line);
            }
        }
    }
}
