//! Log lines to standard error: the guest's console, or the journal of its init.
//!
//! A subscriber of our own: the agent runs in every guest, and the usual one would be half of its size.

use std::{fmt::Write as _, io::Write as _};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

/// Sends all events of level info and above to standard error.
pub fn init() {
    // A second call, as by tests, keeps the first subscriber.
    let _first_wins = tracing::subscriber::set_global_default(Console);
}

struct Console;

impl Subscriber for Console {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }
    fn event(&self, event: &Event<'_>) {
        let mut line = Line { message: String::new(), facts: String::new() };
        event.record(&mut line);
        let level = event.metadata().level();
        // Where to tell that the console is gone?
        let _unheard = writeln!(std::io::stderr(), "vma: {level} {}{}", line.message, line.facts);
    }
    // No spans are used.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Line {
    message: String,
    facts: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String does not fail.
        let _written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.facts, " {name}={value:?}"),
        };
    }
}
