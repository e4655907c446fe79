//! Logging into the kernel's own log, where everything of a boot is in one order and survives in pstore.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Write as _;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

const PATH: &str = "/dev/kmsg";
/// Longest record that the kernel takes in one write.
const MAX_RECORD: usize = 960;

/// Sends all logging of this program to the kernel's log; to standard error where there is none (a container).
pub fn init() {
    // The default drops all but ten lines in five seconds of each program. Without its newline the word is refused.
    let unlimited = std::fs::write("/proc/sys/kernel/printk_devkmsg", "on\n");
    let log = Log { file: File::options().write(true).open(PATH).ok() };
    // A second call keeps the first log.
    let _ = tracing::subscriber::set_global_default(log);
    if let Err(e) = unlimited {
        tracing::warn!(error = %e, "The kernel drops most of what is said at once");
    }
}

struct Log {
    file: Option<File>,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            _ => 6,
        };
        let mut line = Line::default();
        event.record(&mut line);
        write(self.file.as_ref(), priority, "node-init", &line.text());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Writes one record in another program's name.
pub fn write(file: Option<&File>, priority: u8, who: &str, text: &str) {
    let mut record = format!("<{priority}>{who}: {text}");
    let cut = (0..=MAX_RECORD.min(record.len())).rev().find(|&i| record.is_char_boundary(i)).unwrap_or(0);
    record.truncate(cut);
    // Nothing is left to tell it to when the kernel's log cannot be written.
    let _ = match file {
        Some(mut file) => file.write_all(record.as_bytes()),
        None => writeln!(std::io::stderr(), "{record}"),
    };
}

/// The kernel's log, to write to.
pub fn open() -> Option<File> {
    File::options().write(true).open(PATH).ok()
}

/// Message first, then the facts.
#[derive(Default)]
struct Line {
    message: String,
    facts: String,
}

impl Line {
    fn text(&self) -> String {
        format!("{}{}", self.message, self.facts)
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.facts, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_record_has_priority_name_and_facts_and_is_cut_at_a_character() {
        let mut file = tempfile::NamedTempFile::new().expect("file");
        let log = Log { file: Some(file.reopen().expect("opens")) };
        tracing::subscriber::with_default(
            log,
            || tracing::warn!(service = "router", exit = %"status 1", "Service ended"),
        );
        let mut text = String::new();
        file.read_to_string(&mut text).expect("reads");
        assert_eq!(text, "<4>node-init: Service ended service=router exit=status 1");
        let file = tempfile::NamedTempFile::new().expect("file");
        write(Some(file.as_file()), 6, "x", &"ä".repeat(600));
        let written = std::fs::read_to_string(file.path()).expect("whole characters");
        assert!(written.len() <= MAX_RECORD && written.len() > MAX_RECORD - 2);
    }
}
