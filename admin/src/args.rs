//! The command line: `qa [options] <object> <command> [arguments]`, options anywhere (QVD manual).

use std::{collections::VecDeque, path::PathBuf};

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invocation {
    /// `-f`, `--filter`: which objects, as typed; several are joined (all must hold).
    pub filter: Option<String>,
    /// `--force`: do not ask before a command that concerns all objects.
    pub force: bool,
    /// `-q`, `--quiet`: no table header, no error text.
    pub quiet: bool,
    /// `--json`: lists as JSON, for programs.
    pub json: bool,
    /// `-h`, `--help`.
    pub help: bool,
    /// `--version`.
    pub version: bool,
    /// `--config FILE`.
    pub config: Option<PathBuf>,
    /// Object, such as `vm`.
    pub object: Option<String>,
    /// Command, such as `start`.
    pub command: Option<String>,
    /// What follows.
    pub arguments: Vec<String>,
}

/// A command line that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// An option that there is none of.
    #[error("unknown option '{0}'")]
    UnknownOption(String),
    /// An option without its value.
    #[error("option '{0}' needs a value")]
    MissingValue(String),
    /// `key` where `key=value` is needed.
    #[error("undefined value for key: '{0}'")]
    UndefinedValue(String),
    /// A key that the command does not take.
    #[error("unknown key '{key}'{}", suggestion(nearest.as_deref()))]
    UnknownKey {
        /// The key given.
        key: String,
        /// The nearest legal one.
        nearest: Option<String>,
    },
    /// A key that the command cannot do without.
    #[error("missing key '{0}'")]
    MissingKey(&'static str),
    /// Keys of which exactly one is needed.
    #[error("exactly one of {0} is needed")]
    ExactlyOne(&'static str),
    /// A value of the wrong type.
    #[error("'{value}' is no value for {key}: expected {expected}")]
    BadValue {
        /// The key.
        key: String,
        /// The text given.
        value: String,
        /// What a legal value looks like.
        expected: &'static str,
    },
    /// An argument that the command does not take.
    #[error("unexpected argument '{0}'")]
    Unexpected(String),
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|n| format!(": did you mean '{n}'?")).unwrap_or_default()
}

/// Reads a command line (without the program's name).
pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Invocation, SyntaxError> {
    let mut words: VecDeque<String> = words.into_iter().collect();
    let mut got = Invocation::default();
    while let Some(word) = words.pop_front() {
        let (flag, glued) = match word.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag.to_owned(), Some(value.to_owned())),
            _ => (word.clone(), None),
        };
        let mut value = |flag: &str| {
            glued.clone().or_else(|| words.pop_front()).ok_or_else(|| SyntaxError::MissingValue(flag.to_owned()))
        };
        match flag.as_str() {
            "-f" | "--filter" => {
                let more = value(&flag)?;
                got.filter = Some(got.filter.map_or(more.clone(), |f| format!("{f},{more}")));
            }
            "--config" => got.config = Some(value(&flag)?.into()),
            "--force" => got.force = true,
            "--json" => got.json = true,
            "-q" | "--quiet" => got.quiet = true,
            "-h" | "--help" => got.help = true,
            "--version" => got.version = true,
            "--" => {
                got.arguments.extend(words.drain(..));
            }
            _ if word.starts_with('-') && word.len() > 1 => return Err(SyntaxError::UnknownOption(word)),
            _ if got.object.is_none() => got.object = Some(word),
            _ if got.command.is_none() => got.command = Some(word),
            _ => got.arguments.push(word),
        }
    }
    Ok(got)
}

/// The `key=value` arguments of one command, taken one by one.
#[derive(Debug)]
pub struct Keys {
    pairs: Vec<(String, String)>,
}

impl Keys {
    /// Splits arguments at their first `=`; each key must be one of `legal`, where `*` allows any.
    pub fn new(arguments: &[String], legal: &[&str]) -> Result<Self, SyntaxError> {
        let mut pairs = Vec::new();
        for argument in arguments {
            let pair = argument.split_once('=').ok_or_else(|| SyntaxError::UndefinedValue(argument.clone()))?;
            let key = pair.0.to_owned();
            if !legal.contains(&pair.0) && legal != ["*"] {
                let nearest = model::suggest::nearest(&key, legal.iter().copied()).map(str::to_owned);
                return Err(SyntaxError::UnknownKey { key, nearest });
            }
            pairs.push((key, pair.1.to_owned()));
        }
        Ok(Self { pairs })
    }

    /// The value of a key; the last one given wins.
    pub fn text(&self, key: &str) -> Option<String> {
        self.pairs.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.clone())
    }

    /// The value of a key that must be there.
    pub fn required(&self, key: &'static str) -> Result<String, SyntaxError> {
        self.text(key).ok_or(SyntaxError::MissingKey(key))
    }

    /// A value of a type that reads itself from text.
    pub fn parsed<T: std::str::FromStr>(&self, key: &str, expected: &'static str) -> Result<Option<T>, SyntaxError> {
        let Some(value) = self.text(key) else { return Ok(None) };
        let parsed = value.parse().map_err(|_| SyntaxError::BadValue { key: key.to_owned(), value, expected });
        parsed.map(Some)
    }

    /// A size in MiB, as [`model::size::parse_mib`] reads it.
    pub fn mib(&self, key: &str) -> Result<Option<u32>, SyntaxError> {
        let Some(value) = self.text(key) else { return Ok(None) };
        let expected = "a size such as 512m or 2g";
        let bad = |_| SyntaxError::BadValue { key: key.to_owned(), value: value.clone(), expected };
        model::size::parse_mib(&value).map(Some).map_err(bad)
    }

    /// All pairs of arguments whose keys may be any, in order; there must be one.
    pub fn any(arguments: &[String]) -> Result<Vec<(String, String)>, SyntaxError> {
        let pairs = Self::new(arguments, &["*"])?.pairs;
        if pairs.is_empty() { Err(SyntaxError::MissingKey("KEY=VALUE")) } else { Ok(pairs) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, SyntaxError> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_may_stand_anywhere() {
        let got = parsed("-q vm -f name=a* list --filter=state=running --force").expect("reads");
        assert_eq!(got.filter.as_deref(), Some("name=a*,state=running"));
        assert_eq!((got.object.as_deref(), got.command.as_deref()), (Some("vm"), Some("list")));
        assert!(got.quiet && got.force && got.arguments.is_empty());
    }

    #[test]
    fn what_follows_two_dashes_is_not_read() {
        let got = parsed("vm ssh -f id=1 -- -l root").expect("reads");
        assert_eq!(got.arguments, ["-l", "root"]);
    }

    #[track_caller]
    fn refused(line: &str, saying: &str) {
        assert_eq!(parsed(line).expect_err("refused").to_string(), saying);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        refused("vm list --fliter x", "unknown option '--fliter'");
        refused("vm list -f", "option '-f' needs a value");
    }

    #[test]
    fn keys_are_checked_and_the_nearest_is_named() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let err = Keys::new(&words("name=a memroy=1"), &["name", "memory"]).expect_err("refused");
        assert_eq!(err.to_string(), "unknown key 'memroy': did you mean 'memory'?");
        let err = Keys::new(&words("name"), &["name"]).expect_err("refused");
        assert_eq!(err.to_string(), "undefined value for key: 'name'");
        let keys = Keys::new(&words("name=a=b memory=1g"), &["name", "memory"]).expect("reads");
        assert_eq!(keys.text("name").as_deref(), Some("a=b"));
        assert_eq!(keys.mib("memory"), Ok(Some(1024)));
    }
}
