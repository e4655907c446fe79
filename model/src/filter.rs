//! Filters of `qa` and the admin API: `column=value[,column=value...]`, all of which must hold.
//!
//! A value with `*` (any text) or `?` (any one character) is a pattern; any other value must be equal.
//! There is no way to write a comma inside a value, and no `or`. Columns and the values of those that
//! have a type are checked here, so a filter that parsed can only match or not match, never fail.

use crate::{
    state::{HostState, UserState, VmState},
    suggest,
};
use std::net::Ipv4Addr;

/// What is filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// Nodes.
    Host,
    /// OS flavours.
    Osf,
    /// Disk images.
    Di,
    /// People.
    User,
    /// Virtual machines.
    Vm,
}

/// The type of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A whole number.
    Number,
    /// 0 or 1, yes or no.
    Flag,
    /// An IPv4 address.
    Address,
    /// A word of [`VmState`].
    VmState,
    /// A word of [`UserState`].
    UserState,
    /// A word of [`HostState`].
    HostState,
}

/// A column of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// One of [`Object::columns`].
    Named(&'static str, Kind),
    /// `property.KEY`: the object's own property of this key.
    Property(String),
}

/// What a column's value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// This text; flags are `0` or `1`.
    Equals(String),
    /// Matches these pieces one after the other, from the first character to the last.
    Like(Vec<Piece>),
}

/// A piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// This text.
    Text(String),
    /// `*`: any text, also none.
    Any,
    /// `?`: any one character.
    One,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// Of which column.
    pub column: Column,
    /// What it must be.
    pub pattern: Pattern,
}

/// Conditions that must all hold; none: everything matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The conditions.
    pub terms: Vec<Term>,
}

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A part without `=`.
    #[error("'{0}' is no condition: expected COLUMN=VALUE, several joined by commas")]
    Shape(String),
    /// No such column.
    #[error("Unknown filter column '{column}' for {object}{}: expected one of {expected}", nearest.map(|n| format!(" (did you mean '{n}'?)")).unwrap_or_default())]
    Column {
        /// The column given.
        column: String,
        /// Of what.
        object: &'static str,
        /// The nearest known one.
        nearest: Option<&'static str>,
        /// All of them.
        expected: String,
    },
    /// A value that the column can never have.
    #[error("'{value}' is no value for {column}: expected {expected}")]
    Value {
        /// The column.
        column: &'static str,
        /// The text given.
        value: String,
        /// What a legal value looks like.
        expected: String,
    },
}

impl Object {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Osf => "osf",
            Self::Di => "di",
            Self::User => "user",
            Self::Vm => "vm",
        }
    }

    /// Its columns. `property.KEY` comes on top.
    pub fn columns(self) -> &'static [(&'static str, Kind)] {
        use Kind::*;
        match self {
            Self::Host => &[
                ("id", Number),
                ("name", Text),
                ("address", Address),
                ("state", HostState),
                ("blocked", Flag),
                ("approved", Flag),
            ],
            Self::Osf => &[
                ("id", Number),
                ("name", Text),
                ("memory", Number),
                ("use_overlay", Flag),
                ("user_storage_size", Number),
            ],
            Self::Di => &[
                ("id", Number),
                ("osf", Text),
                ("osf_id", Number),
                ("version", Text),
                ("path", Text),
                ("name", Text),
                ("tag", Text),
            ],
            Self::User => &[("id", Number), ("login", Text), ("name", Text)],
            Self::Vm => &[
                ("id", Number),
                ("name", Text),
                ("user", Text),
                ("user_id", Number),
                ("real_user", Text),
                ("osf", Text),
                ("osf_id", Number),
                ("di_tag", Text),
                ("di", Text),
                ("ip", Address),
                ("host", Text),
                ("host_id", Number),
                ("state", VmState),
                ("user_state", UserState),
                ("blocked", Flag),
                ("unavailable", Flag),
                ("memory", Number),
                ("use_overlay", Flag),
                ("user_storage_size", Number),
            ],
        }
    }

    /// Reads a filter for it; an empty text matches everything.
    pub fn filter(self, text: &str) -> Result<Filter, FilterError> {
        if text.trim().is_empty() {
            return Ok(Filter::default());
        }
        let terms = text.split(',').map(|part| self.term(part)).collect::<Result<_, _>>()?;
        Ok(Filter { terms })
    }

    fn term(self, part: &str) -> Result<Term, FilterError> {
        let (name, value) = part.split_once('=').ok_or_else(|| FilterError::Shape(part.to_owned()))?;
        let column = self.column(name.trim())?;
        let pattern = pattern(&column, value)?;
        Ok(Term { column, pattern })
    }

    fn column(self, name: &str) -> Result<Column, FilterError> {
        if let Some(key) = name.strip_prefix("property.").filter(|key| !key.is_empty()) {
            return Ok(Column::Property(key.to_owned()));
        }
        let columns = self.columns();
        if let Some((name, kind)) = columns.iter().find(|(known, _)| *known == name) {
            return Ok(Column::Named(name, *kind));
        }
        let names = columns.iter().map(|(known, _)| *known);
        Err(FilterError::Column {
            column: name.to_owned(),
            object: self.as_str(),
            nearest: suggest::nearest(name, names.clone()),
            expected: names.collect::<Vec<_>>().join(", ") + ", property.KEY",
        })
    }
}

fn pattern(column: &Column, value: &str) -> Result<Pattern, FilterError> {
    if value.contains(['*', '?']) {
        return Ok(Pattern::Like(pieces(value)));
    }
    match column {
        Column::Property(_) => Ok(Pattern::Equals(value.to_owned())),
        Column::Named(name, kind) => kind
            .canonical(value)
            .map(Pattern::Equals)
            .map_err(|expected| FilterError::Value { column: name, value: value.to_owned(), expected }),
    }
}

fn pieces(value: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for c in value.chars() {
        match (c, pieces.last_mut()) {
            ('*', Some(Piece::Any)) => {}
            ('*', _) => pieces.push(Piece::Any),
            ('?', _) => pieces.push(Piece::One),
            (c, Some(Piece::Text(text))) => text.push(c),
            (c, _) => pieces.push(Piece::Text(c.into())),
        }
    }
    pieces
}

impl Kind {
    /// The value as the store spells it, or what was expected.
    fn canonical(self, value: &str) -> Result<String, String> {
        match self {
            Self::Text => Ok(value.to_owned()),
            Self::Number => {
                value.parse::<u32>().map(|n| n.to_string()).map_err(|_| "a whole number, or a pattern".to_owned())
            }
            Self::Flag => match value {
                "0" | "no" | "false" => Ok("0".to_owned()),
                "1" | "yes" | "true" => Ok("1".to_owned()),
                _ => Err("0 or 1".to_owned()),
            },
            Self::Address => value
                .parse::<Ipv4Addr>()
                .map(|a| a.to_string())
                .map_err(|_| "an IPv4 address, or a pattern such as 10.3.*".to_owned()),
            Self::VmState => word::<VmState>(value, VmState::ALL.iter().map(|s| s.as_str())),
            Self::UserState => word::<UserState>(value, UserState::ALL.iter().map(|s| s.as_str())),
            Self::HostState => word::<HostState>(value, HostState::ALL.iter().map(|s| s.as_str())),
        }
    }
}

fn word<T: std::str::FromStr>(value: &str, all: impl Iterator<Item = &'static str>) -> Result<String, String> {
    match value.parse::<T>() {
        Ok(_) => Ok(value.to_owned()),
        Err(_) => Err(format!("one of {}", all.collect::<Vec<_>>().join(", "))),
    }
}

impl Pattern {
    /// Whether `text` is what the pattern asks for.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Equals(wanted) => wanted == text,
            Self::Like(pieces) => like(pieces, text),
        }
    }

    /// The pattern for SQL's `LIKE ... ESCAPE '\'`.
    pub fn to_like(&self) -> String {
        let escape = |text: &str| text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        match self {
            Self::Equals(text) => escape(text),
            Self::Like(pieces) => pieces
                .iter()
                .map(|piece| match piece {
                    Piece::Text(text) => escape(text),
                    Piece::Any => "%".to_owned(),
                    Piece::One => "_".to_owned(),
                })
                .collect(),
        }
    }
}

/// Greedy with one point of return, the last `*`: linear in the text for each piece, whatever the pattern.
fn like(pieces: &[Piece], text: &str) -> bool {
    let (mut at, mut rest, mut retry) = (0, text, None);
    loop {
        let next = match pieces.get(at) {
            None if rest.is_empty() => return true,
            None => None,
            Some(Piece::Any) => {
                retry = Some((at + 1, rest));
                at += 1;
                continue;
            }
            Some(Piece::One) => rest.chars().next().map(|c| &rest[c.len_utf8()..]),
            Some(Piece::Text(wanted)) => rest.strip_prefix(wanted.as_str()),
        };
        if let Some(next) = next {
            (at, rest) = (at + 1, next);
            continue;
        }
        let Some((back, from)) = retry else { return false };
        let Some(c) = from.chars().next() else { return false };
        (at, rest) = (back, &from[c.len_utf8()..]);
        retry = Some((back, rest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn refused(object: Object, text: &str, saying: &str) {
        let err = object.filter(text).expect_err("refused").to_string();
        assert!(err.starts_with(saying), "{err}");
    }

    #[test]
    fn every_condition_must_hold_and_types_are_checked() {
        let filter = Object::Vm.filter("state=running,name=web-*,blocked=no,property.site=a=b").expect("a filter");
        assert_eq!(
            filter.terms,
            [
                Term { column: Column::Named("state", Kind::VmState), pattern: Pattern::Equals("running".into()) },
                Term {
                    column: Column::Named("name", Kind::Text),
                    pattern: Pattern::Like(vec![Piece::Text("web-".into()), Piece::Any])
                },
                Term { column: Column::Named("blocked", Kind::Flag), pattern: Pattern::Equals("0".into()) },
                Term { column: Column::Property("site".into()), pattern: Pattern::Equals("a=b".into()) },
            ]
        );
        assert_eq!(Object::Vm.filter("").expect("everything"), Filter::default());
    }

    #[test]
    fn slips_are_refused_with_what_was_meant() {
        refused(Object::Vm, "running", "'running' is no condition: expected COLUMN=VALUE");
        refused(Object::Vm, "name=a,", "'' is no condition");
        refused(
            Object::Vm,
            "stat=running",
            "Unknown filter column 'stat' for vm (did you mean 'state'?): expected one",
        );
        refused(
            Object::User,
            "zzz=1",
            "Unknown filter column 'zzz' for user: expected one of id, login, name, property.KEY",
        );
        refused(Object::Vm, "state=runing", "'runing' is no value for state: expected one of stopped, starting");
        refused(Object::Host, "blocked=maybe", "'maybe' is no value for blocked: expected 0 or 1");
        refused(Object::Di, "id=x", "'x' is no value for id: expected a whole number");
        refused(Object::Vm, "ip=10.3", "'10.3' is no value for ip: expected an IPv4 address");
    }

    #[track_caller]
    fn check(pattern: &str, text: &str, expect: bool) {
        assert_eq!(Pattern::Like(pieces(pattern)).matches(text), expect, "{pattern} on {text}");
    }

    #[test]
    fn stars_and_question_marks_match_as_in_a_shell() {
        check("*", "", true);
        check("a*", "a", true);
        check("a*b", "axxb", true);
        check("a*b", "axxbc", false);
        check("?", "é", true);
        check("?", "", false);
        check("*ab*ab", "abab", true);
        check("*ab*ab", "abxa", false);
        check("a?c*", "abcdef", true);
    }

    #[test]
    fn what_sql_takes_for_a_wildcard_is_escaped() {
        assert_eq!(Pattern::Like(pieces("50%_*\\?")).to_like(), "50\\%\\_%\\\\_");
    }

    /// The same by trying every split: slow and plainly right.
    fn naive(pieces: &[Piece], text: &[char]) -> bool {
        match pieces.split_first() {
            None => text.is_empty(),
            Some((Piece::Any, rest)) => (0..=text.len()).any(|n| naive(rest, &text[n..])),
            Some((Piece::One, rest)) => !text.is_empty() && naive(rest, &text[1..]),
            Some((Piece::Text(t), rest)) => {
                let wanted: Vec<char> = t.chars().collect();
                text.starts_with(&wanted) && naive(rest, &text[wanted.len()..])
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_filter_or_an_error(text in any::<String>()) {
            for object in [Object::Host, Object::Osf, Object::Di, Object::User, Object::Vm] {
                let _: Result<Filter, FilterError> = object.filter(&text);
            }
        }

        #[test]
        fn a_value_without_wildcards_matches_itself_only(value in "[^,*?]{0,12}", other in "[^,*?]{0,12}") {
            let filter = Object::Vm.filter(&format!("name={value}")).expect("a filter");
            prop_assert!(filter.terms[0].pattern.matches(&value));
            prop_assert_eq!(filter.terms[0].pattern.matches(&other), value == other);
        }

        #[test]
        fn a_pattern_matches_as_by_trying_every_split(pattern in "[ab*?]{0,8}", text in "[abé]{0,8}") {
            let pieces = pieces(&pattern);
            let chars: Vec<char> = text.chars().collect();
            prop_assert_eq!(like(&pieces, &text), naive(&pieces, &chars));
        }
    }
}
