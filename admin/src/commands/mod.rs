//! The commands: one table drives dispatch, help and prompts.

mod config;
mod di;
mod host;
mod image;
mod osf;
mod property;
mod user;
mod vm;

use crate::{
    args::{Invocation, Keys, SyntaxError},
    client::Client,
    output,
    table::Table,
};
use model::api::Done;
use serde::{Serialize, de::DeserializeOwned};
use std::process::ExitCode;

/// What a running command works with.
pub struct Session {
    /// The admin API.
    pub client: Client,
    /// The filter, as typed.
    pub filter: Option<String>,
    /// No table header, no messages.
    pub quiet: bool,
    /// Lists as JSON.
    pub json: bool,
}

impl Session {
    /// The filter as query parameters.
    pub fn query(&self) -> Vec<(&str, &str)> {
        self.filter.iter().map(|f| ("filter", f.as_str())).collect()
    }

    /// Prints the objects that the filter means: as the table that `table` makes of them, or as JSON.
    pub fn list<T>(&self, path: &str, table: fn(Vec<T>) -> Vec<Table>) -> anyhow::Result<ExitCode>
    where
        T: DeserializeOwned + Serialize,
    {
        self.show(self.client.get(path, &self.query())?, table)
    }

    /// Prints these objects: as the table that `table` makes of them, or as JSON.
    pub fn show<T: Serialize>(&self, rows: Vec<T>, table: fn(Vec<T>) -> Vec<Table>) -> anyhow::Result<ExitCode> {
        if self.json {
            output::say(&format!("{}\n", serde_json::to_string_pretty(&rows)?));
        } else {
            let tables: Vec<String> = table(rows).iter().map(|t| t.render(self.quiet)).collect();
            output::say(&tables.join("\n"));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Runs a command on all objects that the filter means.
    pub fn on_many(&self, path: &str, sentence: &str) -> anyhow::Result<ExitCode> {
        let done: Done = self.client.post(path, &self.query(), &())?;
        Ok(output::done(&done, sentence, self.quiet))
    }

    /// Deletes all objects that the filter means.
    pub fn delete(&self, path: &str, sentence: &str) -> anyhow::Result<ExitCode> {
        let done: Done = self.client.delete(path, &self.query())?;
        Ok(output::done(&done, sentence, self.quiet))
    }
}

/// A command whose arguments were read: all that is left is to do it.
pub type Prepared = Box<dyn FnOnce(&Session) -> anyhow::Result<ExitCode>>;

/// One command.
pub struct Command {
    object: &'static str,
    name: &'static str,
    /// Arguments, as in a usage line.
    usage: &'static str,
    doc: &'static str,
    /// Verb of the question asked before it concerns all objects.
    verb: Option<&'static str>,
    read: fn(&Invocation) -> Result<Prepared, SyntaxError>,
}

impl Command {
    /// Reads the arguments.
    pub fn prepare(&self, invocation: &Invocation) -> Result<Prepared, SyntaxError> {
        (self.read)(invocation)
    }

    /// Whether it asks before it concerns all objects.
    pub fn asks(&self) -> bool {
        self.verb.is_some()
    }

    /// That question.
    pub fn question(&self) -> String {
        format!("Are you sure you want to {} all {}s?", self.verb.unwrap_or_default(), self.object)
    }

    /// Usage and one sentence.
    pub fn help(&self) -> String {
        let usage = format!("Usage: qa {} {} {}", self.object, self.name, self.usage);
        format!("{}\n\n{}\n", usage.trim_end(), self.doc)
    }
}

/// All commands, by object.
fn all() -> impl Iterator<Item = &'static Command> {
    [
        config::COMMANDS,
        di::COMMANDS,
        host::COMMANDS,
        image::COMMANDS,
        osf::COMMANDS,
        user::COMMANDS,
        vm::COMMANDS,
        property::COMMANDS,
    ]
    .into_iter()
    .flatten()
}

/// The command of this name.
pub fn find(object: Option<&str>, name: Option<&str>) -> Option<&'static Command> {
    all().find(|c| Some(c.object) == object && Some(c.name) == name)
}

/// What there is, when no command was named or an unknown one.
pub fn overview(object: Option<&str>, name: Option<&str>) -> String {
    let known = all().any(|c| Some(c.object) == object);
    let mut names: Vec<&str> = if known {
        all().filter(|c| Some(c.object) == object).map(|c| c.name).collect()
    } else {
        all().map(|c| c.object).collect()
    };
    names.sort_unstable();
    names.dedup();
    let unknown = match (object, name) {
        (Some(object), Some(name)) if known => stranger(name, &format!("command of {object}"), &names),
        (Some(object), _) if !known => stranger(object, "object", &names),
        _ => String::new(),
    };
    let (what, usage) = match object {
        Some(object) if known => ("subcommands", format!("qa {object} <command> [arguments]")),
        _ => (
            "objects",
            "qa [-f FILTER] [-q] [--json] [--force] [--config FILE] <object> <command> [arguments]".to_owned(),
        ),
    };
    let lines: String = names.iter().map(|n| format!("    {n}\n")).collect();
    format!("{unknown}Usage: {usage}\nValid command expected, available {what}:\n{lines}")
}

/// Says that a word is none of `known`, and which of them it is nearest to.
fn stranger(word: &str, what: &str, known: &[&str]) -> String {
    let near = model::suggest::nearest(word, known.iter().copied());
    let advice = near.map(|n| format!(": did you mean {n}?")).unwrap_or_default();
    format!("'{word}' is no {what}{advice}\n")
}

/// No arguments at all.
fn nothing(invocation: &Invocation) -> Result<(), SyntaxError> {
    match invocation.arguments.first() {
        Some(extra) => Err(SyntaxError::Unexpected(extra.clone())),
        None => Ok(()),
    }
}

/// `key=value` arguments, of these keys.
fn keys(invocation: &Invocation, legal: &[&str]) -> Result<Keys, SyntaxError> {
    Keys::new(&invocation.arguments, legal)
}

/// A command without arguments that lists objects.
macro_rules! list {
    ($object:literal, $name:literal, $path:literal, $table:path, $doc:literal) => {
        $crate::commands::Command {
            object: $object,
            name: $name,
            usage: "[-f FILTER]",
            doc: $doc,
            verb: None,
            read: |invocation| {
                $crate::commands::nothing(invocation)?;
                Ok(Box::new(|session| session.list($path, $table)))
            },
        }
    };
}

/// A command without arguments that does the same to all objects that the filter means.
macro_rules! on_many {
    ($object:literal, $name:literal, $path:literal, $sentence:literal, $doc:literal) => {
        $crate::commands::Command {
            object: $object,
            name: $name,
            usage: "",
            doc: $doc,
            verb: Some($name),
            read: |invocation| {
                $crate::commands::nothing(invocation)?;
                Ok(Box::new(|session| session.on_many($path, $sentence)))
            },
        }
    };
}

/// A command that deletes all objects that the filter means.
macro_rules! delete {
    ($object:literal, $path:literal, $sentence:literal, $doc:literal) => {
        $crate::commands::Command {
            object: $object,
            name: "del",
            usage: "",
            doc: $doc,
            verb: Some("delete"),
            read: |invocation| {
                $crate::commands::nothing(invocation)?;
                Ok(Box::new(|session| session.delete($path, $sentence)))
            },
        }
    };
}

use {delete, list, on_many};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_known_once_and_explains_itself() {
        for command in all() {
            let twins = all().filter(|c| (c.object, c.name) == (command.object, command.name)).count();
            assert_eq!(twins, 1, "{} {}", command.object, command.name);
            assert!(command.doc.ends_with('.'), "{} {}", command.object, command.name);
        }
    }

    #[test]
    fn an_unknown_command_lists_those_of_its_object() {
        let text = overview(Some("osf"), None);
        assert!(text.contains("available subcommands:\n    add\n    del\n    list\n"), "{text}");
        assert!(text.starts_with("Usage: "), "{text}");
        assert!(overview(Some("osff"), None).contains("    vm\n"));
    }

    #[test]
    fn an_unknown_word_is_named_with_the_nearest_known_one() {
        check("vm", Some("lst"), "'lst' is no command of vm: did you mean list?\nUsage: qa vm ");
        check("vm", Some("frobnicate"), "'frobnicate' is no command of vm\nUsage: ");
        check("hots", Some("list"), "'hots' is no object: did you mean host?\nUsage: qa [-f FILTER]");
    }

    #[track_caller]
    fn check(object: &str, name: Option<&str>, begins: &str) {
        let text = overview(Some(object), name);
        assert!(text.starts_with(begins), "{text}");
    }
}
