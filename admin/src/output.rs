//! What `qa` prints. A reader that went away (`qa vm list | head`) is no error.

use crate::args::SyntaxError;
use model::api::Done;
use std::{
    io::{self, BufRead, IsTerminal, Write},
    process::ExitCode,
};

/// Prints text to standard output.
pub fn say(text: &str) {
    let mut out = io::stdout().lock();
    // Only a closed pipe can fail here, and nobody is left to be told.
    let _closed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints a line to standard error.
pub fn complain(line: &str) {
    let _closed = writeln!(io::stderr(), "{line}");
}

/// Reports a command line that cannot be read, with the help of its command.
pub fn syntax_error(error: &SyntaxError, help: Option<&str>, quiet: bool) -> ExitCode {
    if !quiet {
        complain(&format!("Syntax error: {error}"));
    }
    say(help.unwrap_or("Usage: qa [options] <object> <command> [arguments]; qa --help lists them\n"));
    ExitCode::FAILURE
}

/// Asks a yes-or-no question on the terminal; anything but yes, and no terminal, is no.
pub fn confirm(question: &str) -> bool {
    if !io::stdin().is_terminal() {
        complain(&format!("{question} Not done: without a terminal to ask on, give a filter or --force."));
        return false;
    }
    complain(&format!("{question} [y/N] "));
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.is_ok() && answer.trim_start().to_ascii_lowercase().starts_with('y')
}

/// Prints what a command on many objects did: its count, and each object that it failed on.
pub fn done(done: &Done, sentence: &str, quiet: bool) -> ExitCode {
    if !quiet {
        say(&format!("{}\n", sentence.replacen("{}", &done.done.to_string(), 1)));
    }
    for failed in &done.failed {
        complain(&format!("Error: {} (id {}): {}", failed.name, failed.id, failed.reason));
    }
    if done.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A length of time as HH:MM:SS.
pub fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// `yes` or `no`.
pub fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}
